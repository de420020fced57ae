"""One direction of a connection that is spliced, and the pipes that such directions borrow.

Little messages are received and sent, which is cheaper than to splice them; a pipe is taken when reads fill the buffer.
What the receiver does not take stays in the pipe or in the buffer, and then no more is read.
"""

from __future__ import annotations

import fcntl
import functools
import os
import socket

COPY = 65536  # bytes of a read that is not spliced
_PIPE = 1 << 20  # bytes that a pipe holds, if the user may have it so large
_SEND_BUFFER = 4 << 20  # bytes; the kernel's own limit for a TCP socket without SO_SNDBUF (tcp(7), tcp_wmem)
_LITTLE = 16384  # a splice that brings less gives the pipe back
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_MAX_PIPES = 8  # that are kept for the next
_F_SETPIPE_SZ = 1031  # fcntl(2)


class Pipes:
    """Pipes that are empty, kept for whoever needs one next, and `send_buffer`, the bytes of a socket's that go with
    them; 0 where the host allows so few that the kernel's own choice is better."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, int]] = []

    @functools.cached_property
    def send_buffer(self) -> int:
        try:
            with open("/proc/sys/net/core/wmem_max", encoding="ascii") as file:
                return _SEND_BUFFER if int(file.read()) >= _SEND_BUFFER else 0
        except (OSError, ValueError):
            return 0

    def take(self) -> tuple[int, int] | None:
        """The ends to read from and to write to; None where there are no descriptors for them."""
        if self._idle:
            return self._idle.pop()
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # the user's pipes hold as much as they may (pipe(7), pipe-user-pages-soft): it stays small
        return pipe

    def give(self, pipe: tuple[int, int], *, empty: bool) -> None:
        """Back, from whoever took it."""
        if empty and len(self._idle) < _MAX_PIPES:
            self._idle.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])

    def close(self) -> None:
        while self._idle:
            for fd in self._idle.pop():
                os.close(fd)


class Way:
    """One direction: from `source` to `sink`, and what is between them, in `pipe` (`held` bytes) or in `copied`."""

    __slots__ = ("_pipes", "copied", "count", "ended", "held", "pipe", "shut", "sink", "source", "wide")

    def __init__(self, pipes: Pipes, source: socket.socket, sink: socket.socket) -> None:
        self._pipes = pipes
        self.source = source
        self.sink = sink
        self.pipe: tuple[int, int] | None = None
        self.held = 0
        self.copied = b""
        self.count = 0
        self.ended = False
        self.shut = False
        self.wide = False

    @property
    def waits(self) -> bool:
        """There are bytes for the sink."""
        return bool(self.held or self.copied)

    def read(self, buffer: memoryview) -> bool:
        """Move what the source has, once; True where that changes nothing else. Raises OSError, of either end."""
        if self.pipe is not None:
            return self._splice(self.pipe)
        try:
            size = self.source.recv_into(buffer)
        except BlockingIOError:
            return True
        if not size:
            self.ended = True
            return False
        try:
            sent = self.sink.send(buffer[:size])
        except BlockingIOError:
            sent = 0
        self.count += sent
        if size == COPY:
            self.pipe = self._pipes.take()
            self._widen()
        if sent < size:
            self.copied = bytes(buffer[sent:size])
            return False
        return True

    def _splice(self, pipe: tuple[int, int]) -> bool:
        try:
            size = os.splice(self.source.fileno(), pipe[1], _PIPE, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return True
        if not size:
            self.ended = True
            return False
        self.held = size
        self.write()
        if size < _LITTLE:
            self.release()
        return not self.held

    def _widen(self) -> None:
        """Much is coming: let the sink take much at a time, where that is more than the kernel would come to itself."""
        if not self.wide and self._pipes.send_buffer:
            self.wide = True
            self.sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._pipes.send_buffer)

    def write(self) -> None:
        """Give the sink what waits for it. Raises OSError."""
        try:
            if self.copied:  # came before what is in the pipe
                sent = self.sink.send(self.copied)
                self.count += sent
                self.copied = self.copied[sent:]
            if self.held and not self.copied and self.pipe is not None:
                sent = os.splice(self.pipe[0], self.sink.fileno(), self.held, flags=_SPLICE_FLAGS)
                self.count += sent
                self.held -= sent
        except BlockingIOError:
            return  # the loop says when there is room

    def release(self, *, over: bool = False) -> None:
        """Give the pipe back, unless it is still needed."""
        if self.pipe is not None and (over or not self.held):
            self._pipes.give(self.pipe, empty=not self.held)
            self.pipe = None
