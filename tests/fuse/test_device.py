"""Files that are read and written without the server having been told that they are open."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import threading

import pytest

from tests.fuse.archives import archive, regular
from tests.fuse.namespaces import in_namespace, mounted, read, write

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def many(folder: str, count: int):
    return archive(folder, "many", [(regular(f"d/{number}"), b"%d" % number) for number in range(count)])


@in_namespace
def test_more_files_than_descriptors_are_kept(folder: str) -> None:
    with mounted(folder, [many(folder, 700)]) as root:
        files = [os.open(f"{root}/d/{number}", os.O_RDWR) for number in range(700)]
        for turn in range(3):
            for number, file in enumerate(files):
                os.pwrite(file, b"turn %d of %d" % (turn, number), 0)
        for number, file in enumerate(files):
            assert os.pread(file, 100, 0).startswith(b"turn 2 of %d" % number)
        for number in range(0, 700, 2):
            os.unlink(f"{root}/d/{number}")
        for number, file in enumerate(files):
            os.pwrite(file, b"gone", 0)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(file, 100, 0).startswith(b"gone 2 of %d" % number)
            assert os.fstat(file).st_nlink == number % 2
            os.close(file)
        assert len(os.listdir(root + "/d")) == 350


@in_namespace
def test_shared_mappings(folder: str) -> None:
    with mounted(folder, [many(folder, 3)]) as root:
        fd = os.open(root + "/d/1", os.O_RDWR)
        os.ftruncate(fd, 3 * 4096)
        with mmap.mmap(fd, 3 * 4096) as first:
            first[4096:4104] = b"mapping1"
            assert os.pread(fd, 8, 4096) == b"mapping1"
            os.pwrite(fd, b"written", 8192)
            assert first[8192:8199] == b"written"
            os.unlink(root + "/d/1")
            first[0:4] = b"late"
            first.flush()
            os.close(fd)
            assert first[:4] == b"late"
        with open(root + "/d/2", "r+b") as file, mmap.mmap(file.fileno(), 0) as second:
            second[:] = b"x"
        assert read(root, "d/2") == "x"
    assert read(folder, "upper/d/2") == "x"


@in_namespace
def test_appending_from_several_threads(folder: str) -> None:
    with mounted(folder, [many(folder, 1)]) as root:

        def append(letter: bytes) -> None:
            fd = os.open(root + "/d/0", os.O_WRONLY | os.O_APPEND)
            for _ in range(200):
                os.write(fd, letter * 50 + b"\n")
            os.close(fd)

        threads = [threading.Thread(target=append, args=(letter,)) for letter in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = read(root, "d/0").removeprefix("0").split("\n")
        assert sorted(lines) == ["", *["a" * 50] * 200, *["b" * 50] * 200, *["c" * 50] * 200]


@in_namespace
def test_direct_input_and_output(folder: str) -> None:
    with mounted(folder, [many(folder, 1)]) as root:
        block = mmap.mmap(-1, 1 << 20)
        block[:] = os.urandom(1 << 20)
        fd = os.open(root + "/direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        assert os.pwritev(fd, [block], 1 << 20) == 1 << 20
        back = mmap.mmap(-1, 1 << 20)
        assert os.preadv(fd, [back], 1 << 20) == 1 << 20
        assert back[:] == block[:]
        os.close(fd)
        with open(root + "/direct", "rb") as file:
            assert file.read() == bytes(1 << 20) + block[:]


@in_namespace
def test_files_over_four_gigabytes(folder: str) -> None:
    with mounted(folder, [many(folder, 1)]) as root:
        fd = os.open(root + "/large", os.O_RDWR | os.O_CREAT)
        os.pwrite(fd, b"far", 5 << 30)
        assert os.fstat(fd).st_size == (5 << 30) + 3
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 10, (5 << 30) - 2) == b"\0\0far"
        os.ftruncate(fd, 6 << 30)
        assert os.stat(root + "/large").st_size == 6 << 30
        os.close(fd)


@in_namespace
def test_large_attributes_and_their_sizes(folder: str) -> None:
    with mounted(folder, [many(folder, 1)]) as root:
        path = root + "/d/0"
        try:
            os.setxattr(path, "user.large", b"v" * 65536)
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.E2BIG)  # what the file system of the upper directory takes
            os.setxattr(path, "user.large", b"v" * 2000)
        assert set(os.getxattr(path, "user.large")) == {ord("v")}
        with pytest.raises(FileExistsError):
            os.setxattr(path, "user.large", b"", os.XATTR_CREATE)
        with pytest.raises(OSError) as missing:
            os.setxattr(path, "user.none", b"", os.XATTR_REPLACE)
        assert missing.value.errno == errno.ENODATA
        os.removexattr(path, "user.large")
        assert os.listxattr(path) == []


@in_namespace
def test_locks_are_the_kernels(folder: str) -> None:
    with mounted(folder, [many(folder, 1)]) as root:
        with open(root + "/d/0", "r+") as first, open(root + "/d/0", "r+") as second:
            fcntl.flock(first, fcntl.LOCK_EX)
            with pytest.raises(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(root + "/d/0", "r+") as held:
            fcntl.lockf(held, fcntl.LOCK_EX)
            code = f"import fcntl\nfcntl.lockf(open({root + '/d/0'!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
            assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 1


@in_namespace
def test_opening_flags(folder: str) -> None:
    with mounted(folder, [many(folder, 1)]) as root:
        path = root + "/d/0"
        for flags in (os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_EXCL | os.O_TRUNC):
            with pytest.raises(FileExistsError):
                os.open(path, flags | os.O_WRONLY)
        assert read(path) == "0"
        assert not os.path.exists(folder + "/upper/d")
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY))
        assert not os.path.exists(folder + "/upper/d")
        os.close(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY))
        assert read(path) == ""
        fd = os.open(root + "/d/read-only", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
        os.write(fd, b"yet written")
        os.close(fd)
        assert read(root, "d/read-only") == "yet written"
        with pytest.raises(IsADirectoryError):
            os.open(root + "/d", os.O_WRONLY)
        os.symlink("0", root + "/d/link")
        with pytest.raises(OSError) as loop:
            os.open(root + "/d/link", os.O_RDONLY | os.O_NOFOLLOW)
        assert loop.value.errno == errno.ELOOP


@in_namespace
def test_programs_run_and_are_replaced(folder: str) -> None:
    with open("/bin/true", "rb") as file:
        program = file.read()
    with mounted(folder, [archive(folder, "bin", [(regular("true", 0o755), program)])]) as root:
        subprocess.run([root + "/true"], check=True)
        with open(root + "/copy", "wb") as file:
            file.write(program)
        os.chmod(root + "/copy", 0o755)
        subprocess.run([root + "/copy"], check=True)
        os.rename(root + "/copy", root + "/true")
        subprocess.run([root + "/true"], check=True)
        write("#!/bin/sh\nexit 7\n", root, "true")
        assert subprocess.run([root + "/true"], check=False).returncode == 7
