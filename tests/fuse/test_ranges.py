"""Parts of files: holes, allocation, copies inside the kernel; and files without a name."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.layers.directory import DirectoryLayer
from fuse.ownership import Ownership
from fuse.ranges import _seek
from fuse.syscalls import fallocate
from fuse.tree import Tree
from fuse.upper import UpperDirectory
from tests.fuse.archives import archive, regular
from tests.fuse.namespaces import in_namespace, mounted, options_here, read, write

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


class Segments:
    """A file of which only the segments count."""

    def __init__(self, segments: list[tuple[int, int, int]]) -> None:
        self._segments = segments

    def segments(self):
        return iter(self._segments)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=6), st.integers(0, 8))
def test_seeking_against_a_map_of_bytes(gaps: list[tuple[int, int]], tail: int) -> None:
    bytes_, segments = "", []
    for hole, data in gaps:
        bytes_ += "." * hole
        segments.append((len(bytes_), 0, data))
        bytes_ += "x" * data
    bytes_ += "." * tail
    for offset in range(len(bytes_) + 2):
        for whence, wanted in ((os.SEEK_DATA, "x"), (os.SEEK_HOLE, ".")):
            found = (bytes_ + ("." if wanted == "." else "")).find(wanted, offset)
            if offset >= len(bytes_):
                found = -1
            try:
                assert _seek(Segments(segments), len(bytes_), offset, whence) == found  # type: ignore[arg-type]
            except OSError as error:
                assert (error.errno, found) == (errno.ENXIO, -1)


@pytest.mark.fuse
@pytest.mark.userns
@in_namespace
def test_holes_are_found(folder: str) -> None:
    layer = archive(folder, "sparse", [(regular("sparse"), b"")])
    os.mkdir(folder + "/low")
    with open(folder + "/low/holes", "wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"data" * 1024)
    options = options_here(writeback=False)
    with mounted(folder, [layer, DirectoryLayer(folder + "/low")], options=options) as root:
        with open(root + "/holes", "rb") as file:
            if options.adapter == "pyfuse3":
                assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
                return
            assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 1 << 20
            assert os.lseek(file.fileno(), 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
            with pytest.raises(OSError) as error:
                os.lseek(file.fileno(), 2 << 20, os.SEEK_DATA)
            assert error.value.errno == errno.ENXIO


@pytest.mark.fuse
@pytest.mark.userns
@in_namespace
def test_space_is_set_aside_and_given_back(folder: str) -> None:
    layer = archive(folder, "base", [(regular("file"), b"x" * 65536)])
    options = options_here()
    with mounted(folder, [layer], options=options) as root:
        fd = os.open(root + "/file", os.O_RDWR)
        if options.adapter == "pyfuse3":
            with pytest.raises(OSError) as error:
                fallocate(fd, 0, 0, 1 << 20)
            assert error.value.errno == errno.EOPNOTSUPP
        else:
            fallocate(fd, 0, 0, 1 << 20)
            assert os.fstat(fd).st_size == 1 << 20
            fallocate(fd, KEEP_SIZE, 1 << 20, 1 << 20)
            assert os.fstat(fd).st_size == 1 << 20
            assert os.fstat(fd).st_blocks >= 4 << 10
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4096, 8192)
            assert os.pread(fd, 3 * 4096, 2048) == b"x" * 2048 + bytes(8192) + b"x" * 2048
        os.posix_fallocate(fd, 0, 1 << 21)
        assert os.fstat(fd).st_size == 1 << 21
        os.close(fd)


@pytest.mark.fuse
@pytest.mark.userns
@in_namespace
def test_copies_inside_the_kernel(folder: str) -> None:
    os.mkdir(folder + "/low")
    write("directory" * 1000, folder, "low/plain")
    layer = archive(folder, "base", [(regular("packed"), b"archive" * 1000)])
    with mounted(folder, [layer, DirectoryLayer(folder + "/low")]) as root:
        for name, text in (("plain", "directory" * 1000), ("packed", "archive" * 1000)):
            with open(f"{root}/{name}", "rb") as source, open(f"{root}/copy", "wb") as target:
                copied = 0
                while count := os.copy_file_range(source.fileno(), target.fileno(), 1 << 20):
                    copied += count
            assert copied == len(text)
            assert read(root, "copy") == text
        assert not os.path.exists(folder + "/upper/plain")
        with open(root + "/copy", "r+b") as file:
            os.copy_file_range(file.fileno(), file.fileno(), 7, 0, 700)


@pytest.mark.parametrize("ownership", [Ownership.REAL, Ownership.XATTR, Ownership.FILE])
def test_set_id_bits_go_with_what_is_set_aside_or_copied(tmp_path: Path, ownership: Ownership) -> None:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    upper = UpperDirectory(bytes(tmp_path / "upper"), bytes(tmp_path / "work"), ownership=ownership)
    tree = Tree([archive(str(tmp_path), "base", [(regular("source"), b"x" * 10)])], upper)
    root, me = tree.root, (os.geteuid(), os.getegid())
    source = tree.create(root, b"plain", 0o600, *me)
    tree.write(source, 0, b"y" * 10)
    changes = [
        lambda inode: tree.allocate(inode, 0, 0, 10),
        lambda inode: tree.copy_range(source, 0, inode, 0, 5),
    ]
    for number, change in enumerate(changes):
        for mode, left in ((0o6755, 0o755), (0o6745, 0o2745), (0o755, 0o755)):
            inode = tree.create(root, b"%d%o" % (number, mode), 0o600, *me)
            tree.chmod(inode, mode)
            change(inode)
            assert stat.S_IMODE(tree.attributes(inode).mode) == left
            tree.write(inode, 0, b"z")  # which gives back what the kernel took away
            assert stat.S_IMODE(tree.attributes(inode).mode) == left
    tree.close()


@pytest.mark.fuse
@pytest.mark.userns
@in_namespace
def test_a_file_is_made_without_a_name_and_linked(folder: str) -> None:
    options = options_here()
    with mounted(folder, [archive(folder, "base", [regular("dir/x")])], options=options) as root:
        try:
            fd = os.open(root + "/dir", os.O_TMPFILE | os.O_RDWR, 0o640)
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP
            assert options.adapter == "pyfuse3" or tuple(map(int, os.uname().release.split(".")[:2])) < (6, 2)
            return
        os.write(fd, b"hidden")
        assert os.listdir(root + "/dir") == ["x"]
        assert os.fstat(fd).st_nlink == 0
        assert ctypes.CDLL(None).linkat(-100, b"/proc/self/fd/%d" % fd, -100, f"{root}/dir/shown".encode(), 0x400) == 0
        assert os.fstat(fd).st_nlink == 1
        os.close(fd)
        assert read(root, "dir/shown") == "hidden"
        assert os.stat(root + "/dir/shown").st_mode & 0o777 == 0o640
        os.close(os.open(root + "/dir", os.O_TMPFILE | os.O_WRONLY, 0o600))
    assert os.listdir(folder + "/work") == []
