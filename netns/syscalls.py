"""The system calls that `os` does not offer (before Python 3.12), declared once. No policy, no fallback."""

from __future__ import annotations

import ctypes
import os
from enum import IntFlag

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc.capset.argtypes = [ctypes.c_char_p, ctypes.c_char_p]

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522


class Namespace(IntFlag):
    """Kinds of namespace, as setns(2) takes them."""

    USER = 0x10000000
    NET = 0x40000000


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def setns(fd: int, kinds: Namespace) -> None:
    """setns(2); `fd` is a namespace file or a pidfd. Moves the calling thread."""
    _check(_libc.setns(fd, int(kinds)))


def set_no_new_privs() -> None:
    """prctl(2), PR_SET_NO_NEW_PRIVS."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def set_parent_death_signal(number: int) -> None:
    """prctl(2), PR_SET_PDEATHSIG."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def drop_capabilities() -> None:
    """capset(2): empty effective, permitted and inheritable sets, for good."""
    header = _CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    _check(_libc.capset(header, bytes(24)))
