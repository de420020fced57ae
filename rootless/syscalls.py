"""The system calls that `os` does not offer, each declared once. No policy, no fallback.

Every wrapper converts its arguments, calls, and raises `OSError(errno, strerror, path)`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from enum import IntFlag

_libc = ctypes.CDLL(None, use_errno=True)
# clone(2) must not let go of the interpreter lock: in the child nobody else could give it back.
_libc_locked = ctypes.PyDLL(None, use_errno=True)
_libc_locked.syscall.restype = ctypes.c_long


class Clone(IntFlag):
    """namespaces(7), clone(2)."""

    NEWTIME = 0x00000080
    PARENT = 0x00008000  # not a namespace: the child's parent is the caller's parent
    NEWNS = 0x00020000
    NEWCGROUP = 0x02000000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000


class MountFlag(IntFlag):
    """mount(2)."""

    NONE = 0
    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    SYNCHRONOUS = 0x10
    REMOUNT = 0x20
    MANDLOCK = 0x40
    DIRSYNC = 0x80
    NOSYMFOLLOW = 0x100
    NOATIME = 0x400
    NODIRATIME = 0x800
    BIND = 0x1000
    MOVE = 0x2000
    REC = 0x4000
    SILENT = 0x8000
    UNBINDABLE = 0x20000
    PRIVATE = 0x40000
    SLAVE = 0x80000
    SHARED = 0x100000
    RELATIME = 0x200000
    STRICTATIME = 0x1000000


class UmountFlag(IntFlag):
    """umount2(2)."""

    NONE = 0
    FORCE = 1
    DETACH = 2
    EXPIRE = 4
    NOFOLLOW = 8


class Resolve(IntFlag):
    """openat2(2)."""

    NONE = 0
    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08
    IN_ROOT = 0x10


class TreeFlag(IntFlag):
    """open_tree(2)."""

    NONE = 0
    CLONE = 0x1
    SYMLINK_NOFOLLOW = 0x100
    EMPTY_PATH = 0x1000
    RECURSIVE = 0x8000


class MountAttr(IntFlag):
    """mount_setattr(2)."""

    NONE = 0
    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    ATIME = 0x70
    NOATIME = 0x10
    STRICTATIME = 0x20
    NODIRATIME = 0x80
    NOSYMFOLLOW = 0x200000


class CloseRange(IntFlag):
    """close_range(2)."""

    NONE = 0
    UNSHARE = 2
    CLOEXEC = 4


class SeccompFlag(IntFlag):
    """seccomp(2), SECCOMP_SET_MODE_FILTER."""

    NONE = 0
    TSYNC = 1
    LOG = 2
    SPEC_ALLOW = 4
    WAIT_KILLABLE_RECV = 32


class Prctl:
    """prctl(2) options."""

    SET_PDEATHSIG = 1
    GET_DUMPABLE = 3
    SET_DUMPABLE = 4
    SET_KEEPCAPS = 8
    SET_NAME = 15
    CAPBSET_READ = 23
    CAPBSET_DROP = 24
    SET_CHILD_SUBREAPER = 36
    SET_NO_NEW_PRIVS = 38
    CAP_AMBIENT = 47
    CAP_AMBIENT_RAISE = 2
    CAP_AMBIENT_CLEAR_ALL = 4


_SYS_PIVOT_ROOT = 155 if os.uname().machine == "x86_64" else 41
_SYS_CAPSET = 126 if os.uname().machine == "x86_64" else 91
_SYS_CLONE = 56 if os.uname().machine == "x86_64" else 220
_SYS_KEYCTL = 250 if os.uname().machine == "x86_64" else 219
_SYS_SECCOMP = 317 if os.uname().machine == "x86_64" else 277
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_AGAIN_MAX = 10_000
_SYS_PIDFD_GETFD = 438
_SYS_MOUNT_SETATTR = 442

_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SECCOMP_SET_MODE_FILTER = 1

_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_libc.setdomainname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def _check(result: int, path: str | bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path) if path is not None else None)
    return result


def mount(
    source: str | bytes | None,
    target: str | bytes,
    fstype: str | None = None,
    flags: MountFlag = MountFlag.NONE,
    data: str | bytes | None = None,
) -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            os.fsencode(source) if source is not None else None,
            os.fsencode(target),
            fstype.encode() if fstype is not None else None,
            int(flags),
            os.fsencode(data) if data is not None else None,
        ),
        target,
    )


def umount(target: str | bytes, flags: UmountFlag = UmountFlag.NONE) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), int(flags)), target)


def pivot_root(new_root: str | bytes, put_old: str | bytes) -> None:
    """pivot_root(2)."""
    _check(_libc.syscall(_SYS_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old)), new_root)


def setns(fd: int, kinds: Clone | int = 0) -> None:
    """setns(2); `fd` is a namespace or, with several kinds, a pidfd."""
    _check(_libc.setns(fd, int(kinds)))


def unshare(kinds: Clone) -> None:
    """unshare(2)."""
    _check(_libc.unshare(int(kinds)))


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2)."""
    return _check(_libc.prctl(option, arg2, arg3, arg4, arg5))


