"""The line to the process of a network, whose far end is this process."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import trio

from rootless.container import uplink
from rootless.container.children import Child
from rootless.errors import HostError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ""),
        (b"2026-11-24T00:00:00Z a note\n", ""),
        (b"a note\nrcontain net: ValueError: what\nanother\n", "rcontain net: ValueError: what"),
        (b"\xff" * 10000 + b"\nrcontain net: OSError: no", "rcontain net: OSError: no"),
    ],
)
def test_the_last_words_of_a_process(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "net.log").write_bytes(content)
    assert uplink.last_words(str(tmp_path / "net.log")) == words
    assert uplink.last_words(str(tmp_path / "absent")) == ""


class Line:
    """A server of a network whose process is this one: `far` is its end of the line."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ready, self.ready = os.pipe()
        self.server = uplink.Uplink(cast(Child, None), near, ready)
        self.notes: list[str] = []
        self.domains: list[Sequence[str]] = []
        self.answers: list[tuple[bytes, str]] = []

    def answer(self, fd: int | None, error: str) -> None:
        self.answers.append((b"" if fd is None else os.pread(fd, 100, 0), error))

    def say(self, data: bytes, *content: bytes) -> None:
        fds = [os.memfd_create("flows") for _ in content]
        for fd, text in zip(fds, content, strict=True):
            os.write(fd, text)
        socket.send_fds(self.far, [data], fds)
        for fd in fds:
            os.close(fd)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.server.close()
    made.far.close()
    os.close(made.ready)


async def attach(line: Line) -> None:
    os.write(line.ready, b"1")
    null = os.open("/dev/null", os.O_RDONLY)
    await line.server.attach(null)
    os.close(null)
    _, fds, _, _ = socket.recv_fds(line.far, 10, 1)
    os.close(fds[0])


async def test_what_the_process_says_is_heard_until_it_dies(line: Line) -> None:
    await attach(line)
    for _ in range(3):
        line.server.ask_flows(line.answer)
    assert [line.far.recv(100) for _ in range(3)] == [b'{"ask": "flows"}'] * 3
    line.say(b'{"flows": "memfd"}', b"first")
    line.say(b'{"note": "something is odd"}')
    for data in (b"not json", b"[]", b'{"note": 7}', b"\xff"):
        line.say(data, b"unasked")
    line.say(b'{"search": ["a.example", "b"]}')
    line.say(b'{"search": []}')
    line.say(b'{"search": 7}')
    line.say(b'{"error": "no room"}')
    line.far.close()
    with trio.fail_after(10):
        await line.server.attend(line.notes.append, line.domains.append)
    assert line.notes == ["something is odd"]
    assert line.domains == [("a.example", "b"), ()]
    assert line.answers == [
        (b"first", "the network did not answer"),
        (b"", "no room"),
        (b"", uplink.DIED),
    ]
    line.server.ask_flows(line.answer)
    assert line.answers[-1] == (b"", uplink.DIED)


async def test_a_process_that_dies_early(line: Line) -> None:
    line.far.close()
    os.close(line.ready)
    line.ready = os.dup(0)
    null = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(HostError, match="its process has died"):
        await line.server.attach(null)
    os.close(null)
    await line.server.attend(line.notes.append, line.domains.append)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        (["[]"], 1),
        (["[1]", "[2]", "[3]", "[3]", "[4]"], 4),
        (["[1]", "[]"], 2),
        (["not json"], 1),
    ],
)
async def test_the_last_bytes_of_a_container_arrive(line: Line, answers: list[str], asked: int) -> None:
    """It is asked again for as long as bytes move."""
    await attach(line)
    said = 0

    async def answer() -> None:
        nonlocal said
        line.far.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(line.far)
            line.far.recv(100)
            counts = re.findall("[0-9]+", answers[min(said, len(answers) - 1)])
            flow = '{"container": "a", "far": "b", "received": 0, "sent": %s, "state": "established"}'
            flows = ",".join(flow % count for count in counts)
            text = f'{{"flows": [{flows}]}}' if answers != ["not json"] else "not json"
            said += 1
            line.say(b'{"flows": "memfd"}', text.encode())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.server.attend, line.notes.append, line.domains.append)
            nursery.start_soon(answer)
            await line.server.settled()
            nursery.cancel_scope.cancel()
    assert said == asked
