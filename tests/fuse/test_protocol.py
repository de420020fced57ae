"""The codec: what is written is what is read, and nothing but ProtocolError comes of what is neither."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse import protocol
from fuse.attributes import Attributes
from fuse.protocol import Header, InitFlag, InitReply, InitRequest, Opcode, ProtocolError

u16, u32, u64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
names = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)
times = st.integers(-(2**62), 2**62)


@given(u32, u64, u64, u32, u32, u32)
def test_headers(opcode: int, unique: int, node: int, uid: int, gid: int, pid: int) -> None:
    header = Header(40, opcode, unique, node, uid, gid, pid)
    assert Header.parse(header.to_bytes()) == header


@given(u32, u32, u32, u64)
def test_init_requests(major: int, minor: int, readahead: int, flags: int) -> None:
    if not flags & InitFlag.INIT_EXT:
        flags &= 0xFFFFFFFF
    request = InitRequest(major, minor, readahead, flags)
    assert InitRequest.parse(request.to_bytes()) == request


@given(u32, u32, u64, u16, st.integers(1, 2**16 - 1))
def test_init_replies(minor: int, readahead: int, flags: int, background: int, pages: int) -> None:
    reply = InitReply(minor, readahead, flags, background, pages)
    assert len(reply.to_bytes()) == 64
    assert InitReply.parse(reply.to_bytes()) == reply


@given(st.binary(max_size=200))
def test_what_is_no_message(message: bytes) -> None:
    for parse in (
        Header.parse,
        InitRequest.parse,
        InitReply.parse,
        lambda message: protocol.name_in(message, 0, len(message)),
        lambda message: protocol.names_in(message, 0, len(message)),
    ):
        try:
            parse(message)
        except ProtocolError:
            pass


@given(names, names, st.binary(max_size=50))
def test_names(first: bytes, second: bytes, before: bytes) -> None:
    start = len(before)
    message = memoryview(before + first + b"\0" + second + b"\0")
    assert protocol.names_in(message, start, len(message)) == (first, second)
    assert protocol.name_in(message, start, start + len(first) + 1) == first
    for wrong in (message[:-1], message[:start]):
        with pytest.raises(ProtocolError):
            protocol.names_in(wrong, start, len(wrong))
    with pytest.raises(ProtocolError):
        protocol.name_in(message, start, len(message))


@given(u64, u32, u32, u32, u32, u64, u64, times, times, times, st.integers(0, 4095), st.integers(0, 2**20 - 1))
def test_entries(
    number: int, mode: int, nlink: int, uid: int, gid: int, size: int, blocks: int,
    atime: int, mtime: int, ctime: int, major: int, minor: int,
) -> None:  # fmt: skip
    rdev = os.makedev(major, minor)
    rendered = protocol.entry(
        number, (7, 8), Attributes(mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime)
    )
    assert len(rendered) == protocol.ENTRY_OUT.size == 128
    assert struct.unpack_from("=QQQQII", rendered) == (number, 0, 7, 7, 8, 8)
    (found, found_size, found_blocks, *found_times, found_mode, found_nlink, found_uid, found_gid, found_rdev, _, _) = (
        protocol.ATTR.unpack_from(rendered, 40)
    )
    assert (found, found_size, found_blocks, found_mode) == (number, size, blocks, mode)
    assert (found_nlink, found_uid, found_gid) == (nlink, uid, gid)
    for wanted, seconds, nanoseconds in zip((atime, mtime, ctime), found_times[:3], found_times[3:], strict=True):
        assert seconds * 10**9 + nanoseconds == wanted
        assert 0 <= nanoseconds < 10**9
    # new_encode_dev() of the kernel
    assert found_rdev == (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


@given(u64, u64, names, st.integers(0, 15))
def test_directory_entries(number: int, after: int, name: bytes, kind: int) -> None:
    rendered = protocol.dirent(number, after, name, kind)
    assert len(rendered) % 8 == 0
    assert protocol.DIRENT.unpack_from(rendered) == (number, after, len(name), kind)
    assert rendered[24 : 24 + len(name)] == name
    assert not any(rendered[24 + len(name) :])


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (protocol.IN_HEADER, 40), (protocol.OUT_HEADER, 16), (protocol.ATTR, 88), (protocol.ATTR_OUT, 104 - 88),
        (protocol.DIRENT, 24), (protocol.SETATTR_IN, 88), (protocol.MKNOD_IN, 16), (protocol.RENAME2_IN, 16),
        (protocol.OPEN_OUT, 16), (protocol.CREATE_IN, 16), (protocol.READ_IN, 40), (protocol.WRITE_IN, 40),
        (protocol.STATFS_OUT, 80), (protocol.FSYNC_IN, 16), (protocol.FALLOCATE_IN, 32), (protocol.LSEEK_IN, 24),
        (protocol.COPY_FILE_RANGE_IN, 56), (protocol.IOCTL_IN, 32),
    ],
)  # fmt: skip
def test_layouts_are_as_long_as_linux_says(layout: struct.Struct, size: int) -> None:
    assert layout.size == size


def test_timeouts() -> None:
    assert protocol.timeout(1.5) == (1, 500_000_000)
    assert protocol.timeout(protocol.FOREVER) == (10**9, 0)
    assert Opcode(26) is Opcode.INIT
