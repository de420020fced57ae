"""What a process does that waits for a server: it hears when the mount answers, passes signals on, and clears away what
a server that is killed would leave, a mount behind where every access fails.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from types import FrameType

from fuse.mounting import unmount
from fuse.syscalls import end_with_parent

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_READY = b"1"


def start_server(serve: Callable[[], bool], close: int) -> int:
    """Fork the server, which ends with this process; its pid. `close` is a descriptor that it must not have.

    Signals that end a program are passed on to it from here on.
    """
    attendant = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            end_with_parent(signal.SIGTERM)
            if os.getppid() == attendant:
                os.close(close)
                os.setpgid(0, 0)  # the terminal's Ctrl-C comes once, through the attendant
                status = 0 if serve() else 1
        finally:
            os._exit(status)
    for number in STOPS:
        signal.signal(number, _passing_on(pid))
    return pid


def clear_after(mountpoint: str, wait_status: int) -> str | None:
    """Takes the mount of a server away that was killed, and says so; None for one that ended itself."""
    if not os.WIFSIGNALED(wait_status):
        return None
    if is_dead(mountpoint):
        unmount(mountpoint)
    killer = signal.Signals(os.WTERMSIG(wait_status)).name
    return f"the server of {mountpoint} was ended by {killer}, so the mount is gone"


def is_dead(path: str) -> bool:
    """Whether a mount has no server any more. The kernel may still know what stat(2) shows, but not statfs(2)."""
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def await_ready(readable: int) -> str | None:
    """Wait until the mount answers; else why it does not."""
    with os.fdopen(readable, "rb") as pipe:
        answer = pipe.readline()
    if answer == _READY:
        return None
    return answer.decode(errors="replace").strip() or "the server ended before it was ready"


def have_standard_descriptors() -> None:
    """Where the caller has closed 0, 1 or 2, what is opened next would be taken for them."""
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def let_go() -> None:
    """In the background: let go of the caller's terminal and directory."""
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _passing_on(pid: int) -> signal._HANDLER:
    def handle(number: int, _frame: FrameType | None) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it is about to be waited for

    return handle
