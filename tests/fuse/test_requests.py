"""Requests without a kernel: bytes in, bytes out, whatever the bytes are."""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse import protocol
from fuse.layers.directory import DirectoryLayer
from fuse.mounting import MountOptions
from fuse.protocol import Header, InitFlag, InitReply, InitRequest, Opcode
from fuse.requests import Requests
from fuse.tree import Tree
from fuse.upper import UpperDirectory

OFFERED = (1 << 26) - 1 | InitFlag.HANDLE_KILLPRIV_V2
"""What Linux 5.10 offers, about."""


class Kernel:
    """Sends requests and takes the answers apart."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._unique = 0

    def send(self, opcode: int, node: int, body: bytes, *, length: int | None = None) -> tuple[int, bytes] | None:
        """errno (0 for none) and what follows; None where nothing came back."""
        self._unique += 2
        header = Header(40 + len(body), opcode, self._unique, node, os.getuid(), os.getgid(), 1)
        message = header.to_bytes() + body
        self._requests.buffer[: len(message)] = message
        reply = self._requests.answer(len(message) if length is None else length)
        if reply is None:
            return None
        whole = reply if isinstance(reply, bytes) else b"".join(reply)
        size, error, unique = protocol.OUT_HEADER.unpack_from(whole)
        assert (size, unique) == (len(whole), self._unique)
        assert -4096 < error <= 0
        assert not error or size == 16
        return -error, whole[16:]

    def begin(self, minor: int = 45, offered: int = OFFERED) -> InitReply:
        answer = self.send(Opcode.INIT, 0, InitRequest(7, minor, 131072, offered).to_bytes())
        assert answer is not None
        assert answer[0] == 0, os.strerror(answer[0])
        return InitReply.parse(answer[1])

    def lookup(self, name: bytes, node: int = 1) -> tuple[int, ...]:
        """Node and attributes."""
        answer = self.send(Opcode.LOOKUP, node, name + b"\0")
        assert answer is not None
        assert answer[0] == 0
        return struct.unpack_from("=Q", answer[1]) + protocol.ATTR.unpack_from(answer[1], 40)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = make_tree(str(tmp_path))
    yield made
    made.close()


def make_tree(folder: str) -> Tree:
    for name in ("low/dir", "upper", "work"):
        os.makedirs(f"{folder}/{name}")
    Path(folder, "low/file").write_text("content")
    Path(folder, "low/dir/inside").write_text("deep")
    os.symlink("file", f"{folder}/low/link")
    return Tree([DirectoryLayer(folder + "/low")], UpperDirectory(folder + "/upper", folder + "/work"))


def test_what_is_negotiated(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    reply = kernel.begin(minor=32)
    assert reply.minor == 32
    assert reply.flags & InitFlag.NO_OPEN_SUPPORT
    assert not reply.flags & (InitFlag.WRITEBACK_CACHE | InitFlag.ATOMIC_O_TRUNC | InitFlag.POSIX_ACL)
    for opcode in (Opcode.OPEN, Opcode.OPENDIR, Opcode.CREATE, Opcode.FLUSH, Opcode.ACCESS, Opcode.STATX, 4000):
        assert kernel.send(opcode, 1, bytes(64)) == (errno.ENOSYS, b"")
    assert Kernel(Requests(tree, MountOptions(writeback=True))).begin(99).flags & InitFlag.WRITEBACK_CACHE


def test_access_control_lists_are_negotiated_where_files_can_have_them(tmp_path: Path) -> None:
    wanted = InitFlag.POSIX_ACL | InitFlag.DONT_MASK
    tree = Tree([DirectoryLayer(str(tmp_path))])
    assert (
        Kernel(Requests(tree, MountOptions(acls=True))).begin(offered=OFFERED & ~InitFlag.DONT_MASK).flags & wanted == 0
    )
    for options in (MountOptions(), MountOptions(acls=True, xattrs=False)):
        assert Kernel(Requests(tree, options)).begin().flags & wanted == 0
        assert not tree.acls
    assert Kernel(Requests(tree, MountOptions(acls=True))).begin().flags & wanted == wanted
    assert tree.acls
    both = OFFERED | InitFlag.SETXATTR_EXT
    assert Kernel(Requests(tree, MountOptions(acls=True))).begin(offered=both).flags & InitFlag.SETXATTR_EXT
    tree.close()


def test_the_longer_message_that_sets_an_attribute(tmp_path: Path) -> None:
    tree = Tree([DirectoryLayer(str(tmp_path))])
    kernel = Kernel(Requests(tree, MountOptions(acls=True)))
    kernel.begin(offered=OFFERED | InitFlag.SETXATTR_EXT)
    message = protocol.SETXATTR_EXT_IN.pack(1, 0, 0, 0) + b"user.a\0v"
    assert kernel.send(Opcode.SETXATTR, 1, message) == (errno.EROFS, b"")
    assert kernel.send(Opcode.SETXATTR, 1, message[8:]) == (errno.EIO, b"")
    tree.close()


def test_the_mask_of_whoever_makes_a_file(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    kernel.begin()
    for opcode, body in (
        (Opcode.MKNOD, protocol.MKNOD_IN.pack(stat.S_IFREG | 0o666, 0, 0o027, 0) + b"new\0"),
        (Opcode.MKDIR, protocol.MKDIR_IN.pack(0o777, 0o027) + b"new.d\0"),
    ):
        answer = kernel.send(opcode, 1, body)
        assert answer is not None
        assert answer[0] == 0
    assert kernel.lookup(b"new")[10] & 0o7777 == 0o640
    assert kernel.lookup(b"new.d")[10] & 0o7777 == 0o750


def test_a_kernel_that_must_open(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    kernel.begin(offered=OFFERED & ~(InitFlag.NO_OPEN_SUPPORT | InitFlag.NO_OPENDIR_SUPPORT))
    node = kernel.lookup(b"file")[0]
    for opcode, number, flag in ((Opcode.OPEN, node, 2), (Opcode.OPENDIR, 1, 10)):
        answer = kernel.send(opcode, number, protocol.OPEN_IN.pack(0, 0))
        assert answer is not None
        assert protocol.OPEN_OUT.unpack(answer[1])[1] == flag
    assert kernel.send(Opcode.RELEASE, node, bytes(24)) == (0, b"")


def test_a_kernel_that_is_too_old(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    answer = kernel.send(Opcode.INIT, 0, InitRequest(7, 22, 131072, OFFERED).to_bytes())
    assert answer == (errno.EPROTO, b"")


def test_nothing_is_answered_before_the_introduction(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    assert kernel.send(Opcode.LOOKUP, 1, b"file\0") == (errno.ENOSYS, b"")


def test_a_file_from_its_name_to_its_end(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    kernel.begin()
    node, number, size, *_ = kernel.lookup(b"file")
    assert (node, size) == (number, 7)
    read = protocol.READ_IN.pack(0, 2, 100, 0, 0, 0, 0)
    assert kernel.send(Opcode.READ, node, read) == (0, b"ntent")
    write = protocol.WRITE_IN.pack(0, 7, 4, 0, 0, 0, 0)
    assert kernel.send(Opcode.WRITE, node, write + b"more") == (0, protocol.WRITE_OUT.pack(4, 0))
    assert kernel.send(Opcode.READ, node, read) == (0, b"ntentmore")
    assert kernel.send(Opcode.UNLINK, 1, b"file\0") == (0, b"")
    assert kernel.send(Opcode.READ, node, read) == (0, b"ntentmore")
    assert kernel.send(Opcode.FORGET, node, protocol.FORGET_IN.pack(1)) is None
    assert kernel.send(Opcode.READ, node, read) == (errno.ESTALE, b"")
    assert kernel.lookup(b"file")[0] == 0


def test_attributes_have_sizes(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    kernel.begin()
    node = kernel.lookup(b"file")[0]
    value = b"v" * 1000
    assert kernel.send(Opcode.SETXATTR, node, protocol.SETXATTR_IN.pack(1000, 0) + b"user.a\0" + value) == (0, b"")

    def ask(size: int) -> tuple[int, bytes] | None:
        return kernel.send(Opcode.GETXATTR, node, protocol.GETXATTR_IN.pack(size, 0) + b"user.a\0")

    assert ask(0) == (0, protocol.GETXATTR_OUT.pack(1000, 0))
    assert ask(1000) == (0, value)
    assert ask(999) == (errno.ERANGE, b"")
    create = protocol.SETXATTR_IN.pack(1000, os.XATTR_CREATE) + b"user.a\0" + value
    assert kernel.send(Opcode.SETXATTR, node, create) == (errno.EEXIST, b"")
    assert kernel.send(Opcode.LISTXATTR, node, protocol.GETXATTR_IN.pack(100, 0)) == (0, b"user.a\0")
    assert kernel.send(Opcode.REMOVEXATTR, node, b"user.a\0") == (0, b"")
    assert ask(0) == (errno.ENODATA, b"")


def test_writing_takes_set_id_bits_where_the_kernel_says_so(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    kernel.begin()
    node = kernel.lookup(b"file")[0]
    chmod = [0] * 16
    chmod[0], chmod[11] = protocol.SetattrFlag.MODE, stat.S_IFREG | 0o4755
    assert kernel.send(Opcode.SETATTR, node, protocol.SETATTR_IN.pack(*chmod))[0] == 0  # type: ignore[index]
    write = protocol.WRITE_IN.pack(0, 0, 1, protocol.WRITE_KILL_SUIDGID, 0, 0, 0) + b"x"
    assert kernel.send(Opcode.WRITE, node, write)[0] == 0  # type: ignore[index]
    assert kernel.lookup(b"file")[10] & 0o7777 == 0o755


def test_lengths_that_do_not_fit(tree: Tree) -> None:
    kernel = Kernel(Requests(tree, MountOptions()))
    kernel.begin()
    assert kernel.send(Opcode.LOOKUP, 1, b"file\0", length=20) is None
    assert kernel.send(Opcode.LOOKUP, 1, b"file\0", length=44) == (errno.EIO, b"")
    assert kernel.send(Opcode.BATCH_FORGET, 0, protocol.BATCH_FORGET_IN.pack(1000, 0)) == (errno.EIO, b"")
    assert kernel.send(Opcode.WRITE, 1, protocol.WRITE_IN.pack(0, 0, 99, 0, 0, 0, 0) + b"x") == (errno.EIO, b"")


FUZZED = sorted(set(Opcode) - {Opcode.INIT, Opcode.FALLOCATE})  # whose lengths would be taken at their word

bodies = st.one_of(
    st.binary(max_size=120),
    st.lists(st.sampled_from([0, 1, 2, 7, 255, 4096, 2**31, 2**32 - 1]), max_size=22).map(
        lambda numbers: struct.pack(f"={len(numbers)}I", *numbers)
    ),
    st.tuples(
        st.sampled_from([0, 8, 16, 40]),
        st.lists(st.sampled_from([b"file", b"dir", b"..", b"", b"a/b", b"new", b".wh.x", b"x" * 300]), max_size=3),
    ).map(lambda both: bytes(both[0]) + b"".join(name + b"\0" for name in both[1])),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(FUZZED), st.sampled_from(range(6)), bodies), min_size=1, max_size=12))
def test_whatever_comes_there_is_an_answer(messages: list[tuple[Opcode, int, bytes]]) -> None:
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        tree = make_tree(folder)
        kernel = Kernel(Requests(tree, MountOptions(), max_pages=4))
        kernel.begin()
        nodes = [1, kernel.lookup(b"file")[0], kernel.lookup(b"dir")[0], kernel.lookup(b"link")[0], 0, 2**64 - 1]
        try:
            for opcode, which, body in messages:
                kernel.send(opcode, nodes[which], body)
        finally:
            tree.close()
            logging.disable(logging.NOTSET)
