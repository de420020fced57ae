"""A session's requests: what is one, and what is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from rootless import session
from rootless.errors import HostError
from rootless.request import DONE, LIMITS, OUTSIDE, SIGNAL, WINDOW, Request


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        theirs.settimeout(10)
        yield ours, theirs


def request(environment: list[bytes]) -> bytes:
    return Request([b"ps"], b"/", environment, 0o22, 0, [(1, 2)] * LIMITS, []).to_bytes()


def test_a_request_in_pieces(pair: tuple[socket.socket, socket.socket]) -> None:
    """The descriptors come with the first one."""
    data = request([b"A=" + b"x" * 200_000])
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    socket.send_fds(pair[0], [data[:50_000]], fds)
    for fd in fds:
        os.close(fd)
    child = os.fork()
    if child == 0:
        pair[0].sendall(data[50_000:])
        os._exit(0)
    got = session._receive_request(pair[1])
    os.waitpid(child, 0)
    assert got.argv == [b"ps"] and len(got.environment[0]) == 200_002 and len(got.fds) == 4
    for fd in got.fds:
        os.close(fd)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff\xff\xff\xff", b"\5\0\0\0hello", b"\0\0\0\x7f" + b"x" * 100, b"\20\0\0\0cut"]
)
def test_what_is_no_request(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    pair[0].sendall(data)
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(ValueError, match="request"):
        session._receive_request(pair[1])


def test_a_request_without_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(request([]))
    with pytest.raises(ValueError, match="request"):
        session._receive_request(pair[1])


def text(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


@pytest.fixture
def asking(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> session.Session:
    """A session at the second socket that nothing interrupts."""
    monkeypatch.setattr(session.Session, "_listen_outside_trio", lambda self, on: None)
    return session.Session(pair[1], Request([b"ps"], b"/", [], 0o22, 0, [(1, 2)] * LIMITS, []))


def test_the_client_works_outside(pair: tuple[socket.socket, socket.socket], asking: session.Session) -> None:
    """Messages on the way change nothing, and an answer may come in pieces."""
    pair[0].sendall(WINDOW + b"\0" + DONE + b"\0" + text(b"mounted"))
    assert asking.outside("a b", "c\udcff") == "mounted"
    assert pair[0].recv(100) == OUTSIDE + b"\0" + text(b"a b\0c\xff")


@pytest.mark.parametrize(
    ("said", "reason"), [(b"first\nno fusermount3", "no fusermount3"), (b"", "the program outside ended with 3")]
)
def test_it_fails_outside(
    pair: tuple[socket.socket, socket.socket], asking: session.Session, said: bytes, reason: str
) -> None:
    pair[0].sendall(DONE + b"\3" + text(said))
    with pytest.raises(HostError, match=reason):
        asking.outside("a")


def test_interrupted_outside(pair: tuple[socket.socket, socket.socket], asking: session.Session) -> None:
    """What has been done is waited for first."""
    pair[0].sendall(SIGNAL + bytes([2]) + DONE + b"\0" + text(b""))
    with pytest.raises(session.Interrupted) as caught:
        asking.outside("a")
    assert caught.value.number == 2
    pair[0].close()
    with pytest.raises(session.Interrupted):
        asking.outside("a")
