"""An incremental parser of layer archives: bytes in, entries and file data out.

Reads what image tools write: ustar, V7, pax (with SCHILY and LIBARCHIVE extended attributes), GNU long names, base-256
numbers and all four forms of GNU sparse files. Sources: POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format" and
"Storing Sparse Files". Global pax headers are skipped, as Go's `archive/tar`, and so every other engine, does.

The parser does no I/O and keeps at most one record. Everything in an archive is hostile: each number is checked
before it is used, names are made relative, `..` above the root is refused, and each way of being malformed raises
ImageError.
"""

from __future__ import annotations

import base64
import binascii
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from rootless.errors import ImageError
from rootless.oci.tarfields import (
    BLOCK,
    NAME_MAX,
    PATH_MAX,
    decimal,
    normal_path,
    number,
    padded,
    shown,
    text,
    time_ns,
    verify_checksum,
)

__all__ = ["Limits", "TarEntry", "TarParser", "normal_path"]

_ZERO = bytes(BLOCK)
_TYPE_BITS = {
    0x00: stat.S_IFREG,
    0x30: stat.S_IFREG,
    0x31: stat.S_IFREG,  # hard link
    0x32: stat.S_IFLNK,
    0x33: stat.S_IFCHR,
    0x34: stat.S_IFBLK,
    0x35: stat.S_IFDIR,
    0x36: stat.S_IFIFO,
    0x37: stat.S_IFREG,  # contiguous
    0x53: stat.S_IFREG,  # GNU sparse
}
_HARD_LINK, _SYMLINK, _SPARSE, _LONG_NAME, _LONG_LINK, _PAX, _GLOBAL, _LABEL = b"12SLKxgV"
_WITH_DATA = frozenset(b"\x0007S")


class TarEntry(NamedTuple):
    """One member of an archive."""

    path: bytes
    """Relative, without leading `./` or trailing `/`; `b""` is the root directory."""
    mode: int
    """st_mode with its type bits. A hard link has those of a regular file."""
    uid: int
    gid: int
    size: int
    """Bytes of a regular file, holes included."""
    mtime_ns: int
    major: int
    minor: int
    target: bytes
    """Of a symbolic link, as it was written."""
    hardlink: bytes | None
    """Of a hard link: the normal form of the path that it is another name of."""
    xattrs: tuple[tuple[bytes, bytes], ...]
    extents: tuple[tuple[int, int, int], ...]
    """Where the data is: (offset in the file, offset in the archive, length), ascending; what is missing are holes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may hold."""

    entries: int = 5_000_000
    record: int = 1 << 20
    """Bytes of one long name or pax record."""
    metadata: int = 1 << 29
    """Bytes of all names, attributes and sparse maps together."""
    extents: int = 1 << 20
    """Of one sparse file."""
    xattr: int = 1 << 16
    """Bytes of one value, Linux's XATTR_SIZE_MAX."""


