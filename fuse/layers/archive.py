"""A layer that is an archive: an index, and the uncompressed tar as it is or in frames. Nothing is unpacked."""

from __future__ import annotations

import bisect
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from fuse.attributes import Attributes
from fuse.entry import Extent
from fuse.errors import LayerError
from fuse.frames import FrameCache, FramesReader
from fuse.index import Index
from fuse.indexformat import NAME_MAX, WHITEOUT, Node
from fuse.layers import Buffer, Place

_NOT_NAMES = (b"", b".", b"..")
_TYPE = 0o170000
_INODE = Node._fields.index("inode")

Row = tuple[int, bytes, Attributes | None]
"""(number of the node, name, what stat(2) shows); None instead of that for directories, whiteouts, and files of several
names."""

ArchiveKind = Literal["plain", "frames"]


class _PlainReader:
    """The bytes of an uncompressed tar."""

    def __init__(self, path: str | bytes) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def pread(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def parts(self, offset: int, length: int) -> list[Buffer]:
        return [os.pread(self._fd, length, offset)]

    def close(self) -> None:
        os.close(self._fd)


class ArchiveLayer:
    """A layer read through its index. The data is opened by `prepare`, or when the first file is read."""

    def __init__(
        self,
        index_path: str | bytes,
        data_path: str | bytes,
        kind: ArchiveKind = "frames",
        *,
        cache: FrameCache | None = None,
    ) -> None:
        self._index: Index = Index(index_path)
        self._data_path = data_path
        self._kind = kind
        self._cache = cache
        self._data: _PlainReader | FramesReader | None = None
        self._links: dict[int, list[int]] | None = None

    @property
    def span(self) -> int | None:
        return self._index.count

    @property
    def may_have_xattrs(self) -> bool:
        return self._index.has_xattrs

    def prepare(self) -> None:
        """Open the data."""
        self._opened_data()

    def root(self) -> Place:
        return self._place(0, self._index.node(0))

    def find(self, directory: int, name: bytes) -> Place | None:
        number = self._index.find(directory, name)
        if number is None:
            return None
        node = self._index.node(number)
        if node.parent != directory:
            raise self._misplaced(number)
        return self._place(number, node)

    def entries(self, directory: int) -> list[tuple[bytes, Place]]:
        index = self._index
        text = index.text
        numbers = index.children(directory)
        number = numbers.start - 1
        found = []
        for name_at, name_length, flags, parent, inode, mode, *_ in index.records(numbers):
            number += 1
            name = text(name_at, name_length)
            if parent != directory or name_length > NAME_MAX or b"/" in name or name in _NOT_NAMES:
                raise self._misplaced(number)
            if flags & WHITEOUT:
                mode, inode = 0, number
            elif inode != number:
                mode = index.node(inode).mode
            found.append((name, Place(self, number, mode, inode)))
        return found

    def listed(self, directory: int) -> list[bytes]:
        index = self._index
        text = index.text
        return [text(record[0], record[1]) for record in index.records(index.children(directory))]

    def rows(self, directory: int, skip: int, uids: Mapping[int, int], gids: Mapping[int, int]) -> Iterator[Row]:
        """What is in a directory, without its first `skip` names: for listings of everything with its attributes.

        `uids` and `gids` say what is shown for the ids that the layer stores.
        """
        index = self._index
        text = index.text
        make = tuple.__new__  # a third of the time that the class itself takes
        numbers = index.children(directory)[skip:]
        number = numbers.start - 1
        for (name_at, name_length, flags, parent, inode, mode, uid, gid, nlink, rdev, size, time, _, length, _, _) in (
            index.records(numbers)
        ):  # fmt: skip
            number += 1
            name = text(name_at, name_length)
            if parent != directory or name_length > NAME_MAX or b"/" in name or name in _NOT_NAMES:
                raise self._misplaced(number)
            kind = mode & _TYPE
            if kind == stat.S_IFDIR or nlink != 1 or flags & WHITEOUT or inode != number:
                yield number, name, None
                continue
            blocks = 0
            if kind == stat.S_IFREG:
                blocks, rdev = (min(rdev, size) + 511) >> 9, 0
            else:
                size = length if kind == stat.S_IFLNK else 0
            fields = (mode, 1, uids[uid], gids[gid], rdev, size, blocks, time, time, time)
            yield number, name, make(Attributes, fields)

    def place(self, number: int) -> Place:
        """The place of a node."""
        return self._place(number, self._index.node(number))

    def path(self, number: int) -> bytes:
        """The path of a node in the layer."""
        return self._index.path(number)

    def opaque(self, directory: int) -> bool:
        return self._index.node(directory).opaque

    def implicit(self, directory: int) -> bool:
        return self._index.node(directory).implicit

    def attributes(self, ref: int) -> Attributes:
        node = self._file(ref)
        mode = node.mode
        blocks, rdev = 0, node.rdev
        if stat.S_ISREG(mode):
            size = node.size
            blocks, rdev = (min(rdev, size) + 511) >> 9, 0
        else:
            size = node.length if stat.S_ISLNK(mode) else 0
        time = node.mtime_ns
        return Attributes(mode, node.nlink, node.uid, node.gid, rdev, size, blocks, time, time, time)

    def readlink(self, ref: int) -> bytes:
        return self._index.target(self._file(ref))

    def xattrs(self, ref: int) -> dict[bytes, bytes]:
        return dict(self._index.xattrs(self._file(ref)))

    def xattr(self, ref: int, name: bytes) -> bytes:
        node = self._file(ref)
        if node.xattr_count:
            for key, value in self._index.xattrs(node):
                if key == name:
                    return value
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    def names(self, place: Place) -> list[bytes]:
        if self._links is None:
            self._links = {}
            for number, record in enumerate(self._index.records(range(self._index.count))):
                if record[_INODE] != number:
                    self._links.setdefault(record[_INODE], [record[_INODE]]).append(number)
        return [self._index.path(number) for number in self._links.get(place.ident, (place.ident,))]

    def open(self, ref: int) -> ArchiveFile:
        node = self._file(ref)
        if not stat.S_ISREG(node.mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return ArchiveFile(self._opened_data(), node.size, self._index.extents(node))

    def close(self) -> None:
        self._index.close()
        if self._data is not None:
            self._data.close()

    def _opened_data(self) -> _PlainReader | FramesReader:
        if self._data is None:
            if self._kind == "plain":
                self._data = _PlainReader(self._data_path)
            else:
                self._data = FramesReader(self._data_path, cache=self._cache, lazy=True)
        return self._data

    def _place(self, number: int, node: Node) -> Place:
        if node.whiteout:
            return Place(self, number, 0, number)
        if node.inode != number:
            return Place(self, number, self._index.node(node.inode).mode, node.inode)
        return Place(self, number, node.mode, number)

    def _file(self, number: int) -> Node:
        node = self._index.node(number)
        return node if node.inode == number else self._index.node(node.inode)

    def _misplaced(self, number: int) -> LayerError:
        return LayerError(f"a layer's index is damaged: node {number} has a wrong parent, or a name that is none")

    def __repr__(self) -> str:
        return f"<ArchiveLayer {self._index!r}>"


class ArchiveFile:
    """A regular file in an archive."""

    __slots__ = ("_at", "_data", "_extents", "_have", "_size")

    def __init__(self, data: _PlainReader | FramesReader, size: int, extents: Sequence[Extent]) -> None:
        self._data = data
        self._size = size
        self._extents = extents
        self._at = self._have = 0  # of the data at the beginning of the file: nearly always that is all
        if len(extents) == 1 and extents[0][0] == 0:
            _, self._at, self._have = extents[0]

    def pread(self, offset: int, length: int) -> bytes:
        parts = self.pread_parts(offset, length)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def pread_parts(self, offset: int, length: int) -> list[Buffer]:
        length = min(length, self._size - offset)
        if length <= 0:
            return []
        if offset + length > self._have:
            return [self._sparse(offset, length)]
        parts = self._data.parts(self._at + offset, length)
        if (len(parts[0]) if len(parts) == 1 else sum(map(len, parts))) != length:
            raise _cut_short()
        return parts

    def segments(self) -> Iterator[Extent]:
        return ((logical, 0, length) for logical, _, length in self._extents)

    def close(self) -> None:
        """The archive stays open for other files."""

    def _sparse(self, offset: int, length: int) -> bytes:
        result = bytearray(length)
        end = offset + length
        extents = self._extents
        first = max(0, bisect.bisect_right(extents, offset, key=_logical) - 1)
        for number in range(first, len(extents)):
            logical, at, have = extents[number]
            if logical >= end:
                break
            start, stop = max(logical, offset), min(logical + have, end)
            if start < stop:
                data = self._data.pread(at + start - logical, stop - start)
                if len(data) != stop - start:
                    raise _cut_short()
                result[start - offset : stop - offset] = data
        return bytes(result)


def _logical(extent: Extent) -> int:
    return extent[0]


def _cut_short() -> LayerError:
    return LayerError("the data of a layer is cut short")
