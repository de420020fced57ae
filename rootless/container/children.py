"""The helper processes of a supervisor: forked, not executed, so that they start with everything imported.

A child dies with its supervisor (PR_SET_PDEATHSIG), holds only the descriptors that it was given, and never returns
into the code that forked it. SIGTERM does nothing to it: systemd sends it to all processes of a unit that stops, and
the container needs its root filesystem and its network until it has stopped itself.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection
from typing import NoReturn

import trio

from .. import syscalls

_living: set[Child] = set()
"""Forked by this process, and not yet waited for."""


class Child:
    """A forked helper. Owns its pidfd."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        _living.add(self)

    def __repr__(self) -> str:
        return f"<Child {self.name} {self.pid}>"

    async def ended(self) -> None:
        """Waits for its end."""
        await trio.lowlevel.wait_readable(self.pidfd)

    def reap(self) -> None:
        """Waits, blocking, for its end, and lets go of it."""
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        _living.discard(self)

    def kill(self) -> None:
        """Ends it at once. Whoever has nothing more to do calls `reap`, or `reap_all`."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended by itself


def kill_all(*, spare: str | None = None) -> None:
    """Ends every helper of this process but those of the name `spare`, also one whose start was interrupted."""
    for child in _living:
        if child.name != spare:
            child.kill()


def reap_all(*, name: str | None = None) -> None:
    """Waits for every helper, or those of one name, so that no zombie is left to others. Kill them first."""
    for child in list(_living):
        if name is None or child.name == name:
            child.reap()


def fork_child(name: str, function: Callable[[], None], *, keep: Collection[int], log: str) -> Child:
    """Runs `function` in a forked process that keeps the descriptors `keep`; its complaints go to the file `log`.

    It has none of the client's streams: whoever reads those waits for the end of everybody that holds them.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    stderr = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        pid = os.fork()
        if pid == 0:
            _run(name, function, keep, parent, stderr)
    finally:
        os.close(stderr)
    return Child(name, pid)


def _run(name: str, function: Callable[[], None], keep: Collection[int], parent: int, stderr: int) -> NoReturn:
    code = 1
    try:
        syscalls.prctl(syscalls.Prctl.SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before we could ask to die with it
        syscalls.set_name(f"rc-{name}")
        syscalls.set_command_line(f"rcontain {name}")
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGIO, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(stderr, 2)
        _close_all_but({0, 1, 2, *keep})
        function()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the last frame of a process: nothing above could handle it
        os.write(2, f"rcontain {name}: {type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(code)


def _close_all_but(keep: set[int]) -> None:
    low = 0
    for fd in sorted(keep):
        if low < fd:  # os.closerange(0, 0) closes everything: CPython hands close_range(2) the last one, -1
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20)


async def read_ready(fd: int) -> bytes:
    """What a child writes to its ready descriptor: b"1", or a sentence; b"" when it died. Closes `fd`."""
    try:
        chunks = []
        while True:
            await trio.lowlevel.wait_readable(fd)
            chunk = os.read(fd, 4096)
            chunks.append(chunk)
            if not chunk or chunk.startswith(b"1") or chunk.endswith(b"\n"):
                return b"".join(chunks)
    finally:
        os.close(fd)
