"""What a file is said to be where it cannot be that: its owner, mode, type and device number in an extended attribute.

The value is that of containers/storage (pkg/idtools, `ContainersOverrideXattr`): `UID:GID:MODE:TYPE`, ids in decimal,
mode in octal without type bits, TYPE one of file, dir, symlink, pipe, socket, block-MAJOR-MINOR, char-MAJOR-MINOR.
fuse-overlayfs leaves TYPE out, keeps type bits in MODE, and writes devices as block8-0 or block8:0; all that is read.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import NamedTuple

from fuse.attributes import Attributes
from fuse.errors import LayerError

CONTAINERS_XATTR = b"user.containers.override_stat"
"""Podman's, for whoever may write a file's user attributes. What this package writes."""
USER_XATTR = b"user.fuseoverlayfs.override_stat"
"""The name of the same before fuse-overlayfs 1.9."""
PRIVILEGED_XATTR = b"security.fuseoverlayfs.override_stat"
"""fuse-overlayfs's `xattr_permissions=1`; CAP_SYS_ADMIN of the host writes it."""

SECURITY = b"security."
SET_APART = b"user.containers.override_"
"""Goes before the name of a `security.` attribute of a file with `CONTAINERS_XATTR`, as fuse-overlayfs has it: file
capabilities, which need the real owner. The real attributes of that kind are not shown."""

PERMISSIONS = 0o7777

_FORM = re.compile(
    rb"([0-9]{1,10}):([0-9]{1,10}):([0-7]{1,7})(?::([a-z]+)(?:-?([0-9]{1,10})[-:]([0-9]{1,10}))?.*)?", re.S
)
_TYPES = {
    b"file": stat.S_IFREG,
    b"dir": stat.S_IFDIR,
    b"symlink": stat.S_IFLNK,
    b"pipe": stat.S_IFIFO,
    b"socket": stat.S_IFSOCK,
    b"block": stat.S_IFBLK,
    b"char": stat.S_IFCHR,
}
_WORDS = {kind: word for word, kind in _TYPES.items()}
_DEVICES = (stat.S_IFBLK, stat.S_IFCHR)
_STAND_INS = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, *_DEVICES)
_ABSENT = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS)


class Override(NamedTuple):
    """Ids are those that the file's layer stores."""

    uid: int
    gid: int
    mode: int
    """st_mode; without type bits where the type is that of the real file."""
    rdev: int = 0

    def to_bytes(self) -> bytes:
        """The form that containers/storage writes."""
        kind = stat.S_IFMT(self.mode)
        word = _WORDS[kind or stat.S_IFREG]
        if kind in _DEVICES:
            word += b"-%d-%d" % (os.major(self.rdev), os.minor(self.rdev))
        return b"%d:%d:%04o:%s" % (self.uid, self.gid, self.mode & PERMISSIONS, word)

    def kind_over(self, real: int) -> int:
        """The type bits that a file with the real `st_mode` shows: only an empty regular file stands for another."""
        kind = stat.S_IFMT(self.mode)
        return kind if stat.S_ISREG(real) and kind in _STAND_INS else stat.S_IFMT(real)

    def over(self, real: Attributes) -> Attributes:
        """The attributes of a file that really has others."""
        kind = self.kind_over(real.mode)
        return real._replace(
            uid=self.uid,
            gid=self.gid,
            mode=kind | self.mode & PERMISSIONS,
            rdev=self.rdev if kind in _DEVICES else real.rdev,
        )


def parse(value: bytes) -> Override:
    """Every known form; LayerError for anything else."""
    found = _FORM.fullmatch(value.rstrip(b"\0\n"))
    if found is None:
        raise LayerError(f"an override of owner and mode is damaged: {value[:64]!r}")
    uid, gid, mode, word, major, minor = found.groups()
    kind = 0
    rdev = 0
    if word is not None:
        if word not in _TYPES or (_TYPES[word] in _DEVICES) != (major is not None):
            raise LayerError(f"an override of owner and mode names no type of file: {value[:64]!r}")
        kind = _TYPES[word]
        if kind in _DEVICES:
            if int(major) >= 2**32 or int(minor) >= 2**32:
                raise LayerError(f"an override of owner and mode names no device: {value[:64]!r}")
            rdev = os.makedev(int(major), int(minor))
    if int(uid) >= 2**32 or int(gid) >= 2**32:
        raise LayerError(f"an override of owner and mode has ids that are too large: {value[:64]!r}")
    return Override(int(uid), int(gid), kind | int(mode, 8) & PERMISSIONS, rdev)


def read_override(path: bytes, name: bytes, *, follow: bool = False) -> Override | None:
    """What the attribute of that name says; None where there is none."""
    try:
        value = os.getxattr(path, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return parse(value)


def detect(path: bytes) -> bytes | None:
    """The attribute that a tree uses: the one that its root carries, as fuse-overlayfs finds out."""
    for name in (CONTAINERS_XATTR, USER_XATTR, PRIVILEGED_XATTR):
        try:
            os.getxattr(path, name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
        else:
            return name
    return None
