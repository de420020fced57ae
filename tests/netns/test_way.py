"""One direction of a spliced connection: what goes by copies, what by pipes, and what waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from netns.way import COPY, Pipes, Way

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    pipes = Pipes()
    yield pipes
    pipes.close()


class Line:
    """A way with both of its ends: what `near` sends, `far` receives."""

    def __init__(self, pipes: Pipes) -> None:
        self.near, source = _connected()
        sink, self.far = _connected()
        self.ends = (self.near, source, sink, self.far)
        for sock in (source, sink, self.far):
            sock.setblocking(False)
        self.buffer = memoryview(bytearray(COPY))
        self.way = Way(pipes, source, sink)

    def read(self) -> bool:
        return self.way.read(self.buffer)

    def fill(self) -> None:
        """Let nothing more fit into the sink."""
        with pytest.raises(BlockingIOError):
            while True:
                self.way.sink.send(bytes(1 << 16))

    def drain(self) -> bytes:
        """What has come out."""
        result = bytearray()
        try:
            while piece := self.far.recv(1 << 18):
                result += piece
        except BlockingIOError:
            pass
        return bytes(result)

    def close(self) -> None:
        self.way.release(over=True)
        for sock in self.ends:
            sock.close()


def _connected() -> Ends:
    with socket.create_server(("127.0.0.1", 0)) as server:
        first = socket.create_connection(server.getsockname())
        second, _ = server.accept()
    return first, second


@pytest.fixture
def line(pipes: Pipes) -> Iterator[Line]:
    line = Line(pipes)
    yield line
    line.close()


def test_a_little_message_takes_no_pipe(line: Line) -> None:
    line.near.send(b"hello")
    assert line.read()
    assert line.far.recv(100) == b"hello"
    assert (line.way.pipe, line.way.waits, line.way.count) == (None, False, 5)


def test_nothing_to_read_changes_nothing(line: Line) -> None:
    assert line.read()
    assert not line.way.ended and not line.way.waits


def test_a_full_read_goes_over_to_a_pipe_and_a_little_one_back(line: Line, pipes: Pipes) -> None:
    data = os.urandom(3 * COPY)
    line.near.sendall(data)
    assert line.read()
    pipe = line.way.pipe
    assert pipe is not None
    received = line.drain()
    while len(received) < len(data):
        line.read()
        received += line.drain()
    assert received == data
    line.near.send(b"end")
    line.read()
    assert line.drain() == b"end"
    assert line.way.pipe is None and pipes.take() == pipe
    pipes.give(pipe, empty=True)
    assert line.way.count == len(data) + 3


def test_what_the_sink_does_not_take_waits_and_comes_first(line: Line) -> None:
    line.fill()
    line.near.send(b"first")
    assert not line.read()
    assert line.way.waits and line.way.copied == b"first"
    line.way.write()
    assert line.way.waits  # still no room
    while line.way.waits:
        last = line.drain()
        line.way.write()
    line.near.send(b"second")
    assert line.read()
    assert (last + line.drain()).endswith(b"firstsecond")


def test_a_pipe_with_bytes_in_it_is_kept_until_they_are_gone(line: Line) -> None:
    line.near.sendall(bytes(COPY))
    line.read()
    line.drain()
    line.fill()
    line.near.send(b"held")
    assert line.way.pipe is not None and not line.read()
    assert line.way.held == 4
    line.way.release()
    assert line.way.pipe is not None
    received = b""
    while line.way.waits:
        received = line.drain()
        line.way.write()
    assert (received + line.drain()).endswith(b"held")
    line.way.release()
    assert line.way.pipe is None


@pytest.mark.parametrize("spliced", [False, True])
def test_the_end_of_the_source_ends_the_way(line: Line, spliced: bool) -> None:
    if spliced:
        line.near.sendall(bytes(COPY))
        line.read()
        line.drain()
        assert line.way.pipe is not None
    line.near.shutdown(socket.SHUT_WR)
    assert not line.read()
    assert line.way.ended and not line.way.shut


def test_a_reset_of_either_end_is_an_error(pipes: Pipes) -> None:
    for reset in ("near", "far"):
        line = Line(pipes)
        sock: socket.socket = getattr(line, reset)
        if reset == "far":
            line.near.send(b"x")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        with pytest.raises(ConnectionError):
            line.read()
        line.close()


def test_without_descriptors_bytes_go_by_copies(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", none_left)
    data = os.urandom(4 * COPY)
    line.near.sendall(data)
    received = b""
    while len(received) < len(data):
        line.read()
        received += line.drain()
        assert line.way.pipe is None
    assert received == data


def test_a_pipe_that_is_not_empty_is_not_lent_again(pipes: Pipes) -> None:
    pipe = pipes.take()
    assert pipe is not None
    os.write(pipe[1], b"x")
    pipes.give(pipe, empty=False)
    for fd in pipe:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
