"""Headers of tar archives: ustar where it can say everything, a pax header before it where it cannot.

Sources: POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax Extended Header"; GNU tar and libarchive for extended
attributes. Deterministic: the bytes depend on the entry alone. An archive is, for each entry, `header`, the data of a
regular file and `padding`, and at last `END`. Holes of sparse files are written as zeros.
"""

from __future__ import annotations

import base64
import stat
from urllib.parse import quote_from_bytes

from rootless.oci.tar import TarEntry
from rootless.oci.tarfields import BLOCK

END = bytes(2 * BLOCK)
"""What ends an archive."""

_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_HARD_LINK = b"1"
_MAGIC = b"ustar\x0000"
_NAME = 100  # bytes of the header's field, as are the following
_PREFIX = 155
_ID_LIMIT = 8**7
_SIZE_LIMIT = 8**11
_SECOND = 1_000_000_000
_SCHILY = b"SCHILY.xattr."
_LIBARCHIVE = b"LIBARCHIVE.xattr."


def header(entry: TarEntry) -> bytes:
    """All that stands before the entry's data. Extents are not looked at. ValueError for a socket, which has no form.

    Attributes go into `SCHILY.xattr.*` records, as every tool reads them; one whose name has a `=`, which would end the
    keyword there, into libarchive's.
    """
    kind = _HARD_LINK if entry.hardlink is not None else _TYPES.get(stat.S_IFMT(entry.mode))
    if kind is None:
        raise ValueError(f"a file of mode {entry.mode:o} cannot be in a tar archive")
    path = entry.path or b"."
    if kind == b"5":
        path += b"/"
    link = entry.target if entry.hardlink is None else entry.hardlink
    size = entry.size if kind == b"0" else 0
    records: list[bytes] = []
    split = _split(path)
    if split is None:
        records.append(_record(b"path", path))
        split = b"", path[:_NAME]
    if len(link) > _NAME:
        records.append(_record(b"linkpath", link))
    if records and not _is_utf8(path, link):
        records.insert(0, _record(b"hdrcharset", b"BINARY"))
    seconds, fraction = divmod(entry.mtime_ns, _SECOND)
    if fraction or not 0 <= seconds < _SIZE_LIMIT:
        records.append(_record(b"mtime", _decimal(entry.mtime_ns)))
        seconds = min(max(seconds, 0), _SIZE_LIMIT - 1)
    for keyword, number, limit in (
        (b"uid", entry.uid, _ID_LIMIT),
        (b"gid", entry.gid, _ID_LIMIT),
        (b"size", size, _SIZE_LIMIT),
    ):
        if number >= limit:
            records.append(_record(keyword, b"%d" % number))
    if entry.hardlink is None:
        records += [_attribute(name, value) for name, value in sorted(entry.xattrs)]
    major, minor = (entry.major, entry.minor) if kind in (b"3", b"4") else (0, 0)
    block = _block(
        split,
        kind,
        link[:_NAME],
        mode=stat.S_IMODE(entry.mode),
        uid=entry.uid,
        gid=entry.gid,
        size=size,
        seconds=seconds,
        device=(major, minor),
    )
    return _extended(entry.path, b"".join(records)) + block if records else block


def padding(size: int) -> bytes:
    """What follows `size` bytes of data up to the next block."""
    return bytes(-size % BLOCK)


def _extended(path: bytes, records: bytes) -> bytes:
    """The pax header `records`. Its own name is for tools that unpack it as a file."""
    name = b"PaxHeaders/" + path.rpartition(b"/")[2][: _NAME - 11]
    block = _block((b"", name), b"x", b"", mode=0o644, uid=0, gid=0, size=len(records), seconds=0, device=(0, 0))
    return block + records + padding(len(records))


def _block(
    name: tuple[bytes, bytes],
    kind: bytes,
    link: bytes,
    *,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    device: tuple[int, int],
) -> bytes:
    fields = [
        name[1].ljust(_NAME, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % (uid if uid < _ID_LIMIT else 0),
        b"%07o\0" % (gid if gid < _ID_LIMIT else 0),
        b"%011o\0" % (size if size < _SIZE_LIMIT else 0),
        b"%011o\0" % seconds,
        b" " * 8,
        kind,
        link.ljust(_NAME, b"\0"),
        _MAGIC,
        bytes(64),  # the names of owner and group: those of an image mean nothing elsewhere
        b"%07o\0" % device[0],
        b"%07o\0" % device[1],
        name[0].ljust(_PREFIX + 12, b"\0"),
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _split(path: bytes) -> tuple[bytes, bytes] | None:
    """A path as prefix and name of a ustar header; None if it does not fit."""
    if len(path) <= _NAME:
        return b"", path
    if len(path) > _PREFIX + 1 + _NAME:
        return None
    slash = path.find(b"/", len(path) - _NAME - 1)
    if not 0 < slash <= _PREFIX or slash == len(path) - 1:
        return None
    return path[:slash], path[slash + 1 :]


def _record(keyword: bytes, value: bytes) -> bytes:
    """`length keyword=value\\n`, where the length counts itself."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(b"%d" % rest)
    if length != rest + len(b"%d" % length):
        length += 1
    return b"%d %s=%s\n" % (length, keyword, value)


def _attribute(name: bytes, value: bytes) -> bytes:
    if b"=" in name:
        return _record(_LIBARCHIVE + quote_from_bytes(name, safe="").encode(), base64.b64encode(value).rstrip(b"="))
    return _record(_SCHILY + name, value)


def _decimal(time_ns: int) -> bytes:
    """Seconds with a fraction that has no zeros at its end."""
    seconds, fraction = divmod(abs(time_ns), _SECOND)
    sign = b"-" if time_ns < 0 else b""
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".") if fraction else sign + b"%d" % seconds


def _is_utf8(*texts: bytes) -> bool:
    try:
        for text in texts:
            text.decode()
    except UnicodeDecodeError:
        return False
    return True
