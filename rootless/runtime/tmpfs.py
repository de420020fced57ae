"""Copying an image's directory into the tmpfs that is mounted over it (the option tmpcopyup)."""

from __future__ import annotations

import os
import stat
from typing import Final

_CHUNK: Final = 1 << 20
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_up(below: int, mounted: int, options: str) -> None:
    """Copy what is in the directory `below` (an O_PATH descriptor) into the directory `mounted`, with owner and mode.

    What the mount's own `options` say of owner and mode stays.

    Devices and sockets are left out. Raises OSError, ENOSPC where the tmpfs is too small.
    """
    source = os.open(f"/proc/self/fd/{below}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made = os.fstat(mounted)
        _copy_directory(source, mounted)
        given = {option.partition("=")[0] for option in options.split(",")}
        copied = os.fstat(mounted)
        uid = made.st_uid if "uid" in given else copied.st_uid
        gid = made.st_gid if "gid" in given else copied.st_gid
        os.fchown(mounted, uid, gid)
        os.fchmod(mounted, stat.S_IMODE(made.st_mode if "mode" in given else copied.st_mode))
    finally:
        os.close(source)


def _copy_directory(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listdir(source):
        entry = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(entry.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            inner = os.open(name, _READ | os.O_DIRECTORY, dir_fd=source)
            outer = os.open(name, _READ | os.O_DIRECTORY, dir_fd=target)
            try:
                _copy_directory(inner, outer)
            finally:
                os.close(inner)
                os.close(outer)
        elif stat.S_ISLNK(entry.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, entry.st_uid, entry.st_gid, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISREG(entry.st_mode):
            _copy_file(name, entry, source, target)
        elif stat.S_ISFIFO(entry.st_mode):
            os.mkfifo(name, stat.S_IMODE(entry.st_mode), dir_fd=target)


def _copy_file(name: str, entry: os.stat_result, source: int, target: int) -> None:
    inner = os.open(name, _READ | os.O_NONBLOCK, dir_fd=source)
    outer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
    try:
        while os.sendfile(outer, inner, None, _CHUNK):
            pass
        os.fchown(outer, entry.st_uid, entry.st_gid)
        os.fchmod(outer, stat.S_IMODE(entry.st_mode))
        os.utime(outer, ns=(entry.st_atime_ns, entry.st_mtime_ns))
    finally:
        os.close(inner)
        os.close(outer)
