"""A container's terminal shown on the caller's own, for `rcontain-oci run` and `exec` in the foreground."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from types import FrameType

from rootless.runtime import terminal
from rootless.runtime.launch import Launched

_CHUNK = 65536


@contextlib.contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """The terminal `fd` passes every key on; restored at the end. What is no terminal stays as it is."""
    if not os.isatty(fd):
        yield
        return
    saved = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def follow_size(source: int, master: int) -> None:
    """Give `master` the size of the terminal `source`, now and whenever it changes."""
    if not os.isatty(source):
        return

    def copy(_: int = 0, __: FrameType | None = None) -> None:
        size = os.get_terminal_size(source)
        terminal.resize(master, size.lines, size.columns)

    signal.signal(signal.SIGWINCH, copy)
    copy()


def run(process: Launched) -> int:
    """Carry bytes both ways until the process ends; returns its exit code."""
    master = process.master
    assert master is not None
    follow_size(0, master)
    with raw_mode(0):
        poll = select.poll()
        for fd in (0, master, process.pidfd):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if master in ready and not _copy(master, 1):
                poll.unregister(master)
            if 0 in ready and not _copy(0, master):
                poll.unregister(0)
            if process.pidfd in ready:
                while select.select([master], [], [], 0)[0] and _copy(master, 1):
                    pass
                code = process.reap()
                assert code is not None
                return code


def _copy(source: int, target: int) -> bool:
    """Copy what is there; False at the end (EIO: no process has the terminal open any more)."""
    try:
        data = os.read(source, _CHUNK)
    except OSError:
        return False
    while data:
        data = data[os.write(target, data) :]
        if not data:
            return True
    return False
