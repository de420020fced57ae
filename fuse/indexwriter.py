"""From the entries of an archive to a layer's index."""

from __future__ import annotations

import stat
import struct
import zlib

from fuse.entry import Entry
from fuse.errors import LayerError, LinkToNothing
from fuse.indexformat import (
    EXTENT,
    HEADER,
    IMPLICIT,
    MAGIC,
    NAME_MAX,
    NODE,
    OPAQUE,
    PATH_MAX,
    WHITEOUT,
    XATTR,
    XATTR_VALUE_MAX,
)
from fuse.whiteout import OPAQUE_MARKER, WHITEOUT_META_PREFIX, WHITEOUT_PREFIX

MAX_SYMLINKS = 40
"""As the kernel's limit: how many symbolic links the way to one name may pass through."""
_MAX_HEAP = 0xFFFFFFFF
_TIME_LIMIT = 2**63 - 1
_NOT_NAMES = (b"", b".", b"..")
_KINDS = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK))


_FIELDS = struct.Struct("<IIQQq")
"""uid, gid, rdev, size, time: those of an inode that come out as they went in."""


class _Inode:
    """A file while an index is written; hard links share it. There may be millions, so they are kept small."""

    __slots__ = ("data", "fields", "mode", "nlink", "number", "xattrs")

    def __init__(self, entry: Entry) -> None:
        self.mode = entry.mode
        self.xattrs = entry.xattrs
        self.nlink = 0
        self.number = -1
        kind = stat.S_IFMT(entry.mode)
        rdev = entry.rdev
        self.data = b""  # a link's target, or the extents of a file
        if kind == stat.S_IFREG:
            self.data = b"".join(EXTENT.pack(*extent) for extent in entry.extents)
            rdev = sum(length for _, _, length in entry.extents)
        elif kind == stat.S_IFLNK:
            self.data = entry.target
        time = min(max(entry.mtime_ns, -_TIME_LIMIT), _TIME_LIMIT)
        self.fields = _FIELDS.pack(entry.uid, entry.gid, rdev, entry.size, time)


def _implied() -> _Inode:
    """Of a directory that no entry names."""
    return _Inode(Entry(b"", stat.S_IFDIR | 0o755))


class _Name:
    """A name while an index is written."""

    __slots__ = ("children", "flags", "inode", "number", "parent", "text")

    def __init__(self, text: bytes, parent: _Name | None, inode: _Inode, flags: int = 0) -> None:
        self.text = text
        self.parent = parent
        self.inode = inode
        self.flags = flags
        self.number = 0
        self.children: dict[bytes, _Name] | None = {} if stat.S_ISDIR(inode.mode) else None


