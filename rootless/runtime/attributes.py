"""Attributes and propagation of attached mounts, by descriptor.

mount_setattr(2) does it, and where that is missing (before Linux 5.12) mount(2). In a mount namespace of another user
namespace than the one around, flags are locked (mount_namespaces(7)): what the host has locked stays as it is,
whatever the container's configuration says.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from rootless import syscalls
from rootless.syscalls import MountAttr, MountFlag

_ST_RELATIME: Final = 4096
_SAME: Final = (
    MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC | MountFlag.NOATIME | MountFlag.NODIRATIME
)
"""Flags with one number in mount(2) and statvfs(3)."""

_FLAGS: Final = (
    (MountAttr.RDONLY, MountFlag.RDONLY),
    (MountAttr.NOSUID, MountFlag.NOSUID),
    (MountAttr.NODEV, MountFlag.NODEV),
    (MountAttr.NOEXEC, MountFlag.NOEXEC),
    (MountAttr.NOATIME, MountFlag.NOATIME),
    (MountAttr.STRICTATIME, MountFlag.STRICTATIME),
    (MountAttr.NODIRATIME, MountFlag.NODIRATIME),
    (MountAttr.NOSYMFOLLOW, MountFlag.NOSYMFOLLOW),
)


def change(
    fd: int, *, set_: MountAttr = MountAttr.NONE, clear: MountAttr = MountAttr.NONE, recursive: bool = False
) -> None:
    """Set and clear attributes of the mount that `fd` stands for, and of those below it if `recursive`.

    Clearing what the host has locked has no effect. Before Linux 5.12 those below are left as they are.
    """
    try:
        _allowed(fd, set_, clear, recursive)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        _remount(fd, set_, clear)


def _allowed(fd: int, set_: MountAttr, clear: MountAttr, recursive: bool) -> None:
    try:
        syscalls.mount_setattr(fd, set_=set_, clear=clear, recursive=recursive)
    except PermissionError:
        if not clear:
            raise
        if set_ & MountAttr.ATIME:
            set_ &= ~MountAttr.ATIME
        if set_:
            syscalls.mount_setattr(fd, set_=set_, recursive=recursive)


def _remount(fd: int, set_: MountAttr, clear: MountAttr) -> None:
    """MS_REMOUNT replaces all flags, so those that the mount has now are said again."""
    found = os.fstatvfs(fd).f_flag
    now = MountFlag(found) & _SAME
    if found & _ST_RELATIME:
        now |= MountFlag.RELATIME
    wanted = now
    for attribute, flag in _FLAGS:
        if clear & attribute:
            wanted &= ~flag
    if set_ & MountAttr.ATIME:
        wanted &= ~(MountFlag.NOATIME | MountFlag.RELATIME)
    for attribute, flag in _FLAGS:
        if set_ & attribute:
            wanted |= flag
    path = b"/proc/self/fd/%d" % fd
    how = MountFlag.BIND | MountFlag.REMOUNT
    try:
        syscalls.mount(None, path, None, how | wanted)
    except PermissionError:
        kept = now | (wanted & ~(MountFlag.NOATIME | MountFlag.STRICTATIME))
        if kept == wanted:
            raise
        syscalls.mount(None, path, None, how | kept)


def propagate(fd: int, flags: MountFlag) -> None:
    """Set the propagation type of the mount that `fd` stands for; with MountFlag.REC, of those below it too."""
    try:
        syscalls.mount_setattr(fd, propagation=flags & ~MountFlag.REC, recursive=bool(flags & MountFlag.REC))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        syscalls.mount(None, b"/proc/self/fd/%d" % fd, None, flags)
