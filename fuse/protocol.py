"""The messages between the kernel and a FUSE server: linux/fuse.h, versions 7.31 to 7.45.

Every request is a header and what its opcode says, every answer a header and what the request asked for, in native byte
order. There are no padding bytes besides those that are named. Nothing here reads or writes: bytes in, values out.

The structs are public and not only the records, because a record for each request would cost a tenth of the time that a
request may take: `fuse.requests` unpacks the frequent ones in place.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from fuse.attributes import Attributes

MAJOR = 7
MINOR = 45
"""What is spoken here at most; the lower one of both sides holds."""
OLDEST_MINOR = 31
"""Linux 5.10 has 32; what is older has not all of what is used here."""

FOREVER = 1e9
"""Seconds that the kernel may keep what it was told, unless a mount says otherwise."""

PAGE = 4096

Buffer = bytes | bytearray | memoryview


class ProtocolError(Exception):
    """A message is not what the protocol says."""


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class InitFlag:
    """FUSE_... of the INIT request: what the kernel can do, and in the answer what is to be done.

    Plain numbers: an enum.IntFlag takes apart each combination that it has not met, here at each mount.
    """

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30


class SetattrFlag(IntFlag):
    """FATTR_...: the fields of a SETATTR that count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
WRITE_KILL_SUIDGID = 1 << 2
FSYNC_DATA_ONLY = 1 << 0
SETXATTR_ACL_KILL_SGID = 1 << 0

IN_HEADER = struct.Struct("=IIQQIIIHH")
"""Length of the message, opcode, its number, node, uid, gid, pid, length of extensions in units of 8, padding."""
OUT_HEADER = struct.Struct("=IiQ")
"""Length of the message, 0 or a negative errno, number of the request."""

ATTR = struct.Struct("=QQQqqqIIIIIIIIII")
"""Number, size, blocks; atime, mtime, ctime: seconds; nanoseconds; mode, nlink, uid, gid, rdev, block size, flags."""
ENTRY_OUT = struct.Struct("=QQQQII" + ATTR.format[1:])
"""Node, generation; how long name and attributes hold in seconds; the same, nanoseconds; attributes."""
ATTR_OUT = struct.Struct("=QII")
"""How long the attributes hold: seconds, nanoseconds; padding. The attributes follow."""
DIRENT = struct.Struct("=QQII")
"""Number, the position after it, length of the name, type. The name follows, padded to 8."""

FORGET_IN = struct.Struct("=Q")
BATCH_FORGET_IN = struct.Struct("=II")
"""How many, padding. They follow as (node, lookups)."""
FORGET_ONE = struct.Struct("=QQ")
SETATTR_IN = struct.Struct("=IIQQQqqqIIIIIIII")
"""Flags, padding, handle, size, lock owner; atime, mtime, ctime; their nanoseconds; mode, -, uid, gid, -."""
MKNOD_IN = struct.Struct("=IIII")
"""Mode, rdev, umask, padding."""
MKDIR_IN = struct.Struct("=II")
"""Mode, umask."""
RENAME_IN = struct.Struct("=Q")
RENAME2_IN = struct.Struct("=QII")
"""Directory, flags of renameat2(2), padding."""
LINK_IN = struct.Struct("=Q")
OPEN_IN = struct.Struct("=II")
"""Flags of open(2), FUSE_OPEN_..."""
OPEN_OUT = struct.Struct("=QIi")
"""Handle, FOPEN_..., backing file."""
CREATE_IN = struct.Struct("=IIII")
"""Flags of open(2), mode, umask, FUSE_OPEN_..."""
READ_IN = struct.Struct("=QQIIQII")
"""Handle, offset, size, flags, lock owner, flags of open(2), padding."""
WRITE_IN = struct.Struct("=QQIIQII")
"""Handle, offset, size, FUSE_WRITE_..., lock owner, flags of open(2), padding. The data follows."""
WRITE_OUT = struct.Struct("=II")
STATFS_OUT = struct.Struct("=QQQQQIIII24x")
"""Blocks, free, available, files, free files, block size, name length, fragment size, padding."""
FSYNC_IN = struct.Struct("=QII")
SETXATTR_IN = struct.Struct("=II")
"""Size, flags of setxattr(2)."""
SETXATTR_EXT_IN = struct.Struct("=IIII")
"""The same once SETXATTR_EXT is agreed on; FUSE_SETXATTR_..., padding."""
GETXATTR_IN = struct.Struct("=II")
GETXATTR_OUT = struct.Struct("=II")
FALLOCATE_IN = struct.Struct("=QQQII")
"""Handle, offset, length, mode of fallocate(2), padding."""
LSEEK_IN = struct.Struct("=QQII")
"""Handle, offset, whence, padding."""
LSEEK_OUT = struct.Struct("=Q")
COPY_FILE_RANGE_IN = struct.Struct("=QQQQQQQ")
"""Handle, offset; node, handle, offset of the target; length, flags."""
COPY_FILE_RANGE_OUT = struct.Struct("=Q")
IOCTL_IN = struct.Struct("=QIIQII")

