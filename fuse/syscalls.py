"""System calls that `os` lacks. Each converts, calls, and raises OSError(errno, strerror, path); no policy."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from enum import IntFlag

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100


class RenameFlag(IntFlag):
    """renameat2(2)."""

    NOREPLACE = 1
    EXCHANGE = 2
    WHITEOUT = 4


class MountFlag(IntFlag):
    """mount(2)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    NOATIME = 1024


MNT_DETACH = 2

_renameat2 = _libc.renameat2
_renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_renameat2.restype = ctypes.c_int


_UTIME_OMIT = (1 << 30) - 2
_times = (ctypes.c_long * 4)()  # two struct timespec
_utimensat = _libc.utimensat
_utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
_utimensat.restype = ctypes.c_int
_futimens = _libc.futimens
_futimens.argtypes = [ctypes.c_int, ctypes.c_void_p]
_futimens.restype = ctypes.c_int

_mount = _libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_mount.restype = ctypes.c_int

_umount2 = _libc.umount2
_umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_umount2.restype = ctypes.c_int

_fallocate = getattr(_libc, "fallocate64", _libc.fallocate)  # which takes 64 bits on every machine
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
_fallocate.restype = ctypes.c_int

_fstatfs = _libc.fstatfs
_fstatfs.argtypes = [ctypes.c_int, ctypes.c_char_p]
_fstatfs.restype = ctypes.c_int

NFS = 0x6969
"""What `file_system_type` says of NFS (statfs(2): NFS_SUPER_MAGIC)."""

_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800
_STATX = struct.Struct("=I76xqI")  # stx_mask, stx_btime
_statx_buffer = ctypes.create_string_buffer(256)
_statx = getattr(_libc, "statx", None)
if _statx is not None:
    _statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p]
    _statx.restype = ctypes.c_int

_SYS_OPEN_TREE, _SYS_MOUNT_SETATTR = 428, 442  # on every machine; glibc has names for them since 2.36
_OPEN_TREE_CLONE, _AT_RECURSIVE, _AT_EMPTY_PATH, _MS_PRIVATE = 1, 0x8000, 0x1000, 1 << 18
_MOUNT_ATTR = struct.Struct("=QQQQ")  # attr_set, attr_clr, propagation, userns_fd
_syscall = _libc.syscall

_PR_SET_PDEATHSIG = 1
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_prctl.restype = ctypes.c_int

_malloc_trim = getattr(_libc, "malloc_trim", None)  # glibc only
if _malloc_trim is not None:
    _malloc_trim.argtypes = [ctypes.c_size_t]


def renameat2(
    old: bytes, new: bytes, flags: RenameFlag, *, old_dir_fd: int = AT_FDCWD, new_dir_fd: int = AT_FDCWD
) -> None:
    """renameat2(2)."""
    if _renameat2(old_dir_fd, old, new_dir_fd, new, flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old, None, new)


def set_times(path: bytes, atime_ns: int | None, mtime_ns: int | None, *, dir_fd: int, follow: bool) -> None:
    """utimensat(2); None leaves a time as it is (UTIME_OMIT), which os.utime cannot."""
    if _utimensat(dir_fd, path, _two_times(atime_ns, mtime_ns), 0 if follow else _AT_SYMLINK_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def set_times_of_open(fd: int, atime_ns: int | None, mtime_ns: int | None) -> None:
    """futimens(3), as `set_times`."""
    if _futimens(fd, _two_times(atime_ns, mtime_ns)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _two_times(atime_ns: int | None, mtime_ns: int | None) -> ctypes.Array[ctypes.c_long]:
    times = _times
    times[0], times[1] = (0, _UTIME_OMIT) if atime_ns is None else divmod(atime_ns, 1_000_000_000)
    times[2], times[3] = (0, _UTIME_OMIT) if mtime_ns is None else divmod(mtime_ns, 1_000_000_000)
    return times


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), which os.posix_fallocate(3) offers without its modes and replaces by writing."""
    if _fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def mount(source: bytes, target: bytes, kind: bytes, flags: MountFlag, data: bytes) -> None:
    """mount(2)."""
    if _mount(source, target, kind, flags, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def detached_mounts(path: bytes) -> int:
    """A descriptor of a directory with the mounts that are below it now, and none that come: open_tree(2), Linux 5.2.

    Takes CAP_SYS_ADMIN. The mounts below go when it is closed.
    """
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    fd = int(_syscall(_SYS_OPEN_TREE, AT_FDCWD, ctypes.c_char_p(path), flags))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    attributes = _MOUNT_ATTR.pack(0, 0, _MS_PRIVATE, 0)  # mount_setattr(2), Linux 5.12; before, none came anyway
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    if _syscall(_SYS_MOUNT_SETATTR, fd, b"", flags, attributes, ctypes.c_size_t(len(attributes))) != 0:
        number = ctypes.get_errno()
        if number != errno.ENOSYS:
            os.close(fd)
            raise OSError(number, os.strerror(number), path)
    return fd


def file_system_type(fd: int) -> int:
    """f_type of fstatfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    if _fstatfs(fd, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)


def birth_ns(path: bytes, *, follow: bool = False) -> int:
    """When a file was made, of statx(2); 0 where the file system, the kernel or the C library does not tell."""
    if _statx is None:
        return 0
    if _statx(AT_FDCWD, path, 0 if follow else _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, _statx_buffer) != 0:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            return 0
        raise OSError(number, os.strerror(number), path)
    mask, seconds, nanoseconds = _STATX.unpack_from(_statx_buffer)
    told: int = seconds * 1_000_000_000 + nanoseconds
    return told if mask & _STATX_BTIME else 0


def umount(target: bytes, flags: int = 0) -> None:
    """umount2(2)."""
    if _umount2(target, flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def end_with_parent(number: int) -> None:
    """Be sent that signal when the thread that forked this process ends: prctl(2), PR_SET_PDEATHSIG."""
    if _prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def release_free_memory() -> None:
    """Give what the allocator holds unused back to the system: malloc_trim(3), where there is one."""
    if _malloc_trim is not None:
        _malloc_trim(0)
