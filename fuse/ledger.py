"""The side file: overrides of files that cannot carry an extended attribute.

A log of fixed records, each with a checksum over itself and its position; the last one of a file holds. What a kill
or a power failure tears off the end is ignored, and gone after the next opening. A log that is mostly history is
written anew beside the old one and renamed.

Records are keyed by the file's inode number, so a rename or a further hard link needs no record and cannot come apart
from it, whatever happens in between. A number that the file system gave to another file since is told by the birth
time in the record, where the file system has one; and every file that is made through the overlay gets a record of its
own before it appears. So a record that outlived its file never speaks for one that came later through the overlay.
What inode numbers cannot do: a copy of the upper directory has none of its overrides, and a file system must keep the
numbers while it is unmounted (local ones, NFS, Lustre and tmpfs do).
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from typing import NamedTuple

from fuse.errors import LayerError
from fuse.override import Override

LEDGER = b"owners"
"""The name in the work directory. The kernel's overlayfs and fuse-overlayfs have no use for it there."""

_RECORD = struct.Struct("<QqIIIQ")  # inode number, birth in ns, uid, gid, mode (0: gone), rdev
_SUM = struct.Struct("<I")
_SIZE = _RECORD.size + _SUM.size
_HEADER = struct.Struct("<56s8s")  # what this is, and the kind of the ledger
_TITLE = b"rcontain owners, format 1 (fuse/ledger.py), beside: "

_HISTORY = 4096
"""How many records that hold no more are let be."""
_ORPHANS = 4096
"""How many files without a name are remembered, for those who still have them open."""


class Record(NamedTuple):
    birth_ns: int
    """When the file was made; 0 where the file system does not tell."""
    override: Override


class Ledger:
    """The overrides of one upper directory. `writable=False` reads one that a mount may be writing at this moment."""

    def __init__(self, directory_fd: int, *, create: str = "", writable: bool = True) -> None:
        """FileNotFoundError where there is none, unless one is to be created, of that kind."""
        self.kind = create
        """What it was created for: a word that its owner gives it."""
        self._directory_fd = directory_fd
        self._records: dict[int, Record] = {}
        self._orphans: dict[int, Record] = {}
        self._count = 0  # records in the file
        self._dirty = False
        self._fd = -1
        try:
            data = self._read()
        except FileNotFoundError:
            if not create:
                raise
            data = b""
        good = self._load(data)
        if not writable:
            return
        if good != len(data) or not data or self._mostly_history():
            self._write_anew()
        else:
            self._fd = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, dir_fd=directory_fd)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, number: int) -> Record | None:
        """What was written of the file with that inode number; whether it is that file is told by the birth time."""
        return self._records.get(number) or (self._orphans.get(number) if self._orphans else None)

    def put(self, number: int, birth_ns: int, override: Override) -> None:
        """Write a record; it is in the file, if not yet on the disk, when this returns."""
        record = Record(birth_ns, override)
        self._append(number, record)
        self._records[number] = record
        self._orphans.pop(number, None)
        if self._mostly_history():
            self._write_anew()

    def drop(self, number: int) -> None:
        """The file has lost its last name. Those who still have it open find its record until many others went."""
        record = self._records.get(number)
        if record is None:
            return
        self._append(number, None)
        del self._records[number]
        if len(self._orphans) >= _ORPHANS:
            del self._orphans[next(iter(self._orphans))]
        self._orphans[number] = record

    def forget(self, number: int) -> None:
        """There is a file with that number of which nothing is to be said."""
        if number in self._records:
            self._append(number, None)
            del self._records[number]
        self._orphans.pop(number, None)

    def sync(self) -> None:
        """What was written before is on the disk."""
        if self._dirty:
            os.fdatasync(self._fd)
            self._dirty = False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # The file.

    def _read(self) -> bytes:
        fd = os.open(LEDGER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory_fd)
        with open(fd, "rb") as file:
            return file.read()

    def _load(self, data: bytes) -> int:
        """Takes in the records up to the first that is damaged; returns how many bytes that was."""
        if len(data) < _HEADER.size:
            return 0
        title, kind = _HEADER.unpack_from(data)
        if title.rstrip(b"\0") != _TITLE:
            raise LayerError("the side file of owners beside the upper directory is of another version")
        self.kind = kind.rstrip(b"\0").decode(errors="replace")
        records = self._records
        at = _HEADER.size
        while len(data) - at >= _SIZE:
            packed = data[at : at + _RECORD.size]
            if _SUM.unpack_from(data, at + _RECORD.size)[0] != zlib.crc32(packed, at & 0xFFFFFFFF):
                break
            number, birth_ns, uid, gid, mode, rdev = _RECORD.unpack(packed)
            if mode:
                records[number] = Record(birth_ns, Override(uid, gid, mode, rdev))
            else:
                records.pop(number, None)
            self._count += 1
            at += _SIZE
        return at

    def _append(self, number: int, record: Record | None) -> None:
        """ENOSPC and the like leave the file as it was."""
        end = _HEADER.size + self._count * _SIZE
        if os.write(self._fd, _packed(number, record, end)) != _SIZE:
            os.ftruncate(self._fd, end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._count += 1
        self._dirty = True

    def _mostly_history(self) -> bool:
        return self._count > 2 * len(self._records) + _HISTORY

    def _write_anew(self) -> None:
        fresh = LEDGER + b".new"
        fd = os.open(
            fresh,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=self._directory_fd,
        )
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(_HEADER.pack(_TITLE, self.kind.encode()))
                at = _HEADER.size
                for number, record in self._records.items():
                    file.write(_packed(number, record, at))
                    at += _SIZE
            os.fsync(fd)
            os.rename(fresh, LEDGER, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._count, self._dirty = fd, len(self._records), False
        _sync_directory(self._directory_fd)

    def __repr__(self) -> str:
        return f"<Ledger {len(self._records)} files, {self._count} records>"


def _packed(number: int, record: Record | None, at: int) -> bytes:
    if record is None:
        packed = _RECORD.pack(number, 0, 0, 0, 0, 0)
    else:
        override = record.override
        packed = _RECORD.pack(number, record.birth_ns, override.uid, override.gid, override.mode, override.rdev)
    return packed + _SUM.pack(zlib.crc32(packed, at & 0xFFFFFFFF))


def _sync_directory(directory_fd: int) -> None:
    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