_INIT_IN = struct.Struct("=IIII")
_INIT_IN_FLAGS2 = struct.Struct("=I44x")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")


class InitRequest(NamedTuple):
    """What the kernel offers, in the first message."""

    major: int
    minor: int
    max_readahead: int
    """Bytes."""
    flags: int
    """Of `InitFlag`."""

    @classmethod
    def parse(cls, body: Buffer) -> InitRequest:
        if len(body) < _INIT_IN.size:
            raise ProtocolError("an INIT request is cut short")
        major, minor, readahead, flags = _INIT_IN.unpack_from(body)
        if flags & InitFlag.INIT_EXT:
            if len(body) < _INIT_IN.size + _INIT_IN_FLAGS2.size:
                raise ProtocolError("an INIT request is cut short")
            flags |= _INIT_IN_FLAGS2.unpack_from(body, _INIT_IN.size)[0] << 32
        return cls(major, minor, readahead, flags)

    def to_bytes(self) -> bytes:
        first = _INIT_IN.pack(self.major, self.minor, self.max_readahead, self.flags & 0xFFFFFFFF)
        return first + _INIT_IN_FLAGS2.pack(self.flags >> 32) if self.flags & InitFlag.INIT_EXT else first


class InitReply(NamedTuple):
    """What is to be done of it."""

    minor: int
    max_readahead: int
    flags: int
    """Of `InitFlag`."""
    max_background: int
    """How many requests that nobody waits for may be under way."""
    max_pages: int
    """How much a READ or a WRITE may be about, in pages."""

    @classmethod
    def parse(cls, body: Buffer) -> InitReply:
        if len(body) < _INIT_OUT.size:
            raise ProtocolError("an INIT reply is cut short")
        _, minor, readahead, low, background, _, _, _, pages, _, high = _INIT_OUT.unpack_from(body)
        return cls(minor, readahead, low | high << 32, background, pages)

    def to_bytes(self) -> bytes:
        return _INIT_OUT.pack(
            MAJOR,
            self.minor,
            self.max_readahead,
            self.flags & 0xFFFFFFFF,
            self.max_background,
            self.max_background * 3 // 4,
            self.max_pages * PAGE,
            1,  # times are in nanoseconds
            self.max_pages,
            0,
            self.flags >> 32,
        )


class Header(NamedTuple):
    """What every request begins with."""

    length: int
    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int

    @classmethod
    def parse(cls, message: Buffer) -> Header:
        if len(message) < IN_HEADER.size:
            raise ProtocolError("a request is shorter than its header")
        header = cls._make(IN_HEADER.unpack_from(message)[:7])
        if header.length != len(message):
            raise ProtocolError(f"a request of {len(message)} bytes says that it has {header.length}")
        return header

    def to_bytes(self) -> bytes:
        return IN_HEADER.pack(*self, 0, 0)


def name_in(message: Buffer, start: int, end: int) -> bytes:
    """The one name, with a NUL after it, that fills a message from `start` on."""
    name = bytes(message[start : end - 1])
    if end <= start + 1 or message[end - 1] or b"\0" in name:
        raise ProtocolError("a name is not one")
    return name


def names_in(message: Buffer, start: int, end: int) -> tuple[bytes, bytes]:
    """The two names, each with a NUL after it, that fill a message from `start` on."""
    parts = bytes(message[start:end]).split(b"\0")
    if len(parts) != 3 or not parts[0] or not parts[1] or parts[2]:
        raise ProtocolError("two names are not two")
    return parts[0], parts[1]


def entry(number: int, valid: tuple[int, int], attributes: Attributes, block_size: int = 16 * PAGE) -> bytes:
    """fuse_entry_out: a file and what stat(2) shows of it. `valid` is in seconds and nanoseconds.

    `block_size` is what stdio(3) reads and writes at a time: each write(2) is a message to the server. Of a device
    number the kernel has 12 and 20 bits, and those are where glibc's makedev(3) has them.
    """
    mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime = attributes
    seconds, nanoseconds = valid
    atime_s, atime = divmod(atime, 1000000000)
    mtime_s, mtime = divmod(mtime, 1000000000)
    ctime_s, ctime = divmod(ctime, 1000000000)
    return ENTRY_OUT.pack(
        number, 0, seconds, seconds, nanoseconds, nanoseconds,
        number, size, blocks, atime_s, mtime_s, ctime_s, atime, mtime, ctime,
        mode, nlink, uid, gid, rdev & 0xFFFFFFFF, block_size, 0,
    )  # fmt: skip


def dirent(number: int, after: int, name: bytes, kind: int) -> bytes:
    """fuse_dirent: `kind` is a DT_... of readdir(3), `after` the position that the next one has."""
    length = len(name)
    return DIRENT.pack(number, after, length, kind) + name + bytes(-length & 7)


def timeout(seconds: float) -> tuple[int, int]:
    """Seconds, nanoseconds."""
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e9)
