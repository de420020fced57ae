"""A session: the process that carries out one command for one client.

It takes over the client's directory, environment, limits and standard streams, runs the command line, and sends the
exit code. Outside of trio a signal of the client's raises KeyboardInterrupt; inside (`Session.run`) it goes to
`on_signal`, which cancels the whole command unless the command has asked for something else.
"""

from __future__ import annotations

import array
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
import termios
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn, TypeVar

from . import request
from .container import afterwards, children
from .container.caller import NO_DIRECTORY
from .errors import HostError, RcontainError, first_cause
from .request import Request
from .settings import Settings, from_environment

T = TypeVar("T")

_PRACTICE = 16  # times; enough for CPython to have specialised the code, see warm.practise
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FIRST_MESSAGE_LIMIT = 8 << 20  # bytes; the kernel's own limit for argv and environment is 2 MiB by default


class Session:
    """What a command knows of its client."""

    def __init__(self, connection: socket.socket, asked: Request) -> None:
        self.argv = [os.fsdecode(word) for word in asked.argv]
        self.cwd = os.fsdecode(asked.cwd) or NO_DIRECTORY
        self.umask = asked.umask
        self.environment: Mapping[str, str] = dict(os.environ)
        self.settings: Settings = from_environment(os.environ)
        self.on_signal: Callable[[int], None] | None = None
        self.on_window: Callable[[], None] | None = None
        self.on_hangup: Callable[[], None] | None = None
        self._connection: socket.socket | None = connection
        self._pending = b""
        self._interrupted = 0
        self._inside_trio = False

    def is_terminal(self, fd: int) -> bool:
        return os.isatty(fd)

    def use_terminal(self) -> None:
        """Announces that the terminal's settings will change; the client restores them, whatever happens to us."""
        self._send(request.TERMINAL + b"\0")

    def window_size(self, fd: int = 0) -> tuple[int, int]:
        """Rows and columns of the client's terminal."""
        rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
        return rows, columns

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """`trio.run`, cancelled when the client is interrupted or goes away. Raises KeyboardInterrupt then."""
        import trio

        self._listen_outside_trio(False)
        self._interrupted = 0
        self._inside_trio = True
        result: list[T] = []

        async def main() -> None:
            async with trio.open_nursery() as nursery:

                def cancel(number: int) -> None:
                    self._interrupted = number
                    nursery.cancel_scope.cancel()

                nursery.start_soon(self._watch_client, cancel)
                result.append(await function(*args))
                nursery.cancel_scope.cancel()

        try:
            trio.run(main)
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        finally:
            self._inside_trio = False
            self._listen_outside_trio(True)
        if not result:
            raise Interrupted(self._interrupted or signal.SIGINT)
        return result[0]

    def outside(self, *words: str) -> str:
        """Has the client run `fuse.layermount` with these words where the user sees what it mounts; returns its words.

        Raises HostError with the reason when it fails, Interrupted when the client goes away or was interrupted
        meanwhile: that is looked at in the end.
        """
        connection = self._connection
        if connection is None:
            raise Interrupted(signal.SIGHUP)
        self._listen_outside_trio(False)
        try:
            text = b"\0".join(map(os.fsencode, words))
            connection.sendall(request.OUTSIDE + b"\0" + len(text).to_bytes(4, "little") + text)
            status, answer, interrupted = self._await_done(connection)
        except OSError:
            raise Interrupted(signal.SIGHUP) from None
        finally:
            self._listen_outside_trio(True)
        if interrupted:
            raise Interrupted(interrupted)
        said = answer.decode(errors="replace")
        if status:
            raise HostError(said.splitlines()[-1] if said else f"the program outside ended with {status}")
        return said

    def _await_done(self, connection: socket.socket) -> tuple[int, bytes, int]:
        """Status and text of DONE, and the number of a signal that came before it, or 0."""
        interrupted = 0
        data, self._pending = self._pending, b""
        while True:
            data += _some(connection, 2 - len(data))
            kind, value = data[:1], data[1]
            if kind == request.DONE:
                length = int.from_bytes(_some(connection, 4), "little")
                return value, _some(connection, min(length, _FIRST_MESSAGE_LIMIT)), interrupted
            if kind == request.SIGNAL and value in _INTERRUPTS:
                interrupted = value
            data = b""

    def detach(self, code: int) -> None:
        """Lets the client go with this exit code; the session goes on without it and without its streams."""
        _flush()
        self._send(request.EXIT + bytes([code]))
        self.forget_client()

    def forget_client(self) -> None:
        """Leaves the client to itself, or to the process that this one was forked from."""
        self._close()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)

    def finish(self, code: int) -> NoReturn:
        """Sends the exit code and ends this process."""
        _flush()
        self._send(request.EXIT + bytes([code & 0xFF]))
        self.forget_client()  # who reads its output from a pipe waits for the end of everybody that could write
        children.kill_all()
        children.reap_all()
        afterwards.run()
        os._exit(0)

    async def _watch_client(self, cancel: Callable[[int], None]) -> None:
        import trio

        while self._connection is not None:
            fd = self._connection.fileno()
            try:
                await trio.lowlevel.wait_readable(fd)
            except trio.ClosedResourceError:
                return
            for kind, value in self._receive():
                if kind == request.SIGNAL:
                    (self.on_signal or cancel)(value)
                elif kind == request.WINDOW and self.on_window is not None:
                    self.on_window()
                elif not kind:
                    if self.on_hangup is None:
                        cancel(signal.SIGHUP)
                    else:
                        self.on_hangup()
                    return

    def _receive(self) -> list[tuple[bytes, int]]:
        """The messages that are there now; an empty kind stands for the client's end."""
        if self._connection is None:
            return []
        try:
            data = self._connection.recv(256, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            data = b""
        if not data:
            return [(b"", 0)]
        data = self._pending + data
        even = len(data) & ~1
        self._pending = data[even:]
        return [(data[at : at + 1], data[at + 1]) for at in range(0, even, 2)]

    def _listen_outside_trio(self, on: bool) -> None:
        """With `on`, a message from the client interrupts whatever synchronous code runs now (SIGIO, fcntl(2))."""
        if self._connection is None:
            return
        fd = self._connection.fileno()
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if on:
            signal.signal(signal.SIGIO, self._interrupt)
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC)
        else:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_ASYNC)
            signal.signal(signal.SIGIO, signal.SIG_IGN)

    def _interrupt(self, number: int, frame: object) -> None:
        for kind, value in self._receive():
            if kind == request.SIGNAL and value in _INTERRUPTS:
                raise Interrupted(value)
            if not kind:
                raise Interrupted(signal.SIGHUP)

    def _send(self, message: bytes) -> None:
        if self._connection is None:
            return
        try:
            self._connection.send(message, socket.MSG_NOSIGNAL)
        except OSError:
            self._close()  # the client has gone; nobody is waiting for the message

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._inside_trio:
                import trio

                trio.lowlevel.notify_closing(connection)
            connection.close()


