"""Mounting: by mount(2) as root of a user namespace, by fusermount3(1) as anybody else."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Literal

from fuse.protocol import FOREVER
from fuse.syscalls import MNT_DETACH, MountFlag, mount, umount

NO_FLAGS = MountFlag(0)

Adapter = Literal["auto", "device", "pyfuse3"]
"""How the kernel is spoken to: on /dev/fuse itself, or through libfuse."""

_HELPER = "fusermount3"
_FLAG_WORDS = {
    MountFlag.RDONLY: "ro",
    MountFlag.NOSUID: "nosuid",
    MountFlag.NODEV: "nodev",
    MountFlag.NOEXEC: "noexec",
    MountFlag.NOATIME: "noatime",
}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What fuse-overlayfs(1) and mount(8) offer and a mount here heeds."""

    fsname: str = "overlay"
    subtype: str = "rcontain"
    flags: MountFlag = NO_FLAGS
    allow_other: bool = True
    timeout: float = FOREVER
    """Seconds for which the kernel may keep what it was told."""
    writeback: bool = False
    """Whether the kernel collects writes. It then asks for the attributes of each file again that was open, has times
    to send after every change, and cannot be told of holes: all of that costs more than small writes do."""
    adapter: Adapter = "auto"
    xattrs: bool = True
    """Whether extended attributes are shown."""
    acls: bool = False
    """Whether access control lists are heeded, where the upper's file system has them. Not with pyfuse3.

    The kernel then asks for that of the root directory whenever somebody who does not own it goes through it: it makes
    that inode before it knows that there are lists, and so keeps none for it.
    """
    durable: bool = True
    """Whether fsync(2) reaches the disk."""
    inherit_root: bool = True
    """Whether an empty upper directory takes over the attributes of the root below."""
    beneath: bool = False
    """Whether the kernel's overlayfs will be mounted over this mount, which is read-only then. Attributes that it would
    heed are not shown; and where no layer has any, it is told so once, or it would ask for each file."""


class Mounted:
    """A mount, and the /dev/fuse behind it, which whoever serves it closes."""

    def __init__(self, mountpoint: str, device: int, *, by_helper: bool) -> None:
        self._mountpoint = mountpoint
        self._by_helper = by_helper
        self.device = device

    def unmount(self) -> None:
        """Take it away, now or as soon as nobody uses it; nothing happens where it is gone."""
        if self._by_helper:
            _unmount_by_helper(self._mountpoint)
        else:
            unmount(self._mountpoint)


def unmount(mountpoint: str) -> None:
    """Take a mount away that anybody of us made, now or as soon as nobody uses it; nothing happens where it is gone."""
    try:
        umount(os.fsencode(mountpoint), MNT_DETACH)
    except PermissionError:
        _unmount_by_helper(mountpoint)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def _unmount_by_helper(mountpoint: str) -> None:
    import subprocess  # not at the top: root needs none of this, and it takes some milliseconds

    subprocess.run([_HELPER, "-u", "-q", "-z", "--", mountpoint], check=False)


def mount_fuse(mountpoint: str, options: MountOptions) -> Mounted:
    """Mount a file system for which nobody answers yet. OSError says why it cannot be."""
    if os.geteuid() == 0:
        try:
            return Mounted(mountpoint, _mount_directly(mountpoint, options), by_helper=False)
        except PermissionError:
            pass  # root without the right to mount
    return Mounted(mountpoint, _mount_by_helper(mountpoint, options), by_helper=True)


def _mount_directly(mountpoint: str, options: MountOptions) -> int:
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    data = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},default_permissions"
    if options.allow_other:
        data += ",allow_other"
    try:
        mount(
            os.fsencode(options.fsname),
            os.fsencode(mountpoint),
            b"fuse." + os.fsencode(options.subtype),
            options.flags,
            data.encode(),
        )
    except BaseException:
        os.close(device)
        raise
    return device


def _mount_by_helper(mountpoint: str, options: MountOptions) -> int:
    """The set-uid program opens the device and sends it through the socket that _FUSE_COMMFD names."""
    import socket
    import subprocess

    words = ["default_permissions", f"fsname={_escaped(options.fsname)}", f"subtype={_escaped(options.subtype)}"]
    words += [word for flag, word in _FLAG_WORDS.items() if options.flags & flag]
    if options.allow_other:
        words.append("allow_other")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            done = subprocess.run(
                [_HELPER, "-o", ",".join(words), "--", mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        except FileNotFoundError:
            raise OSError(f"only root of a user namespace can do without {_HELPER}, which is not installed") from None
        theirs.close()
        if done.returncode:
            raise OSError(_reason(done.stderr))
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        raise OSError(f"{_HELPER} has sent no descriptor")
    os.set_inheritable(fds[0], False)
    return fds[0]


def _reason(words: bytes) -> str:
    reason = " ".join(words.decode(errors="replace").split()) or f"{_HELPER} failed without a word"
    if "user_allow_other" in reason:
        return "allow_other needs the line user_allow_other in /etc/fuse.conf; without it only you can use the mount"
    return reason


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,")
