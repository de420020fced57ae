"""A layer's index: every entry of an archive in a compact file that is mapped and never parsed whole.

The format is in `fuse.indexformat`. The file is made on this machine from an image that nobody vouches for, and it may
lie on a bad disk: whatever does not hold together is a LayerError, at the moment it is met.
"""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from typing import overload

from fuse.entry import Entry, Extent
from fuse.errors import LayerError
from fuse.indexformat import (
    EXTENT,
    HEADER,
    INODE_AT,
    INODE_FIELD,
    MAGIC,
    NAME_FIELDS,
    NAME_MAX,
    NODE,
    PATH_MAX,
    XATTR,
    XATTR_VALUE_MAX,
    Node,
)
from fuse.indexwriter import IndexWriter

__all__ = ["Entry", "Extent", "Index", "IndexWriter", "Node"]


class Index:
    """A mapped index. Nodes are addressed by number; 0 is the root directory.

    OSError where the file cannot be opened, LayerError where it is damaged.
    """

    def __init__(self, path: str | bytes) -> None:
        self._path = os.fsdecode(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if size < HEADER.size:
                raise self._damaged("it is too short")
            self._map = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)
        self.count: int
        (magic, self.count, extents, xattrs, _, self._nodes_at, self._extents_at, self._xattrs_at, self._heap_at, heap,
         self._crc) = HEADER.unpack_from(self._map)  # fmt: skip
        self._extent_count, self._xattr_count, self._heap_size = extents, xattrs, heap
        if magic != MAGIC:
            raise self._damaged("it is not an index of this version")
        if (
            self.count == 0
            or self._nodes_at != HEADER.size
            or self._extents_at != self._nodes_at + self.count * NODE.size
            or self._xattrs_at != self._extents_at + extents * EXTENT.size
            or self._heap_at != self._xattrs_at + xattrs * XATTR.size
            or self._heap_at + heap != size
        ):
            raise self._damaged("its sections do not fit together")
        if not stat.S_ISDIR(self.node(0).mode):
            raise self._damaged("its root is not a directory")

    @property
    def has_xattrs(self) -> bool:
        """Whether any file has extended attributes."""
        return bool(self._xattr_count)

    def verify(self) -> None:
        """Compare the checksum of the whole file; LayerError where it differs."""
        if zlib.crc32(self._view[HEADER.size :]) != self._crc:
            raise self._damaged("its checksum differs")

    def close(self) -> None:
        """Unmap it; `records` that are still being gone through keep it for as long as they live."""
        self._view.release()
        try:
            self._map.close()
        except BufferError:
            pass

    def node(self, number: int) -> Node:
        """The record of a node, as stored."""
        if not 0 <= number < self.count:
            raise self._damaged(f"it has no node {number}")
        return Node._make(NODE.unpack_from(self._map, self._nodes_at + number * NODE.size))

    def inode(self, number: int) -> int:
        """The number of the first name of a node's file."""
        if not 0 <= number < self.count:
            raise self._damaged(f"it has no node {number}")
        found: int = INODE_FIELD.unpack_from(self._map, self._nodes_at + number * NODE.size + INODE_AT)[0]
        return found

    def name(self, node: Node) -> bytes:
        return self.text(node.name_at, node.name_length)

    def children(self, number: int) -> range:
        """The numbers of the nodes in a directory, sorted by name."""
        node = self.node(number)
        if not stat.S_ISDIR(node.mode):
            return range(0)
        if node.length and (node.first <= number or node.first + node.length > self.count):
            raise self._damaged(f"the children of node {number} are out of place")
        return range(node.first, node.first + node.length)

    def records(self, numbers: range) -> Iterator[tuple[int, ...]]:
        """The fields of nodes that are neighbours, as those of `Node`: for many at once."""
        start = self._nodes_at + numbers.start * NODE.size
        return NODE.iter_unpack(self._view[start : start + len(numbers) * NODE.size])

    def find(self, directory: int, name: bytes) -> int | None:
        """The number of the node of that name in a directory."""
        children = self.children(directory)
        low, high = children.start, children.stop
        if low == high:
            return None
        stored, nodes_at, heap_at = self._map, self._nodes_at, self._heap_at
        size, unpack = NODE.size, NAME_FIELDS.unpack_from
        while low < high:
            middle = (low + high) // 2
            at, length = unpack(stored, nodes_at + middle * size)
            at += heap_at
            found = stored[at : at + length]  # in a damaged index anything, or nothing
            if found < name:
                low = middle + 1
            elif found == name:
                return middle
            else:
                high = middle
        return None

    def target(self, node: Node) -> bytes:
        """Where a symbolic link points."""
        if node.length >= PATH_MAX:
            raise self._damaged("a symbolic link is too long")
        return self.text(node.first, node.length)

    def extents(self, node: Node) -> Sequence[Extent]:
        """Where a regular file's data is. Of a file with many extents they stay in the index."""
        if node.first + node.length > self._extent_count:
            raise self._damaged("extents are out of place")
        start = self._extents_at + node.first * EXTENT.size
        if node.length == 1:
            return (EXTENT.unpack_from(self._map, start),)
        return _Extents(self._map, start, node.length) if node.length else ()

    def xattrs(self, node: Node) -> tuple[tuple[bytes, bytes], ...]:
        if node.xattr_first + node.xattr_count > self._xattr_count:
            raise self._damaged("extended attributes are out of place")
        start = self._xattrs_at + node.xattr_first * XATTR.size
        found = []
        for number in range(node.xattr_count):
            name_at, name_length, at, length = XATTR.unpack_from(self._map, start + number * XATTR.size)
            if name_length > NAME_MAX or length > XATTR_VALUE_MAX:
                raise self._damaged("an extended attribute is too long")
            found.append((self.text(name_at, name_length), self.text(at, length)))
        return tuple(found)

    def path(self, number: int) -> bytes:
        """The path of a node; b"" is the root."""
        names: list[bytes] = []
        while number:
            node = self.node(number)
            if node.parent >= number:
                raise self._damaged(f"the parent of node {number} is out of place")
            names.append(self.name(node))
            number = node.parent
        return b"/".join(reversed(names))

    def entry(self, number: int) -> Entry:
        """A node as the Entry it was made from."""
        name = self.node(number)
        node = self.node(name.inode) if name.inode != number else name
        kind = stat.S_IFMT(node.mode)
        return Entry(
            path=self.path(number),
            mode=node.mode,
            uid=node.uid,
            gid=node.gid,
            size=node.size,
            mtime_ns=node.mtime_ns,
            rdev=0 if kind == stat.S_IFREG else node.rdev,
            target=self.target(node) if kind == stat.S_IFLNK else b"",
            hardlink=self.path(name.inode) if name.inode != number else None,
            xattrs=self.xattrs(node),
            extents=tuple(self.extents(node)) if kind == stat.S_IFREG else (),
            whiteout=node.whiteout,
            opaque=node.opaque,
            implicit=node.implicit,
        )

    def lookup(self, path: bytes) -> Entry | None:
        """The entry of that very path; symbolic links are not followed."""
        number: int | None = 0
        for name in path.split(b"/") if path else ():
            number = self.find(number or 0, name)
            if number is None:
                return None
        return self.entry(number or 0)

    def entries(self) -> Iterator[Entry]:
        """Every entry, a directory before what is in it, the root first, a file's first name before its others."""
        return (self.entry(number) for number in range(self.count))

    def text(self, offset: int, length: int) -> bytes:
        """A piece of the heap: a name, a target, an attribute."""
        if offset + length > self._heap_size:
            raise self._damaged("a name is out of place")
        start = self._heap_at + offset
        return self._map[start : start + length]

    def _damaged(self, why: str) -> LayerError:
        return LayerError(f"layer index {self._path} is damaged: {why}")

    def __repr__(self) -> str:
        return f"<Index {self._path} {self.count} nodes>"


class _Extents(Sequence[Extent]):
    """Extents that are unpacked when they are asked for: a sparse file may have a million."""

    def __init__(self, stored: mmap.mmap, start: int, count: int) -> None:
        self._stored = stored
        self._start = start
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> Extent: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Extent]: ...

    def __getitem__(self, number: int | slice) -> Extent | Sequence[Extent]:
        if isinstance(number, slice):
            return [self[at] for at in range(*number.indices(self._count))]
        if not 0 <= number < self._count:
            raise IndexError(number)
        logical, at, length = EXTENT.unpack_from(self._stored, self._start + number * EXTENT.size)
        return logical, at, length
