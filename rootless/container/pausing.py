"""Holding all processes of a container still for a moment.

A container has no cgroup of its own to freeze, so its processes get SIGSTOP, and SIGCONT at the end, but for those that
were stopped already. A process of its own does both: it resumes them as soon as the pipe to it is closed, so also when
whoever asked for the pause is interrupted or killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from .. import syscalls
from ..errors import HostError
from .containers import Container

_ROUNDS = 100
_TURN = 0.001  # seconds
_PATIENCE = 2.0  # seconds until a process that was told to stop has stopped; one that waits for a disk may take longer
_AT_REST = frozenset("tTZX")  # proc_pid_stat(5)


@contextmanager
def paused(container: Container) -> Iterator[None]:
    """Nothing in the container runs meanwhile. Does nothing to one that does not run. Raises HostError."""
    state = container.state()
    if state.status != "running" or not state.pid:
        yield
        return
    reading, release = os.pipe2(os.O_CLOEXEC)
    ready, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _guard(state.pid, reading, writing)
    os.close(reading)
    os.close(writing)
    try:
        if os.read(ready, 1) != b"1":
            raise HostError(f"cannot pause container {container.id[:12]}: not all of its processes stop")
        yield
    finally:
        os.close(ready)
        os.close(release)
        os.waitpid(pid, 0)


def _guard(init: int, reading: int, writing: int) -> NoReturn:
    """The process that stops the others: says "1" when it has, and resumes them at the end of the pipe."""
    stopped: dict[int, int] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGIO):
            signal.signal(number, signal.SIG_IGN)
        # Whoever reads the client's streams waits for the end of everybody that holds them.
        first, second = sorted((reading, writing))
        syscalls.close_range(0, first - 1)
        syscalls.close_range(first + 1, second - 1)
        syscalls.close_range(second + 1)
        if _stop_all(init, stopped):
            os.write(writing, b"1")
        os.close(writing)
        while os.read(reading, 1):
            pass
    finally:
        for pidfd in stopped.values():
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            except ProcessLookupError:
                continue
        os._exit(0)


def _stop_all(init: int, stopped: dict[int, int]) -> bool:
    """Until no process of the container is found that runs. False if there always is another."""
    for _ in range(_ROUNDS):
        members = _members(init) - stopped.keys()
        fresh = False
        for pid in members:
            if _status(pid) in _AT_REST:
                continue
            try:
                pidfd = os.pidfd_open(pid)
                stopped[pid] = pidfd
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            except ProcessLookupError:
                continue
            fresh = True
        if not fresh:
            return _wait(stopped)
    return False


def _wait(stopped: dict[int, int]) -> bool:
    """A signal is obeyed a little later."""
    end = time.monotonic() + _PATIENCE
    while any(_status(pid) not in _AT_REST for pid in stopped):
        if time.monotonic() > end:
            return False
        time.sleep(_TURN)
    return True


def _members(init: int) -> set[int]:
    """The processes in the container's PID namespace, and in namespaces below it: descendants of those."""
    space = _namespace(init)
    ours = space == _namespace(os.getpid())
    parents: dict[int, int] = {}
    found = {init}
    for name in os.listdir("/proc"):
        if name.isdigit():
            pid = int(name)
            parents[pid] = _parent(pid)
            if not ours and space is not None and _namespace(pid) == space:
                found.add(pid)
    grown = True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        found |= below
        grown = bool(below)
    found.discard(os.getpid())
    return found


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _status(pid: int) -> str:
    return (_stat(pid) or ["X"])[0]


def _parent(pid: int) -> int:
    return int((_stat(pid) or ["X", "0"])[1])


def _stat(pid: int) -> list[str]:
    """The fields from the state on; none for a process that has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode("ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return []
