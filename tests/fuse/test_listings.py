"""Directories that are read while they change, in pieces of every size."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess

import pytest

from fuse.layers.directory import DirectoryLayer
from tests.fuse.archives import archive, regular
from tests.fuse.namespaces import in_namespace, mounted, write

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

_libc = ctypes.CDLL(None, use_errno=True)


class Reader:
    """Reads a directory with buffers of a size of our choice: getdents64(2)."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def step(self, size: int) -> list[str]:
        """The next names, none at the end."""
        buffer = ctypes.create_string_buffer(size)
        length = _libc.syscall(217 if os.uname().machine == "x86_64" else 61, self.fd, buffer, size)
        assert length >= 0, os.strerror(ctypes.get_errno())
        names, at = [], 0
        while at < length:
            _, _, record, _ = struct.unpack_from("=QqHB", buffer, at)
            names.append(buffer.raw[at + 19 : at + record].split(b"\0")[0].decode())
            at += record
        return names

    def rest(self, size: int) -> list[str]:
        names = []
        while found := self.step(size):
            names += found
        os.close(self.fd)
        return names


def files(folder: str, count: int):
    return archive(folder, "base", [regular(f"many/{number:05}") for number in range(count)])


@in_namespace
def test_buffers_of_every_size(folder: str) -> None:
    names = [".", ".."] + [f"{number:05}" for number in range(6000)]
    with mounted(folder, [files(folder, 6000)]) as root:
        for size in (1 << 20, 1 << 14, 200, 1 << 20):
            assert sorted(Reader(root + "/many").rest(size)) == names
        write("", root, "many/new")  # which takes it from what one layer has alone
        for size in (1 << 20, 1 << 14, 200, 1 << 20):
            assert sorted(Reader(root + "/many").rest(size)) == [*names, "new"]


@in_namespace
def test_removing_while_reading_misses_nothing(folder: str) -> None:
    with mounted(folder, [files(folder, 3000)]) as root:
        reader, other = Reader(root + "/many"), Reader(root + "/many")
        seen = []
        half = [name for _ in range(8) for name in other.step(1 << 12)]
        while names := reader.step(1 << 12):
            for name in names:
                if not name.startswith("."):
                    os.unlink(f"{root}/many/{name}")
                    seen.append(name)
        assert len(set(seen)) == len(seen) == 3000
        os.close(reader.fd)
        left = other.rest(1 << 12)  # from the kernel's cache, or gone
        assert len(set(half + left)) == len(half + left)
        assert os.listdir(root + "/many") == []
        os.rmdir(root + "/many")


@in_namespace
def test_what_stays_is_seen_once_by_everybody(folder: str) -> None:
    os.makedirs(folder + "/low/many")
    for number in range(1000):
        write("", folder, f"low/many/{number:05}")
    with mounted(folder, [DirectoryLayer(folder + "/low")]) as root:
        first, second = Reader(root + "/many"), Reader(root + "/many")
        seen: dict[str, list[str]] = {"first": [], "second": []}
        for turn in range(1000):
            for name, reader in (("first", first), ("second", second)):
                seen[name] += reader.step(300 if name == "first" else 700)
            if turn < 200:
                os.unlink(f"{root}/many/{turn * 2:05}")
                write("", root, f"many/new{turn}")
        for names in seen.values():
            assert len(set(names)) == len(names)
            assert {f"{number:05}" for number in range(1, 1000, 2)} <= set(names)
        os.close(first.fd)
        os.close(second.fd)
        assert len(os.listdir(root + "/many")) == 1000


@in_namespace
def test_a_tree_is_removed_and_made_again(folder: str) -> None:
    with mounted(folder, [files(folder, 500)]) as root:
        for _ in range(3):
            subprocess.run(["rm", "-r", root + "/many"], check=True)
            os.mkdir(root + "/many")
            assert os.listdir(root + "/many") == []
            for number in range(100):
                write("", root, f"many/{number}")
            assert len(os.listdir(root + "/many")) == 100
