"""Output to everybody, input from one, the detach keys."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from rootless.container.streams import DETACH_KEYS, Attachment, Streams, _look_for_detach


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (b"", b"", False)),
        (b"abc", (b"abc", b"", False)),
        (b"\x10", (b"", b"\x10", False)),
        (b"ab\x10", (b"ab", b"\x10", False)),
        (b"\x10\x11", (b"", b"", True)),
        (b"ab\x10\x11cd", (b"ab", b"", True)),
        (b"\x10\x10\x11", (b"\x10", b"", True)),
        (b"\x11\x10", (b"\x11", b"\x10", False)),
        (b"\x10a\x11", (b"\x10a\x11", b"", False)),
    ],
)
def test_detach_keys(data: bytes, expected: tuple[bytes, bytes, bool]) -> None:
    assert _look_for_detach(data) == expected


@given(st.lists(st.binary(max_size=4) | st.sampled_from([b"\x10", b"\x11"]), max_size=12))
def test_keys_are_found_however_they_are_cut(chunks: list[bytes]) -> None:
    """What is passed on is what was typed before the keys."""
    typed, passed, held, left = b"".join(chunks), b"", b"", False
    for chunk in chunks:
        data, held, left = _look_for_detach(held + chunk)
        passed += data
        if left:
            break
    before, keys, _ = typed.partition(DETACH_KEYS)
    assert left == bool(keys)
    assert passed == before if left else passed + held == typed


class Person:
    """Three pipes: what is typed, and what is seen."""

    def __init__(self, **options: object) -> None:
        self.stdin, self.keyboard = os.pipe()
        self.screen, self.stdout = os.pipe()
        self.errors, self.stderr = os.pipe()
        fds = (self.stdin, self.stdout, self.stderr)
        self.attachment = Attachment(fds, **{"reads": True, "terminal": False, **options})  # type: ignore[arg-type]

    def close(self) -> None:
        self.attachment.close()
        for fd in (self.stdin, self.keyboard, self.screen, self.stdout, self.errors, self.stderr):
            if fd >= 0:
                os.close(fd)


async def converse(streams: Streams, person: Person, *, child: Callable[[tuple[int, int, int]], None]) -> None:
    """Lets the child's side do its part in a thread, and carries everything until the output ends."""
    assert streams.child is not None
    fds = streams.child
    streams.child = None

    def act() -> None:
        try:
            child(fds)
        finally:
            for fd in fds:
                os.close(fd)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.carry_input, person.attachment)
            nursery.start_soon(trio.to_thread.run_sync, act)
            await streams.run()
            nursery.cancel_scope.cancel()


async def test_input_arrives_and_ends_and_both_outputs_are_apart() -> None:
    streams, person = Streams(terminal=False, open_stdin=True, log=None), Person()
    streams.attach(person.attachment)
    got = []

    def child(fds: tuple[int, int, int]) -> None:
        with os.fdopen(os.dup(fds[0]), "rb") as source:
            got.append(source.read())
        os.write(fds[1], b"out")
        os.write(fds[2], b"err")

    os.write(person.keyboard, b"typed")
    os.close(person.keyboard)
    person.keyboard = -1
    await converse(streams, person, child=child)
    assert (got, os.read(person.screen, 10), os.read(person.errors, 10)) == ([b"typed"], b"out", b"err")
    streams.close()
    person.close()


async def test_a_reader_that_has_gone_breaks_the_containers_pipe() -> None:
    streams, person = Streams(terminal=False, open_stdin=False, log=None), Person()
    streams.attach(person.attachment)
    os.close(person.screen)
    person.screen = -1
    broken = []

    def child(fds: tuple[int, int, int]) -> None:
        try:
            for _ in range(200):
                os.write(fds[1], bytes(60_000))
        except BrokenPipeError:
            broken.append(True)

    await converse(streams, person, child=child)
    assert broken == [True]
    streams.close()
    person.close()


async def test_without_input_there_is_its_end() -> None:
    streams, person = Streams(terminal=False, open_stdin=False, log=None), Person()
    got = []
    await converse(streams, person, child=lambda fds: got.append(os.read(fds[0], 10)))
    assert got == [b""]
    streams.close()
    person.close()


async def test_typing_the_detach_keys_leaves() -> None:
    left: list[bool] = []
    streams = Streams(terminal=False, open_stdin=True, log=None)
    person = Person(terminal=True, on_detach=lambda: left.append(True))
    streams.attach(person.attachment)
    os.write(person.keyboard, b"x\x10")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.carry_input, person.attachment)
            await trio.testing.wait_all_tasks_blocked()
            os.write(person.keyboard, b"\x11y")
    assert left == [True] and streams.attachments == []
    assert streams.child is not None and os.read(streams.child[0], 10) == b"x"
    streams.close()
    person.close()
