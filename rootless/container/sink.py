"""Writing to somebody else's descriptor without ever blocking the process.

The descriptor is shared with the client's shell, so O_NONBLOCK must not be set on it. A pipe or a terminal is opened a
second time through /proc/self/fd, which makes an open file description of our own; a socket is written with
MSG_DONTWAIT; a regular file does not block.
"""

from __future__ import annotations

import os
import socket
import stat

import trio


class Sink:
    """Somewhere that output goes. Does not own `fd`, only what it opened itself."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._own: int | None = None
        self._socket: socket.socket | None = None
        self._waits = False
        kind = os.fstat(fd).st_mode
        if stat.S_ISSOCK(kind):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
            self._waits = True
            try:
                self._own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                self._own = None  # another user's terminal, as after su(1): written in portions that cannot block

    def __repr__(self) -> str:
        return f"<Sink {self.fd}>"

    async def write(self, data: bytes | memoryview) -> None:
        """Writes all of it. Raises OSError when the other end has gone."""
        view = memoryview(data)
        while view:
            try:
                count = self._write_some(view)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket if self._socket is not None else self._target())
                continue
            view = view[count:]
            if view and self._waits and self._own is None:
                await trio.lowlevel.wait_writable(self.fd)

    def _write_some(self, view: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._waits and self._own is None:
            return os.write(self.fd, view[:4096])  # PIPE_BUF: what a writable pipe is sure to take, pipe(7)
        return os.write(self._target(), view)

    def _target(self) -> int:
        return self.fd if self._own is None else self._own

    def close(self) -> None:
        if self._own is not None:
            os.close(self._own)
            self._own = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def read_some(fd: int, size: int = 65536) -> bytes:
    """Reads from a descriptor of any kind once something is there; b"" at its end (for a terminal's master: EIO)."""
    try:
        await trio.lowlevel.wait_readable(fd)
    except PermissionError:
        await trio.lowlevel.checkpoint()  # epoll_ctl(2): a regular file or directory, always readable
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return await read_some(fd, size)
    except OSError:
        return b""