class Interrupted(KeyboardInterrupt):
    """The client was interrupted by this signal, or went away."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(connection: socket.socket, *, enter: Callable[[], object] | None = None) -> NoReturn:
    """Serves one client and ends the process. `enter` makes the namespaces when no engine has done so."""
    try:
        asked = _receive_request(connection)
        connection.send(request.ACCEPTED + b"\0")
    except (OSError, ValueError):
        os._exit(1)  # not a client of this version, or it has gone already
    try:
        _adopt(asked)
        if enter is not None:
            enter()
        from .cli import main as command_line

        session = Session(connection, asked)
        session._listen_outside_trio(True)
        code = command_line.run(session.argv, session)
        session._listen_outside_trio(False)
    except Interrupted as interrupt:
        code = 128 + interrupt.number
        session._listen_outside_trio(False)
    except RcontainError as error:
        _finish_with_error(connection, str(error), error.exit_code)
    session.finish(code)


def refuse(connection: socket.socket, error: Exception) -> NoReturn:
    """Tells a client why nothing can be done for it, and ends the process."""
    try:
        asked = _receive_request(connection)
        connection.send(request.ACCEPTED + b"\0")
        _adopt(asked)
    except (OSError, ValueError):
        os._exit(1)  # it has gone already
    message = str(error) if isinstance(error, RcontainError) else f"the engine failed: {type(error).__name__}: {error}"
    _finish_with_error(connection, message, getattr(error, "exit_code", 125))


def preload() -> None:
    """Imports what sessions need, so that none of them has to."""
    from .cli import main as command_line
    from .cli import run
    from .container import warm

    command_line.preload()
    run.prepare()
    warm.up()
    for _ in range(_PRACTICE):
        touch()
        warm.practise()


def touch() -> None:
    """Goes through what every command goes through, so that its memory is this process's own before a client waits."""
    import trio

    from .cli import main as command_line

    command_line.rehearse()
    trio.run(_rehearse_loop)