class IndexWriter:
    """Collects the entries of an archive in its order, then writes the index.

    What extraction would do, it does: a later entry replaces an earlier one of the same path (a directory keeps what is
    in it if a directory replaces it), missing directories come into being (marked implicit), and symbolic links of this
    layer on the way to a name are followed inside it.

    Whiteouts come raw or as flags. An entry named `.wh.NAME` marks NAME as deleted below, and `.wh..wh..opq` its
    directory as opaque, wherever in the archive they stand (OCI image spec, layer.md "Whiteouts"); other `.wh..wh.`
    names are AUFS's own and are dropped. A deleted name that the layer has itself hides what is below: a directory
    becomes opaque.

    LayerError for what no file system can hold: a name of more than 255 bytes, "..", NUL. LinkToNothing for a hard link
    whose target is not there yet; it changes nothing, and may be added again later.
    """

    def __init__(self) -> None:
        self._root = _Name(b"", None, _implied(), IMPLICIT)
        self._last: tuple[bytes, _Name] = b"", self._root  # the directory of the last entry, by its path
        self._deleted: list[tuple[_Name, bytes]] = []

    def add(self, entry: Entry) -> None:
        """Take the next entry of the archive."""
        path = entry.path
        above, _, name = path.rpartition(b"/")
        plain = name not in _NOT_NAMES and len(name) <= NAME_MAX and len(path) <= PATH_MAX and b"\0" not in name
        if plain and above == self._last[0]:
            parent = self._last[1]
        else:
            parts = self._split(path)
            if not parts:
                self._add_root(entry)
                return
            name = parts.pop()
            parent = self._directory(parts, path)
            self._last = above, parent
        if name.startswith(WHITEOUT_PREFIX):
            if name == OPAQUE_MARKER:
                parent.flags |= OPAQUE
            elif not name.startswith(WHITEOUT_META_PREFIX):
                deleted = name[len(WHITEOUT_PREFIX) :]
                if deleted in (b"", b".", b".."):
                    raise LayerError(f"malformed whiteout {path!r}")
                self._deleted.append((parent, deleted))
            return
        if entry.whiteout:
            self._deleted.append((parent, name))
            return
        assert parent.children is not None
        if entry.hardlink is not None:
            inode = self._link_target(entry)
        else:
            self._check(entry)
            inode = _Inode(entry)
        flags = (OPAQUE if entry.opaque else 0) | (IMPLICIT if entry.implicit else 0)
        earlier = parent.children.get(name)
        if earlier is not None:
            self._last = b"", self._root  # the way to it may be another now
        if earlier is not None and earlier.children is not None and stat.S_ISDIR(inode.mode):
            earlier.inode = inode
            earlier.flags = earlier.flags & OPAQUE | flags
            return
        parent.children[name] = _Name(name, parent, inode, flags)

    def _add_root(self, entry: Entry) -> None:
        if not stat.S_ISDIR(entry.mode):
            raise LayerError("the root of a layer is not a directory")
        self._check(entry)
        self._root.inode = _Inode(entry)
        self._root.flags = self._root.flags & OPAQUE | (OPAQUE if entry.opaque else 0)

    def write(self, path: str | bytes) -> None:
        """Write the index to a new or emptied file. The caller makes it appear under its final name."""
        data = self._serialize()
        with open(path, "wb") as file:
            file.writelines(data)

    def _serialize(self) -> list[bytes | bytearray]:
        self._settle_whiteouts()
        names = self._number()
        heap = bytearray()
        interned: dict[bytes, int] = {}

        def place(text: bytes) -> int:
            offset = interned.get(text)
            if offset is None:
                offset = interned[text] = len(heap)
                heap.extend(text)
            return offset

        nodes = bytearray()
        extents = bytearray()
        xattrs = bytearray()
        first_child = 1
        for number, name in enumerate(names):
            inode = name.inode
            first = count = xattr_first = xattr_count = 0
            kind = stat.S_IFMT(inode.mode)
            if name.children is not None:
                first, count = first_child, len(name.children)
                first_child += count
            elif inode.number == number and not name.flags & WHITEOUT:
                if kind == stat.S_IFLNK:
                    first, count = place(inode.data), len(inode.data)
                elif kind == stat.S_IFREG:
                    first, count = len(extents) // EXTENT.size, len(inode.data) // EXTENT.size
                    extents += inode.data
            if inode.number == number and inode.xattrs:
                xattr_first, xattr_count = len(xattrs) // XATTR.size, len(inode.xattrs)
                for key, value in inode.xattrs:
                    xattrs += XATTR.pack(place(key), len(key), place(value), len(value))
            uid, gid, rdev, size, time = _FIELDS.unpack(inode.fields)
            nodes += NODE.pack(
                place(name.text), len(name.text), name.flags, name.parent.number if name.parent else 0, inode.number,
                inode.mode, uid, gid, max(1, inode.nlink), rdev, size, time, first, count, xattr_first, xattr_count,
            )  # fmt: skip
        if len(heap) > _MAX_HEAP:
            raise LayerError("the names of a layer are more than an index can hold")
        nodes_at = HEADER.size
        extents_at = nodes_at + len(nodes)
        xattrs_at = extents_at + len(extents)
        heap_at = xattrs_at + len(xattrs)
        crc = 0
        for section in (nodes, extents, xattrs, heap):
            crc = zlib.crc32(section, crc)
        header = HEADER.pack(
            MAGIC, len(names), len(extents) // EXTENT.size, len(xattrs) // XATTR.size, 0,
            nodes_at, extents_at, xattrs_at, heap_at, len(heap), crc,
        )  # fmt: skip
        return [header, nodes, extents, xattrs, heap]

    def _number(self) -> list[_Name]:
        """All names breadth first; gives each inode the number of its first name."""
        names = [self._root]
        for name in names:  # grows while it is walked
            if name.children:
                names.extend(name.children[text] for text in sorted(name.children))
        for name in names:
            name.inode.nlink = 0
            name.inode.number = -1
        for number, name in enumerate(names):
            name.number = number
            if name.inode.number < 0:
                name.inode.number = number
            name.inode.nlink += 1
        return names

    def _settle_whiteouts(self) -> None:
        for parent, text in self._deleted:
            assert parent.children is not None
            name = parent.children.get(text)
            if name is None:
                parent.children[text] = _Name(text, parent, _Inode(Entry(text, 0, whiteout=True)), WHITEOUT)
            elif name.children is not None:
                name.flags |= OPAQUE
        self._deleted.clear()

    def _split(self, path: bytes) -> list[bytes]:
        if len(path) > PATH_MAX or b"\0" in path:
            raise LayerError(f"malformed path {path[:100]!r} in a layer")
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        for part in parts:
            if part == b".." or len(part) > NAME_MAX:
                raise LayerError(f"malformed path {path[:300]!r} in a layer")
        return parts

    def _directory(self, parts: list[bytes], path: bytes) -> _Name:
        """The directory that a path's parents lead to, made where it is missing."""
        where = self._root
        pending = list(reversed(parts))
        followed = 0
        while pending:
            part = pending.pop()
            if part == b"..":  # from a symbolic link
                where = where.parent or where
                continue
            assert where.children is not None
            name = where.children.get(part)
            if name is None:
                name = where.children[part] = _Name(part, where, _implied(), IMPLICIT)
            if name.children is not None:
                where = name
                continue
            if not stat.S_ISLNK(name.inode.mode):
                raise LayerError(f"{path!r} in a layer lies under {part!r}, which is not a directory")
            followed += 1
            target = name.inode.data
            if followed > MAX_SYMLINKS:
                raise LayerError(f"too many symbolic links on the way to {path!r} in a layer")
            if target.startswith(b"/"):
                where = self._root
            pending.extend(step for step in reversed(target.split(b"/")) if step not in (b"", b"."))
        return where

    def _link_target(self, entry: Entry) -> _Inode:
        assert entry.hardlink is not None
        parts = self._split(entry.hardlink)
        target: _Name | None = None
        if parts:
            text = parts.pop()
            where = self._existing(parts)
            target = where.children.get(text) if where is not None and where.children is not None else None
        if target is None:
            raise LinkToNothing(f"hard link {entry.path!r} in a layer leads to {entry.hardlink!r}, which is not there")
        if target.children is not None:
            raise LayerError(f"hard link {entry.path!r} in a layer leads to a directory")
        return target.inode

    def _existing(self, parts: list[bytes]) -> _Name | None:
        where = self._root
        for depth, part in enumerate(parts):
            name = where.children.get(part) if where.children is not None else None
            if name is not None and name.children is None and stat.S_ISLNK(name.inode.mode):
                return self._directory(parts, b"/".join(parts[: depth + 1]))
            if name is None or name.children is None:
                return None
            where = name
        return where

    @staticmethod
    def _check(entry: Entry) -> None:
        kind = stat.S_IFMT(entry.mode)
        if kind not in _KINDS or entry.mode > 0xFFFF:
            raise LayerError(f"{entry.path!r} in a layer has no known file type")
        for number, limit in ((entry.uid, 2**32), (entry.gid, 2**32), (entry.size, 2**63), (entry.rdev, 2**64)):
            if not 0 <= number < limit:
                raise LayerError(f"{entry.path!r} in a layer has a number out of range")
        if kind == stat.S_IFLNK and not 0 < len(entry.target) < PATH_MAX:
            raise LayerError(f"symbolic link {entry.path!r} in a layer has a malformed target")
        end = 0
        for logical, offset, length in entry.extents:
            if logical < end or offset < 0 or length <= 0 or logical + length > entry.size or offset >= 2**62:
                raise LayerError(f"the data of {entry.path!r} in a layer is out of place")
            end = logical + length
        for key, value in entry.xattrs:
            if not 0 < len(key) <= NAME_MAX or b"\0" in key or len(value) > XATTR_VALUE_MAX:
                raise LayerError(f"{entry.path!r} in a layer has a malformed extended attribute")
