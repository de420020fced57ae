"""The system calls that `os` does not offer (before Python 3.12), declared once. No policy, no fallback."""

from __future__ import annotations

import ctypes
import os
import struct
from enum import IntFlag

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc.capset.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
_libc.capget.argtypes = [ctypes.c_char_p, ctypes.c_char_p]

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITY_SETS = struct.Struct("=IIIIII")  # effective, permitted, inheritable; 0 to 31, then 32 to 63
CAP_NET_BIND_SERVICE = 1 << 10


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


def drop_capabilities(keep: int = 0) -> None:
    """capget(2) and capset(2): give up all capabilities but those of the set `keep` that we have, for good."""
    header = _CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4)
    kept = 0
    if keep:
        now = ctypes.create_string_buffer(_CAPABILITY_SETS.size)
        _check(_libc.capget(header, now))
        kept = keep & _CAPABILITY_SETS.unpack(now.raw)[1]
    _check(_libc.capset(header, _CAPABILITY_SETS.pack(kept, kept, 0, 0, 0, 0)))
