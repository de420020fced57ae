"""The engine: a warm fork server, one per user and host context.

    take the lock, listen          a client that connects from now on is served as soon as the rest is done
    enter E                        user + mount namespace; joins the one of living containers, if there are any
    serve the first client         with what is imported by then
    import everything              so that no later session imports anything
    fork sessions                  forkserver.py; the engine itself never reads a request
    leave                          after some idle minutes without a session, or when told to

Single-threaded on purpose: it forks. With `once` it serves its first connection only and listens nowhere; that is
`rcontain --no-engine`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from typing import NoReturn

from . import client, forkserver, request, syscalls
from .container import lock
from .forkserver import Endpoint
from .runtime import interpreter

STARTING_SECONDS = 60
GARBAGE_THRESHOLD = 50_000  # allocations; a start makes a tenth of that, and has no garbage worth looking for
TITLE = "rc-engine"
_held: list[int] = []


def main() -> NoReturn:
    """The process that the client starts: argv is a descriptor (our first connection) and `serve` or `once`."""
    first = socket.socket(fileno=int(sys.argv[1]))
    once = sys.argv[2] == "once"
    interpreter.protect()
    warnings.simplefilter("ignore")  # they are for developers, and would land among a command's output
    _leave_the_callers_world(first.fileno())
    if once:
        _serve_one(first)
    os.environ["RCONTAIN_UID"] = str(os.getuid())
    try:
        endpoint = _listen(first)
    except OSError:
        _serve_one(first)  # no place for a socket: this command is served all the same
    try:
        _name_process()
        _hold_namespaces()
        is_whole = _enter()
        from .cli import run  # noqa: F401 - what most first commands need; the rest can wait until they are on their way
    except Exception as error:  # noqa: BLE001 - whatever keeps the engine from working, its client is told
        _refuse(first, endpoint, error)
    server = forkserver.ForkServer(endpoint)
    server.serve_first(first)
    if not is_whole:
        endpoint.give_back()  # the next command is to try again, and not to inherit what went wrong here
        os._exit(0)
    _preload()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    server.serve()


def _leave_the_callers_world(keep: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, keep)
    os.closerange(keep + 1, 65536)
    os.chdir("/")
    os.umask(0o022)
    os.set_inheritable(keep, False)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def _serve_one(connection: socket.socket) -> NoReturn:
    from . import session

    os.environ["RCONTAIN_UID"] = str(os.getuid())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    session.main(connection, enter=_enter)


def _listen(first: socket.socket) -> Endpoint:
    """Takes the engine's name. Where another engine has it, the client is told to go there and this process ends."""
    from .settings import runtime_directory

    directory = runtime_directory(os.environ)
    base = f"{directory}/{client.engine_name()}"
    held = lock.hold(f"{base}.lock")
    if held is None:
        first.send(request.RETRY + b"\0")
        os._exit(0)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.unlink(f"{base}.sock")
    except FileNotFoundError:
        pass
    umask = os.umask(0o177)
    with _short(directory) as there:
        listener.bind(f"{there}/{os.path.basename(base)}.sock")
    os.umask(umask)
    listener.listen(128)
    _dismiss_older(directory, base)
    _keep_log(f"{directory}/engine.log")
    return Endpoint(listener, f"{base}.sock", held)


@contextlib.contextmanager
def _short(directory: str) -> Iterator[str]:
    """Another path of a directory, that leaves room in the 108 bytes of a socket's address; unix(7)."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _keep_log(path: str) -> None:
    """What an engine that fails has to say would be lost otherwise: nobody reads its standard error."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 2)
    os.close(log)


def _dismiss_older(directory: str, base: str) -> None:
    """Tells the engines of the same context and another version of the code to leave: an upgrade has taken place."""
    context = base.rpartition("-")[0]
    _clear_up(directory)
    for entry in os.listdir(directory):
        path = f"{directory}/{entry}"
        if not entry.endswith(".sock") or path == f"{base}.sock" or path.rpartition("-")[0] != context:
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as older, _short(directory) as there:
            try:
                older.connect(f"{there}/{entry}")
                os.kill(forkserver.peer(older)[0], signal.SIGTERM)
            except (ConnectionRefusedError, FileNotFoundError, ProcessLookupError):
                pass  # it has left already
        for leftover in (path, f"{path.removesuffix('.sock')}.lock"):
            try:
                os.unlink(leftover)
            except FileNotFoundError:
                pass


def _clear_up(directory: str) -> None:
    """Removes what killed engines left: files whose lock nobody has held for a while."""
    for entry in os.listdir(directory):
        path = f"{directory}/{entry}"
        try:
            if not entry.startswith("engine-") or not entry.endswith(".lock") or lock.is_held(path):
                continue
            if time.time() - os.stat(path).st_mtime > STARTING_SECONDS:
                os.unlink(path)
                os.unlink(f"{path.removesuffix('.lock')}.sock")
        except FileNotFoundError:
            continue


def _name_process() -> None:
    syscalls.set_name(TITLE)
    syscalls.set_command_line("rcontain engine")


def _hold_namespaces() -> None:
    """Keeps open what the engine is named after: the number of a namespace that is gone may be given to another."""
    for kind in client.NAMESPACES:
        _held.append(os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))


def _enter() -> bool:
    from .container import host

    return host.enter()


def _refuse(first: socket.socket, endpoint: Endpoint, error: Exception) -> NoReturn:
    """The namespace could not be made: say why to the first client, and let the next try again from the start."""
    from . import session

    endpoint.give_back()
    session.refuse(first, error)


def _preload() -> None:
    """Imports all that a session may need, so that no session imports anything."""
    from . import session

    session.preload()