class TarParser:
    """Parses one archive: `feed` each chunk in order, then `close`.

    With `data=True`, an entry is followed by memoryviews on the chunks, which are the entry's stored bytes in order:
    what its extents describe, holes left out. They are valid until the chunk is reused.
    """

    def __init__(self, *, data: bool = False, limits: Limits | None = None) -> None:
        self._with_data = data
        self._limits = limits or Limits()
        self._offset = 0  # of the next byte to consume, in the archive
        self._need = BLOCK  # bytes that the next step wants at once
        self._held = bytearray()
        self._step: Callable[[bytes], TarEntry | None] = self._header
        self._data_left = 0
        self._skip_left = 0
        self._ended = False
        self._lone_zero = False
        self._entries = 0
        self._metadata = 0
        self._long_name: bytes | None = None
        self._long_link: bytes | None = None
        self._pax: dict[bytes, bytes] = {}
        self._pax_sparse: list[bytes] = []
        self._pending: _Header | None = None  # a sparse file whose map is still incomplete
        self._sparse: list[tuple[int, int]] = []
        self._map = bytearray()  # the sparse map that precedes a file's data, and the lines in it
        self._map_lines = 0

    def feed(self, chunk: bytes) -> list[TarEntry | memoryview]:
        """The entries that are complete with `chunk`, and the data in it if asked for. Raises ImageError."""
        events: list[TarEntry | memoryview] = []
        view = memoryview(chunk)
        position, end = 0, len(chunk)
        while position < end:
            if self._ended:
                self._offset += end - position
                break
            if self._data_left:
                count = min(self._data_left, end - position)
                if self._with_data:
                    events.append(view[position : position + count])
                self._data_left -= count
            elif self._skip_left:
                count = min(self._skip_left, end - position)
                self._skip_left -= count
            else:
                count = min(self._need - len(self._held), end - position)
                if count == self._need:
                    block = bytes(view[position : position + count])
                else:
                    self._held += view[position : position + count]
                    if len(self._held) < self._need:
                        self._offset += count
                        position += count
                        continue
                    block = bytes(self._held)
                    self._held.clear()
                self._offset += count
                position += count
                entry = self._step(block)
                if entry is not None:
                    events.append(entry)
                continue
            self._offset += count
            position += count
        return events

    def close(self) -> None:
        """Say that the archive is at its end. Raises ImageError if it stops in the middle of something.

        The last file's padding may be missing, as in what `umoci insert` writes.
        """
        middle = self._data_left or self._skip_left >= BLOCK or self._held or self._step != self._header
        if not self._ended and (middle or self._pax or self._long_name is not None or self._long_link is not None):
            raise ImageError(f"a layer's tar archive is cut off after {self._offset} bytes")

    def _header(self, block: bytes) -> TarEntry | None:
        if block == _ZERO:
            self._ended, self._lone_zero = self._lone_zero, True
            return None
        if self._lone_zero:
            raise self._bad("a header follows the end marker")
        verify_checksum(block)
        kind = block[156]
        size = number(block[124:136], "size")
        if kind in (_LONG_NAME, _LONG_LINK, _PAX):
            self._read_record(kind, size)
            return None
        if kind in (_GLOBAL, _LABEL):
            self._skip_left = padded(size)
            return None
        type_bits = _TYPE_BITS.get(kind)
        if type_bits is None:
            raise self._bad(f"an entry has the unknown type {chr(kind)!r}")
        return self._member(block, kind, type_bits, size)

    def _read_record(self, kind: int, size: int) -> None:
        if size > self._limits.record:
            raise self._bad(f"a name or attribute record has {size} bytes; the limit is {self._limits.record}")
        if size == 0:
            return
        self._spend(size)

        def complete(block: bytes) -> None:
            content = block[:size]
            if kind == _LONG_NAME:
                self._long_name = content.split(b"\0", 1)[0]
            elif kind == _LONG_LINK:
                self._long_link = content.split(b"\0", 1)[0]
            else:
                self._read_pax(content)
            self._await_header()

        self._need = padded(size)
        self._step = complete

    def _await_header(self) -> None:
        self._need = BLOCK
        self._step = self._header

    def _read_pax(self, content: bytes) -> None:
        """Records of `length keyword=value\\n` (POSIX pax, "Extended Header")."""
        position = 0
        while position < len(content):
            space = content.find(b" ", position, position + 20)
            digits = content[position:space]
            if space < 0 or not digits.isdigit():
                raise self._bad("a pax record has no length")
            end = position + int(digits)
            if end <= space + 1 or end > len(content) or content[end - 1 : end] != b"\n":
                raise self._bad("a pax record has a wrong length")
            key, equals, value = content[space + 1 : end - 1].partition(b"=")
            if not equals or not key:
                raise self._bad("a pax record has no keyword")
            if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                self._pax_sparse.append(value)
            else:
                self._pax[key] = value
            position = end

    def _member(self, block: bytes, kind: int, type_bits: int, size: int) -> TarEntry | None:
        pax, self._pax = self._pax, {}
        pax_sparse, self._pax_sparse = self._pax_sparse, []
        long_name, self._long_name = self._long_name, None
        long_link, self._long_link = self._long_link, None
        name = text(block[0:100])
        if block[257:263] == b"ustar\0" and block[345]:
            name = text(block[345:500]) + b"/" + name
        name = pax.get(b"path") or long_name or name
        link = pax.get(b"linkpath") or long_link or text(block[157:257])
        if pax.get(b"size"):
            size = decimal(pax[b"size"], "size")
        uid = decimal(pax[b"uid"], "uid") if pax.get(b"uid") else number(block[108:116], "uid")
        gid = decimal(pax[b"gid"], "gid") if pax.get(b"gid") else number(block[116:124], "gid")
        if uid >= 2**32 - 1 or gid >= 2**32 - 1:
            raise self._bad(f"{shown(name)} has the owner {uid}:{gid}, which Linux cannot have")
        if pax.get(b"mtime"):
            mtime_ns = time_ns(pax[b"mtime"])
        else:
            mtime_ns = number(block[136:148], "mtime", signed=True) * 1_000_000_000
        major = minor = 0
        if kind in b"34":
            major = number(block[329:337], "device number")
            minor = number(block[337:345], "device number")
            if major >= 2**12 or minor >= 2**20:
                raise self._bad(f"{shown(name)} has the device number {major}:{minor}, which Linux cannot have")
        if kind == 0 and name.endswith(b"/"):
            kind, type_bits = b"5"[0], stat.S_IFDIR  # V7 had no type for directories
        header = _Header(
            path=b"",
            mode=type_bits | (number(block[100:108], "mode") & 0o7777),
            uid=uid,
            gid=gid,
            mtime_ns=mtime_ns,
            major=major,
            minor=minor,
            target=self._target(link, name) if kind == _SYMLINK else b"",
            hardlink=normal_path(link, "hard link target") if kind == _HARD_LINK else None,
            xattrs=self._xattrs(pax),
            stored=size if kind in _WITH_DATA else 0,
            real=size if kind in _WITH_DATA else 0,
        )
        self._count(header, name)
        if kind == _SPARSE:
            header = header._replace(path=normal_path(name), real=number(block[483:495], "size"))
            return self._old_sparse(header, block[386:482], block[482])
        if any(key.startswith(b"GNU.sparse.") for key in pax) or pax_sparse:
            return self._pax_sparse_file(header, name, pax, pax_sparse)
        return self._emit(header._replace(path=normal_path(name)), None)

    def _emit(self, header: _Header, regions: list[tuple[int, int]] | None) -> TarEntry:
        """The entry, with the parser at its data. `regions` are (offset, length) of a sparse file."""
        extents: list[tuple[int, int, int]] = []
        if regions is None:
            if header.stored:
                extents.append((0, self._offset, header.stored))
        else:
            at, last = self._offset, 0
            for logical, length in regions:
                if logical < last or logical + length > header.real:
                    raise self._bad(f"{shown(header.path)} has a sparse map that overlaps or leaves the file")
                last = logical + length
                if length:
                    extents.append((logical, at, length))
                    at += length
            if at - self._offset != header.stored:
                raise self._bad(f"{shown(header.path)} has a sparse map that does not fit its data")
        self._data_left = header.stored
        self._skip_left = -header.stored % BLOCK
        self._await_header()
        return TarEntry(
            header.path,
            header.mode,
            header.uid,
            header.gid,
            header.real,
            header.mtime_ns,
            header.major,
            header.minor,
            header.target,
            header.hardlink,
            header.xattrs,
            tuple(extents),
        )

    # GNU sparse files

    def _old_sparse(self, header: _Header, table: bytes, more: int) -> TarEntry | None:
        self._sparse = []
        self._add_sparse(table)
        if not more:
            return self._emit(header, self._sparse)
        self._pending = header
        self._step = self._old_sparse_extension
        return None

    def _old_sparse_extension(self, block: bytes) -> TarEntry | None:
        self._add_sparse(block[:504])
        if block[504]:
            return None
        assert self._pending is not None
        return self._emit(self._pending, self._sparse)

    def _add_sparse(self, table: bytes) -> None:
        for at in range(0, len(table), 24):
            offset, length = table[at : at + 12], table[at + 12 : at + 24]
            if not offset[0] and not length[0]:
                break
            self._add_region(number(offset, "sparse map"), number(length, "sparse map"))

    def _add_region(self, offset: int, length: int) -> None:
        if len(self._sparse) >= self._limits.extents:
            raise self._bad(f"a sparse file has more than {self._limits.extents} extents")
        self._spend(24)
        self._sparse.append((offset, length))

    def _pax_sparse_file(
        self, header: _Header, name: bytes, pax: dict[bytes, bytes], pairs: list[bytes]
    ) -> TarEntry | None:
        real = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
        header = header._replace(
            path=normal_path(pax.get(b"GNU.sparse.name") or name),
            real=decimal(real, "size") if real else header.stored,
        )
        self._sparse = []
        if pax.get(b"GNU.sparse.major") == b"1":
            self._pending = header
            self._map = bytearray()
            self._map_lines = 0
            self._step = self._sparse_map_block
            return None
        if b"GNU.sparse.map" in pax:
            pairs = pax[b"GNU.sparse.map"].split(b",") if pax[b"GNU.sparse.map"] else []
        if len(pairs) % 2:
            raise self._bad(f"{shown(header.path)} has a sparse map with an odd number of values")
        for offset, length in zip(pairs[::2], pairs[1::2], strict=True):
            self._add_region(decimal(offset, "sparse map"), decimal(length, "sparse map"))
        return self._emit(header, self._sparse)

    def _sparse_map_block(self, block: bytes) -> TarEntry | None:
        """Format 1.0: the map precedes the data, as lines of decimal numbers, padded to whole blocks."""
        assert self._pending is not None
        header = self._pending._replace(stored=self._pending.stored - BLOCK)
        self._pending = header
        if header.stored < 0:
            raise self._bad(f"{shown(header.path)} has a sparse map that is longer than its data")
        self._map += block
        self._map_lines += block.count(b"\n")
        if len(self._map) > self._limits.record * 16:
            raise self._bad(f"{shown(header.path)} has a sparse map that is too long")
        first, newline, _ = bytes(self._map[:24]).partition(b"\n")
        if not newline:
            raise self._bad(f"{shown(header.path)} has a malformed sparse map")
        count = decimal(first, "sparse map")
        if count > self._limits.extents:
            raise self._bad(f"a sparse file has more than {self._limits.extents} extents")
        if self._map_lines < 1 + 2 * count:
            return None
        numbers = bytes(self._map).split(b"\n", 1 + 2 * count)[1 : 1 + 2 * count]
        self._map = bytearray()
        for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
            self._add_region(decimal(offset, "sparse map"), decimal(length, "sparse map"))
        return self._emit(header, self._sparse)

    # fields

    def _xattrs(self, pax: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        found: dict[bytes, bytes] = {}
        for key, value in pax.items():
            if key.startswith(b"SCHILY.xattr."):
                found[key[13:]] = value
            elif key.startswith(b"LIBARCHIVE.xattr."):
                try:
                    decoded = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
                except (binascii.Error, ValueError):
                    raise self._bad("an extended attribute is not base64") from None
                found.setdefault(unquote_to_bytes(key[17:]), decoded)
        for name, value in found.items():
            if not name or len(name) > NAME_MAX or b"\0" in name or len(value) > self._limits.xattr:
                raise self._bad(f"the extended attribute {shown(name)} is malformed or too long")
        return tuple(found.items())

    def _target(self, link: bytes, name: bytes) -> bytes:
        if not link or len(link) >= PATH_MAX or b"\0" in link:
            raise self._bad(f"the symbolic link {shown(name)} has a target that is empty, too long or malformed")
        return link

    def _count(self, header: _Header, name: bytes) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise self._bad(f"the layer has more than {self._limits.entries} entries")
        self._spend(len(name) + len(header.target) + len(header.hardlink or b""))

    def _spend(self, count: int) -> None:
        """Count bytes that are kept for names, attributes and maps."""
        self._metadata += count
        if self._metadata > self._limits.metadata:
            raise self._bad(f"the layer's names and attributes have more than {self._limits.metadata} bytes")

    def _bad(self, reason: str) -> ImageError:
        return ImageError(f"a layer's tar archive is malformed near byte {self._offset}: {reason}")


class _Header(NamedTuple):
    """A member whose data, or sparse map, comes next. `stored` counts bytes in the archive, `real` in the file."""

    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    major: int
    minor: int
    target: bytes
    hardlink: bytes | None
    xattrs: tuple[tuple[bytes, bytes], ...]
    stored: int
    real: int