def sethostname(name: str) -> None:
    """sethostname(2)."""
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), raw)


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    raw = name.encode()
    _check(_libc.setdomainname(raw, len(raw)), raw)


def set_name(name: str) -> None:
    """PR_SET_NAME: what `comm` shows; at most 15 bytes."""
    title = ctypes.create_string_buffer(name.encode()[:15])
    prctl(Prctl.SET_NAME, ctypes.addressof(title))


def set_command_line(text: str) -> None:
    """What ps(1) shows of this process from now on, instead of its arguments, whose memory is overwritten.

    A text that is longer than those were is cut. proc(5): arg_start and arg_end are fields 48 and 49 of `stat`.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if 0 < start < end:
        size = end - start
        ctypes.memmove(start, text.encode()[: size - 1].ljust(size, b"\0"), size)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(dir_fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: Resolve = Resolve.NONE) -> int:
    """openat2(2). Returns a new close-on-exec descriptor that the caller owns.

    EAGAIN is not an answer but a request to ask again: with BENEATH or IN_ROOT the kernel gives up on a ".." whenever
    anything is renamed anywhere meanwhile.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, int(resolve))
    raw = os.fsencode(path)
    for _ in range(_AGAIN_MAX):
        fd: int = _libc.syscall(_SYS_OPENAT2, dir_fd, raw, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(fd, raw)


def fork_into(kinds: Clone) -> int:
    """fork(2) whose child starts inside new namespaces of `kinds` (clone(2) with SIGCHLD and the flags).

    Returns the child's pid to the parent and 0 to the child, as `os.fork` does. The caller has one thread.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = _libc_locked.syscall(_SYS_CLONE, int(kinds) | 17, 0, 0, 0, 0)
    number = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, os.strerror(number))
    return pid


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def capset(*, effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) for the calling thread; the arguments are bit sets of capability numbers."""
    header = _CapHeader(0x20080522, 0)
    data = (_CapData * 2)()
    for word in range(2):
        shift = 32 * word
        data[word] = _CapData(
            (effective >> shift) & 0xFFFFFFFF, (permitted >> shift) & 0xFFFFFFFF, (inheritable >> shift) & 0xFFFFFFFF
        )
    _check(_libc.syscall(_SYS_CAPSET, ctypes.byref(header), ctypes.byref(data)))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a duplicate of another process's descriptor."""
    return _check(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))


def open_tree(dir_fd: int, path: str | bytes, flags: TreeFlag = TreeFlag.NONE) -> int:
    """open_tree(2), Linux 5.2. Returns a new close-on-exec O_PATH descriptor that the caller owns.

    With CLONE it is a detached copy of the mount (RECURSIVE: of all below it), to be attached by `move_mount`.
    """
    raw = os.fsencode(path)
    return _check(_libc.syscall(_SYS_OPEN_TREE, dir_fd, raw, int(flags) | _OPEN_TREE_CLOEXEC), raw)


def move_mount(from_fd: int, to_fd: int) -> None:
    """move_mount(2), Linux 5.2: attach the mount that `from_fd` stands for on what `to_fd` stands for."""
    how = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _check(_libc.syscall(_SYS_MOVE_MOUNT, from_fd, b"", to_fd, b"", how))


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def mount_setattr(
    fd: int,
    *,
    set_: MountAttr = MountAttr.NONE,
    clear: MountAttr = MountAttr.NONE,
    propagation: MountFlag = MountFlag.NONE,
    recursive: bool = False,
) -> None:
    """mount_setattr(2), Linux 5.12, on the mount that `fd` stands for; attributes not named stay as they are."""
    attr = _MountAttr(int(set_), int(clear), int(propagation), 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr)))


def close_range(first: int, last: int = 0xFFFFFFFF, flags: CloseRange = CloseRange.NONE) -> None:
    """close_range(2), Linux 5.9: close every descriptor from `first` to `last`, both included."""
    _check(_libc.syscall(_SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), int(flags)))


def join_session_keyring() -> None:
    """keyctl(2), KEYCTL_JOIN_SESSION_KEYRING: a new anonymous session keyring."""
    _check(_libc.syscall(_SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None))


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def seccomp_filter(program: bytes, flags: SeccompFlag = SeccompFlag.NONE) -> None:
    """seccomp(2), SECCOMP_SET_MODE_FILTER; `program` is an array of struct sock_filter (8 bytes each)."""
    fprog = _SockFprog(len(program) // 8, program)
    _check(_libc.syscall(_SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, int(flags), ctypes.byref(fprog)))
