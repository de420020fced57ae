"""The client: hands the command line to the engine, forwards signals, leaves with the exit code.

It must start in the time that the interpreter itself needs, so it imports built-in modules only (`_socket` and
`_signal`, not `socket` and `signal`, which import enum and half the library behind it).

    connect to the engine of this user and host context
      none there: start one, with our first connection already in its hands
      none can be started: do the same work in a process of our own (--no-engine)
    send the request; wait for messages until EXIT
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys

from . import __version__
from .request import ACCEPTED, DONE, EXIT, LIMITS, OUTSIDE, RETRY, SIGNAL, TERMINAL, WINDOW, Request

# Until our own handlers are there an interrupt just ends us, without a traceback. Also where it is ignored, as in the
# background of a script: as with Podman's and Docker's clients, `kill -INT` of `rcontain run` reaches the container.
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

NAMESPACES = ("mnt", "net", "pid", "user", "ipc", "uts")
_FORWARDED = (
    _signal.SIGHUP,
    _signal.SIGINT,
    _signal.SIGQUIT,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
    _signal.SIGALRM,
    _signal.SIGTERM,
)


def main() -> NoReturn:
    """The command `rcontain`. Leaves without the interpreter's farewell: that takes a millisecond, for nothing."""
    try:
        code = _run()
        if sys.stdout is not None:  # None when we were started without one
            sys.stdout.flush()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 125
    os._exit(code)


def _run() -> int:
    argv = [os.fsencode(word) for word in sys.argv[1:]]
    alone = argv[:1] == [b"--no-engine"] or os.environ.get("RCONTAIN_NO_ENGINE") == "1"
    if argv[:1] == [b"--no-engine"]:
        del argv[0]
    if not alone and argv[:1] == [b"engine"] and argv[1:] in ([b"stop"], [b"status"]):
        connection = _connect()
        if connection is None:
            print("No engine is running.")
            return 0
        connection.close()
    _open_standard_streams()
    for _ in range(50):
        connection = _start_process(once=True) if alone else _connect() or _start_process(once=False)
        code = _converse(connection, argv)
        if code is not None:
            return code
    return _complain("the engine does not answer", "try: rcontain --no-engine …")


def engine_name() -> str:
    """The file name, without suffix, of the engine of this user and host context.

    The context is everything that a container started through the engine would inherit from it: boot, namespaces,
    cgroup, hard limits (a session cannot raise them); and the version of the code, so that an upgrade never talks to
    an old engine.
    """
    from _blake2 import blake2s

    context = blake2s(digest_size=8)
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/cgroup"):
        try:
            with open(path, "rb", buffering=0) as file:
                context.update(file.read())
        except OSError:
            context.update(b"?")  # no /proc: one context, then
    for kind in NAMESPACES:
        try:
            context.update(os.readlink(f"/proc/self/ns/{kind}").encode())
        except OSError:
            context.update(b"?")
    context.update(b" ".join(b"%d" % hard for _, hard in _limits()))
    version = blake2s(__version__.encode(), digest_size=6)
    here = os.path.dirname(__file__)
    for directory in (here, f"{here}/cli", f"{here}/container", f"{here}/image", f"{here}/runtime", f"{here}/oci"):
        status = os.stat(directory)
        version.update(b"%d %d %d" % (status.st_dev, status.st_ino, status.st_mtime_ns))
    return f"engine-{context.hexdigest()}-{version.hexdigest()}"


def runtime_directory() -> str:
    """As settings.runtime_directory, without making or checking it; the peer's uid is checked after connecting."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/") and os.access(base, os.W_OK | os.X_OK):
        return f"{base}/rcontain"
    return f"/tmp/rcontain-{os.getuid()}"


def _connect() -> _socket.socket | None:
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        # By way of a descriptor: a socket's address has 108 bytes, unix(7), and the directory's name may be long.
        directory = os.open(runtime_directory(), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{engine_name()}.sock")
        finally:
            os.close(directory)
    except OSError:
        connection.close()
        return None
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    if int.from_bytes(credentials[4:8], sys.byteorder) != os.getuid():
        connection.close()
        raise SystemExit(_complain(f"the engine's socket in {runtime_directory()} belongs to somebody else", ""))
    return connection


def _start_process(*, once: bool) -> _socket.socket:
    """Starts an engine, or a process for this one command, and returns the connection that it begins with."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    program = f"import sys; sys.path.insert(0, {home!r}); from rootless.engine import main; main()"
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                os.set_inheritable(theirs.fileno(), True)
                words = [sys.executable, "-I", "-c", program, str(theirs.fileno()), "once" if once else "serve"]
                os.execv(sys.executable, words)
        finally:
            os._exit(0)
    theirs.close()
    os.waitpid(child, 0)
    return ours


def _converse(connection: _socket.socket, argv: list[bytes]) -> int | None:
    """Sends the command and waits for its end. None when it was certainly not begun and should be sent again."""
    saved = _terminal_settings()
    wait = _Wait(connection)
    previous = _forward_signals(connection, had_terminal=saved is not None)
    took_terminal = False
    accepted = False
    try:
        try:
            _send_request(connection, argv)
        except (BrokenPipeError, ConnectionResetError):
            return None
        while True:
            wait.until_readable()
            try:
                message = connection.recv(2)
                if len(message) == 1:
                    message += connection.recv(1)
            except ConnectionResetError:
                message = b""
            kind = message[:1]
            if kind == EXIT:
                return message[1]
            if kind == ACCEPTED:
                accepted = True
            elif kind == TERMINAL:
                took_terminal = True
            elif kind == OUTSIDE:
                _work_outside(connection)
            elif kind == RETRY or (not kind and not accepted):
                _pause()
                return None
            elif not kind:
                return _complain("the process that looked after this command has died", "see: rcontain ps -a")
    finally:
        for number, handler in previous:
            _signal.signal(number, handler)
        wait.close()
        if took_terminal and saved is not None:
            _restore_terminal(saved)
        connection.close()


