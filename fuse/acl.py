"""POSIX access control lists, as extended attributes hold them (acl(5), linux/posix_acl_xattr.h). Pure.

The value is a version, 2, and entries of a tag, permissions and an id, little-endian. Other than the rest of what a
file system keeps, ids in it are those of whoever asks the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from fuse.errors import LayerError

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
"""Of a directory: what is made in it begins with that, and not with what umask(2) leaves."""

ACL_XATTRS = frozenset((ACCESS, DEFAULT))

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF


class Tag(IntEnum):
    USER_OBJ = 0x01
    USER = 0x02
    GROUP_OBJ = 0x04
    GROUP = 0x08
    MASK = 0x10
    OTHER = 0x20


class Entry(NamedTuple):
    tag: Tag
    permissions: int
    """4 to read, 2 to write, 1 to execute."""
    ident: int = _NO_ID
    """The user or group that a named entry is about."""


class Acl(NamedTuple):
    entries: tuple[Entry, ...]

    @classmethod
    def parse(cls, value: bytes) -> Acl:
        """LayerError for what is none."""
        if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
            raise LayerError(f"an access control list of {len(value)} bytes is cut short")
        if _HEADER.unpack_from(value)[0] != _VERSION:
            raise LayerError("an access control list has a version that nobody knows")
        try:
            entries = [
                Entry(Tag(tag), bits & 7, ident) for tag, bits, ident in _ENTRY.iter_unpack(value[_HEADER.size :])
            ]
        except ValueError:
            raise LayerError("an access control list has an entry that nobody knows") from None
        found = cls(tuple(entries))
        if not all(found.of(tag) for tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER)):
            raise LayerError("an access control list does not say who the owner is, or the group, or the others")
        return found

    def to_bytes(self) -> bytes:
        return _HEADER.pack(_VERSION) + b"".join([_ENTRY.pack(*entry) for entry in self.entries])

    def of(self, tag: Tag) -> Entry | None:
        """The first entry of a tag."""
        for entry in self.entries:
            if entry.tag == tag:
                return entry
        return None

    @property
    def minimal(self) -> bool:
        """Whether a mode says as much."""
        return all(entry.tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER) for entry in self.entries)

    def mapped(self, uid: Callable[[int], int], gid: Callable[[int], int]) -> Acl:
        """With other ids for the same users and groups."""
        to = {Tag.USER: uid, Tag.GROUP: gid}
        return Acl(
            tuple(
                entry._replace(ident=to[entry.tag](entry.ident)) if entry.tag in to else entry for entry in self.entries
            )
        )

    def inherited(self, mode: int) -> tuple[int, Acl | None]:
        """The mode and the access list of a file made in a directory with this default list.

        As acl(5) has it under "object creation and default acls": `mode` is what open(2) or mkdir(2) was told, which
        takes away from what the list gives to the owner, to the group class and to others; umask(2) does not count.
        None where the mode says everything.
        """
        classes = {Tag.USER_OBJ: 6, Tag.GROUP_OBJ: 3, Tag.OTHER: 0}
        if self.of(Tag.MASK) is not None:
            del classes[Tag.GROUP_OBJ]
            classes[Tag.MASK] = 3
        entries = []
        granted = 0
        for entry in self.entries:
            shift = classes.get(entry.tag)
            if shift is not None:
                entry = entry._replace(permissions=entry.permissions & mode >> shift)
                granted |= entry.permissions << shift
            entries.append(entry)
        made = Acl(tuple(entries))
        return mode & ~0o777 | granted, None if made.minimal else made

    def mode_without(self, mode: int) -> int:
        """The mode for a file that cannot have this access list: the group gets no more than it had.

        With a list, the mode shows the mask in the place of the group's permissions.
        """
        group = self.of(Tag.GROUP_OBJ)
        least = mode >> 3 & 7
        if group is not None:
            least &= group.permissions
        return mode & ~0o070 | least << 3
