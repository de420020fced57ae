"""Removing a directory tree that an image filled: any modes, any names, no symbolic link followed, no space needed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from rootless.errors import HostError

_DEPTH = 64
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str | bytes) -> None:
    """Remove `path` and what is in it; nothing happens if it is not there. Raises HostError.

    Works by directory descriptors, and with a bounded number of them however deep the tree is: a directory that lies
    deep is first moved to the top.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        fd = _open(path, None)
        try:
            _empty(fd, fd, 0)
        finally:
            os.close(fd)
        os.rmdir(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(
            f"cannot remove {os.fsdecode(path)}: {error.strerror}",
            hint="files of other users' ids are removed from inside the user namespace",
        ) from error


def _open(name: str | bytes, parent: int | None) -> int:
    """Open a directory for reading, made accessible first where its mode forbids it."""
    try:
        return os.open(name, _OPEN, dir_fd=parent)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)  # fchmod(2) refuses O_PATH; chmod(2) by name would follow a link
        finally:
            os.close(handle)
        return os.open(name, _OPEN, dir_fd=parent)


def _empty(fd: int, top: int, depth: int) -> None:
    mode = os.fstat(fd).st_mode
    if mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    with os.scandir(fd) as entries:
        names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            _gone(os.unlink, name, fd)
            continue
        try:
            child = _open(name, fd)
        except FileNotFoundError:
            continue
        try:
            if depth >= _DEPTH:
                os.fchmod(child, 0o700)
                os.rename(name, b".removing-" + os.urandom(8).hex().encode(), src_dir_fd=fd, dst_dir_fd=top)
                continue
            _empty(child, top, depth + 1)
        finally:
            os.close(child)
        _gone(os.rmdir, name, fd)
    if depth == 0:
        with os.scandir(fd) as entries:
            again = next(entries, None) is not None
        if again:  # what was moved up from below
            _empty(fd, top, 0)


def _gone(remove: Callable[..., None], name: bytes, fd: int) -> None:
    try:
        remove(name, dir_fd=fd)
    except FileNotFoundError:
        return