def _work_outside(connection: _socket.socket) -> None:
    """Does for the session what it cannot do in its namespaces, and tells it what came of it."""
    from . import outside

    length = int.from_bytes(_receive(connection, 4), "little")
    words = [os.fsdecode(word) for word in _receive(connection, length).split(b"\0")]
    status, text = outside.run(words)
    try:
        connection.sendall(DONE + bytes([status]) + len(text).to_bytes(4, "little") + text)
    except OSError:
        pass  # the session has died: the loop sees that too


def _receive(connection: _socket.socket, size: int) -> bytes:
    """Cut short where the session dies."""
    data = b""
    while len(data) < size and (chunk := connection.recv(size - len(data))):
        data += chunk
    return data


class _Wait:
    """Waits for a message, and runs signal handlers meanwhile.

    A signal that comes between the interpreter's last look and a blocking recv(2) would otherwise be handled after
    the next message; the wakeup descriptor makes poll(2) return at once instead.
    """

    def __init__(self, connection: _socket.socket) -> None:
        self._woken, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = _signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        self._connection = connection.fileno()

    def until_readable(self) -> None:
        while True:
            ready = {fd for fd, _ in self._poll.poll()}
            if self._woken in ready:
                os.read(self._woken, 4096)
            if self._connection in ready:
                return

    def close(self) -> None:
        _signal.set_wakeup_fd(self._before)
        os.close(self._wakeup)
        os.close(self._woken)


def _send_request(connection: _socket.socket, argv: list[bytes]) -> None:
    cwd = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        umask = os.umask(0)
        os.umask(umask)
        request = Request(
            argv,
            _working_directory(),
            [name + b"=" + value for name, value in os.environb.items()],
            umask,
            os.getpriority(os.PRIO_PROCESS, 0),
            _limits(),
            [0, 1, 2, cwd],
        )
        descriptors = b"".join(fd.to_bytes(4, sys.byteorder) for fd in request.fds)
        data = request.to_bytes()
        sent = connection.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
        if sent < len(data):
            connection.sendall(data[sent:])
    finally:
        os.close(cwd)


def _limits() -> list[tuple[int, int]]:
    """Soft and hard, by number."""
    import resource

    return [resource.getrlimit(number) for number in range(LIMITS)]


def _working_directory() -> bytes:
    """Empty when it has been deleted."""
    try:
        return os.getcwdb()
    except FileNotFoundError:
        return b""


def _forward_signals(connection: _socket.socket, *, had_terminal: bool) -> list[tuple[int, Any]]:
    """Installs the handlers and returns the previous ones."""

    def forward(number: int, frame: object) -> None:
        try:
            connection.send(SIGNAL + bytes([number]))
        except OSError:
            pass  # the session has just ended: the loop above sees that too
        if number == _signal.SIGHUP and had_terminal and _terminal_settings() is None:
            os._exit(128 + number)  # our terminal has gone: nobody is there to see what comes

    def window(number: int, frame: object) -> None:
        try:
            connection.send(WINDOW + b"\0")
        except OSError:
            pass  # likewise

    def stop(number: int, frame: object) -> None:
        """Ctrl-Z: the session leaves the terminal's input to the shell until we go on."""
        forward(number, frame)
        _signal.signal(_signal.SIGTSTP, _signal.SIG_DFL)
        os.kill(os.getpid(), _signal.SIGTSTP)
        _signal.signal(_signal.SIGTSTP, stop)
        forward(_signal.SIGCONT, frame)

    wanted: list[tuple[int, Callable[[int, object], None]]] = [(number, forward) for number in _FORWARDED]
    wanted += [(_signal.SIGWINCH, window), (_signal.SIGTSTP, stop)]
    previous = []
    for number, handler in wanted:
        if (
            _signal.getsignal(number) is not _signal.SIG_IGN
        ):  # nohup(1) and background jobs of a shell without job control
            previous.append((number, _signal.signal(number, handler)))
    return previous


def _terminal_settings() -> list[Any] | None:
    if not os.isatty(0):
        return None
    import termios

    try:
        return termios.tcgetattr(0)
    except termios.error:
        return None


def _restore_terminal(saved: list[Any]) -> None:
    import termios

    _signal.signal(_signal.SIGTTOU, _signal.SIG_IGN)  # we may be in the background by now
    try:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
    except termios.error:
        pass  # the terminal has gone away


def _open_standard_streams() -> None:
    """Descriptors 0 to 2 are open afterwards, so that nothing else can be mistaken for them."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _pause() -> None:
    import time

    time.sleep(0.02)  # another client is starting the engine; it listens within a few milliseconds


def _complain(message: str, hint: str) -> int:
    text = f"Error: {message}" + (f"; {hint}" if hint else "")
    os.write(2, text.encode() + b"\n")
    return 125


if __name__ == "__main__":
    main()
