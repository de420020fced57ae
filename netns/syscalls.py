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

_libc.syscall.restype = ctypes.c_long

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446  # everywhere the same
_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_CREATE_RULESET_VERSION = 1
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


def seccomp_filter(program: bytes) -> None:
    """prctl(2), PR_SET_SECCOMP: the calling thread obeys `program`, an array of struct sock_filter, for good."""
    instructions = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    argument = ctypes.create_string_buffer(filter_, len(filter_))
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(argument), 0, 0))


def landlock_version() -> int:
    """landlock_create_ruleset(2): the version of the kernel's interface."""
    return _check(
        _libc.syscall(
            ctypes.c_long(_LANDLOCK_CREATE_RULESET),
            None,
            ctypes.c_size_t(0),
            ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION),
        )
    )


def landlock_create(handled: int) -> int:
    """landlock_create_ruleset(2): the descriptor of a new set of rules for the kinds of access in `handled`."""
    attributes = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    return _check(
        _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE_RULESET), attributes, ctypes.c_size_t(8), ctypes.c_uint(0))
    )


def landlock_allow(ruleset: int, folder: int, access: int) -> None:
    """landlock_add_rule(2): what is below `folder` may be accessed in the ways of `access`."""
    attributes = ctypes.create_string_buffer(struct.pack("=Qi", access, folder), 12)
    _check(
        _libc.syscall(
            ctypes.c_long(_LANDLOCK_ADD_RULE),
            ctypes.c_int(ruleset),
            ctypes.c_int(_LANDLOCK_RULE_PATH_BENEATH),
            attributes,
            ctypes.c_uint(0),
        )
    )


def landlock_enter(ruleset: int) -> None:
    """landlock_restrict_self(2): the calling thread obeys `ruleset`, for good."""
    _check(_libc.syscall(ctypes.c_long(_LANDLOCK_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint(0)))
