"""Layers for tests: entries in, an archive layer out."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable
from dataclasses import replace

from fuse.entry import Entry
from fuse.frames import FramesWriter
from fuse.index import IndexWriter
from fuse.layers.archive import ArchiveKind, ArchiveLayer


def directory(path: str, mode: int = 0o755, **fields: object) -> Entry:
    return Entry(path.encode(), stat.S_IFDIR | mode, **fields)  # type: ignore[arg-type]


def regular(path: str, mode: int = 0o644, **fields: object) -> Entry:
    return Entry(path.encode(), stat.S_IFREG | mode, **fields)  # type: ignore[arg-type]


def symlink(path: str, target: str, **fields: object) -> Entry:
    return Entry(path.encode(), stat.S_IFLNK | 0o777, target=target.encode(), **fields)  # type: ignore[arg-type]


def hardlink(path: str, target: str) -> Entry:
    return Entry(path.encode(), 0, hardlink=target.encode())


def whiteout(path: str) -> Entry:
    return Entry(path.encode(), 0, whiteout=True)


def archive(
    folder: str, name: str, entries: Iterable[Entry | tuple[Entry, bytes]], kind: ArchiveKind = "frames"
) -> ArchiveLayer:
    """A layer of these entries; with bytes, a file of that content."""
    writer = IndexWriter()
    data = io.BytesIO()
    data.write(b"\0" * 512)
    for item in entries:
        entry, content = item if isinstance(item, tuple) else (item, b"")
        if content:
            extents = ((0, data.tell(), len(content)),)
            data.write(content + b"\0" * (-len(content) % 512))
            entry = replace(entry, size=len(content), extents=extents)
        writer.add(entry)
    return _store(folder, name, writer, data.getvalue(), kind)


def archive_of_tar(folder: str, name: str, path: str, kind: ArchiveKind = "frames") -> ArchiveLayer:
    """A layer of a tar file, which may be compressed."""
    writer = IndexWriter()
    with tarfile.open(path) as tar:
        for member in tar:
            writer.add(_entry(member))
        assert tar.fileobj is not None
        tar.fileobj.seek(0)
        data = tar.fileobj.read()
    return _store(folder, name, writer, data, kind)


def _store(folder: str, name: str, writer: IndexWriter, data: bytes, kind: ArchiveKind) -> ArchiveLayer:
    base = os.path.join(folder, name)
    writer.write(base + ".index")
    with open(base + "." + kind, "wb") as file:
        if kind == "plain":
            file.write(data)
        else:
            frames = FramesWriter(file, frame_size=16384)
            frames.write(data)
            frames.close()
    return ArchiveLayer(base + ".index", base + "." + kind, kind)


_KINDS = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def _entry(member: tarfile.TarInfo) -> Entry:
    path = member.name.encode(errors="surrogateescape")
    if member.islnk():
        return Entry(path, 0, hardlink=member.linkname.encode(errors="surrogateescape"))
    device = member.ischr() or member.isblk()
    return Entry(
        path,
        _KINDS.get(member.type, stat.S_IFREG) | member.mode,
        uid=member.uid,
        gid=member.gid,
        size=member.size if member.isreg() else 0,
        mtime_ns=int(member.mtime) * 10**9,
        rdev=os.makedev(member.devmajor, member.devminor) if device else 0,
        target=member.linkname.encode(errors="surrogateescape") if member.issym() else b"",
        extents=((0, member.offset_data, member.size),) if member.isreg() and member.size else (),
    )
