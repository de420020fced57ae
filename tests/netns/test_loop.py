"""The loop: what is ready is handled, timers run, and one handler's mistake is not the end of the others."""

from __future__ import annotations

import os
import select
import socket

import pytest

from netns.loop import Loop


class Listener:
    """Hears notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


class Owner:
    """Has a handler that does not work."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.over = False

    def on_io(self, mask: int) -> None:
        raise KeyError("unforeseen")

    def failed(self) -> None:
        self.over = True


@pytest.fixture
def loop() -> Loop:
    loop = Loop()
    loop.control = Listener()
    return loop


def test_a_handler_that_raises_ends_its_owner_only(loop: Loop) -> None:
    first, other = socket.socketpair()
    second, another = socket.socketpair()
    with first, other, second, another:
        owner = Owner(loop)
        heard: list[bytes] = []
        loop.watch(first, select.EPOLLIN, owner.on_io)
        loop.watch(second, select.EPOLLIN, lambda mask: (heard.append(second.recv(10)), loop.stop()))
        other.send(b"x")
        loop._turn()
        assert owner.over
        another.send(b"y")
        loop.run()
        assert heard == [b"y"]
        (note,) = loop.control.notes  # type: ignore[union-attr]
        assert "KeyError in test_loop.py" in note and "unforeseen" in note
        assert not loop._epoll.poll(0)  # although `first` still has something to read
    loop.close()


def test_a_timer_that_raises_does_not_stop_the_next(loop: Loop) -> None:
    def raises() -> None:
        raise ValueError("unforeseen")

    ran: list[int] = []
    loop.call_later(0.0, raises)
    loop.call_later(0.0, lambda: ran.append(1))
    loop.call_later(0.0, lambda: ran.append(2)).cancel()
    loop.call_later(0.001, loop.stop)
    loop.run()
    assert ran == [1]
    loop.close()


def test_what_epoll_said_of_a_closed_descriptor_is_not_said_of_its_successor(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[str] = []

    def replace(closes: socket.socket) -> None:
        called.append("first")
        number = closes.fileno()
        loop.discard(closes)
        read, write = os.pipe()
        os.dup2(read, number)
        loop.watch_fd(number, select.EPOLLIN, lambda mask: called.append("successor"))
        for fd in (read, write):
            os.close(fd)

    ours = [pair[0] for pair in pairs]
    numbers = [sock.fileno() for sock in ours]
    loop.watch(ours[0], select.EPOLLIN, lambda mask: replace(ours[1]))
    loop.watch(ours[1], select.EPOLLIN, lambda mask: replace(ours[0]))
    for _, theirs in pairs:
        theirs.send(b"x")
    loop._turn()
    assert called == ["first"]
    for sock in (*ours, *(theirs for _, theirs in pairs)):
        sock.close()
    for number in numbers:
        try:
            os.close(number)
        except OSError:
            continue
    loop.close()


def test_notes_are_said_once_and_bounded(loop: Loop) -> None:
    for number in range(200):
        loop.note("the same")
        loop.note(f"another {number}")
    notes = loop.control.notes  # type: ignore[union-attr]
    assert notes.count("the same") == 1 and len(notes) == 64
    loop.close()