async def _rehearse_loop() -> None:
    import trio

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, ours)


def _some(connection: socket.socket, size: int) -> bytes:
    """So many bytes. Raises ConnectionResetError when the client has gone before."""
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError
        data += chunk
    return data


def _finish_with_error(connection: socket.socket, message: str, code: int) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    _flush()
    try:
        connection.send(request.EXIT + bytes([code]))
    finally:
        os._exit(0)


def _receive_request(connection: socket.socket) -> Request:
    """Raises ValueError when what arrives is not a request, OSError when the client leaves in the middle of it."""
    descriptors = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(
        65536, socket.CMSG_SPACE(16 * descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    chunks = [data]
    have = len(data)
    need = 4 + int.from_bytes(data[:4], "little")
    if not data or need > _FIRST_MESSAGE_LIMIT:
        raise ValueError("not a request")
    while have < need:
        chunk = connection.recv(min(need - have, 1 << 20))
        if not chunk:
            raise ValueError("the request is cut short")
        chunks.append(chunk)
        have += len(chunk)
    return Request.parse(b"".join(chunks)[4:need], list(descriptors))


def _adopt(asked: Request) -> None:
    """Makes this process look like the client's: streams, directory, environment, umask, limits, niceness."""
    for target, fd in enumerate(asked.fds[:3]):
        os.dup2(fd, target)
        os.close(fd)
    _renew_streams()
    try:
        os.chdir(asked.cwd or "/")
    except OSError:
        os.fchdir(asked.fds[3])  # a directory that only the caller's mount namespace shows
    os.close(asked.fds[3])
    keep = {name: os.environ[name] for name in ("RCONTAIN_UID", "RCONTAIN_SINGLE_ID") if name in os.environ}
    os.environ.clear()
    for field in asked.environment:
        name, separator, value = field.partition(b"=")
        if separator and name:
            os.environb[name] = value
    os.environ.update(keep)
    os.umask(0o022)  # what is made here is the container's; the client's own umask is Session.umask
    for number, pair in enumerate(asked.limits):
        if resource.getrlimit(number) != pair:
            try:
                resource.setrlimit(number, pair)
            except (OSError, ValueError):
                continue  # a hard limit above the engine's own; it keeps the engine's, which is lower
    if asked.nice > 0:
        os.setpriority(os.PRIO_PROCESS, 0, asked.nice)


def _renew_streams() -> None:
    """Streams over the new descriptors; the process ends with them, so nothing closes them."""
    line_by_line = 1 if os.isatty(1) else -1
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = os.fdopen(1, "w", line_by_line, "utf-8", "surrogateescape", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # the reader has gone, as in `rcontain ps | head -1`
