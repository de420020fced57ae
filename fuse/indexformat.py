"""The binary format of a layer's index.

    header    magic, counts, section offsets, CRC-32 of everything after the header
    nodes     one fixed record per name, breadth first: the children of a directory are neighbours, sorted by name,
              and come after it; node 0 is the root directory
    extents   (logical, offset, length) of regular files
    xattrs    (name offset, name length, value offset, value length)
    heap      names, symlink targets, xattr names and values

All numbers are little-endian. Directories are searched by bisection. Names of one file (hard links) have a record each,
with the same `inode`: the number of the record of its first name, which is what counts for everything but the name.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC = b"RCINDEX1"

HEADER = struct.Struct("<8sIIIIQQQQII")
"""Magic; numbers of nodes, extents, xattrs, and 0; offsets of nodes, extents, xattrs, heap; heap length; CRC-32."""
NODE = struct.Struct("<IHHIIIIIIQQqIIII")
"""The fields of `Node`."""
NAME_FIELDS = struct.Struct("<IH")
"""Where a node begins: the place of its name."""
INODE_AT = 12
"""Where `inode` is in a node."""
INODE_FIELD = struct.Struct("<I")
EXTENT = struct.Struct("<QQQ")
XATTR = struct.Struct("<IIII")

WHITEOUT, OPAQUE, IMPLICIT = 1, 2, 4

NAME_MAX = 255
PATH_MAX = 4096
XATTR_VALUE_MAX = 65536


class Node(NamedTuple):
    """One record. `first` and `length` are children of a directory, extents of a file, or a symlink target's place.

    `rdev` is of a device; of a regular file it is how many of its bytes are stored, which a sparse file has fewer of.
    """

    name_at: int
    name_length: int
    flags: int
    parent: int
    inode: int
    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    mtime_ns: int
    first: int
    length: int
    xattr_first: int
    xattr_count: int

    @property
    def whiteout(self) -> bool:
        return self.flags & WHITEOUT != 0

    @property
    def opaque(self) -> bool:
        return self.flags & OPAQUE != 0

    @property
    def implicit(self) -> bool:
        return self.flags & IMPLICIT != 0
