"""A container's pid 1 for `--init`: starts nothing itself, forwards signals to the command, and reaps orphans."""

from __future__ import annotations

import os
import signal
from typing import Final, NoReturn

from rootless import syscalls
from rootless.syscalls import Prctl

_NAME: Final = "rcontain-init"
_NOT_FORWARDED: Final = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGCHLD,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGABRT,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)


_AWAITED: Final = (signal.valid_signals() - _NOT_FORWARDED) | {signal.SIGCHLD}


def block_signals() -> None:
    """Hold signals back for `run`; to be called before the command is forked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)


def run(command: int) -> NoReturn:
    """Be the init process whose command is the child `command`; ends with the command's exit code (128+N if killed)."""
    try:
        syscalls.set_name(_NAME)
        syscalls.set_command_line(_NAME)
    except OSError:
        pass  # no /proc in this container, so nobody sees the host's paths in it either
    syscalls.close_range(0)
    syscalls.prctl(Prctl.SET_DUMPABLE, 0)
    while True:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(0)
            if pid == 0:
                break
            if pid == command:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
        number = signal.sigwait(_AWAITED)
        if number not in _NOT_FORWARDED:
            try:
                os.kill(command, number)
            except ProcessLookupError:
                continue
