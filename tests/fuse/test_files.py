"""What programs do with files, through real mounts."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from pathlib import Path

import pytest

from fuse.tree import Tree
from fuse.upper import UpperDirectory
from tests.fuse.archives import archive, directory, hardlink, regular
from tests.fuse.namespaces import in_namespace, mounted, read, write

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

GIB = 1 << 30
CLOCK_REALTIME_COARSE = 5  # clock_gettime(2); before Linux 6.13 files have their times from it
CAPABILITY = struct.pack("<IIIIII", 0x03000001, 1 << 13, 0, 0, 0, 0)  # capabilities(7): cap_net_raw+ep, of root 0 here


def layer(folder: str):
    return archive(
        folder,
        "layer",
        [
            directory("", 0o755),
            directory("d"),
            (regular("d/file", 0o644), bytes(range(256)) * 64),
            (regular("one"), b"linked\n"),
            hardlink("d/two", "one"),
            hardlink("three", "one"),
            (regular("program", 0o6755), b"#!/bin/sh\n"),
        ],
    )


@in_namespace
def test_hard_links_of_a_layer_survive_a_change(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        names = [f"{root}/{name}" for name in ("one", "d/two", "three")]
        before = {os.stat(name).st_ino for name in names}
        with open(names[0], "a") as file:
            file.write("more\n")
        assert {read(name) for name in names} == {"linked\nmore\n"}
        assert {(os.stat(name).st_ino, os.stat(name).st_nlink) for name in names} == {(before.pop(), 3)}
        os.unlink(names[1])
        os.rename(names[2], root + "/d/two")
        assert os.stat(root + "/d/two").st_nlink == 2
    with mounted(folder, [layer(folder)]) as root:
        assert read(root, "d/two") == "linked\nmore\n"
        assert os.path.samefile(root + "/one", root + "/d/two")
        assert not os.path.exists(root + "/three")


@in_namespace
def test_an_open_file_keeps_its_data(folder: str) -> None:
    """Through copy-up by somebody else, rename, being replaced, and removal."""
    with mounted(folder, [layer(folder)]) as root:
        with open(root + "/d/file", "rb") as reader, open(root + "/d/file", "r+b") as writer:
            assert reader.read(4) == b"\0\1\2\3"
            writer.write(b"abcd")
            writer.flush()
            os.rename(root + "/d/file", root + "/moved")
            write("another", root, "other")
            os.rename(root + "/other", root + "/moved")
            assert os.fstat(reader.fileno()).st_nlink == 0
            assert os.pread(reader.fileno(), 6, 0) == b"abcd\4\5"
            writer.truncate(3)
            writer.seek(3)
            writer.write(b"end")
            writer.flush()
            assert os.pread(reader.fileno(), 100, 0) == b"abcend"
            os.fchmod(writer.fileno(), 0o600)
            os.utime(writer.fileno(), ns=(1, 2))
            assert os.fstat(reader.fileno()).st_mtime_ns == 2
            assert os.listxattr(reader.fileno()) == []
            with open(f"/proc/self/fd/{reader.fileno()}", "rb") as again:
                assert again.read() == b"abcend"
        assert read(root, "moved") == "another"


@in_namespace
def test_a_file_without_a_name_can_be_mapped_and_grow(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        with open(root + "/made", "w+b") as file:
            os.unlink(root + "/made")
            file.truncate(3 * mmap.PAGESIZE)
            with mmap.mmap(file.fileno(), 0) as mapped:
                mapped[mmap.PAGESIZE : mmap.PAGESIZE + 5] = b"hello"
                mapped.flush()
            file.seek(mmap.PAGESIZE)
            assert file.read(5) == b"hello"


@in_namespace
def test_shared_mappings(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        with open(root + "/d/file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[10:15] = b"hello"
            with open(root + "/d/file", "rb") as reader:
                assert reader.read()[9:16] == b"\thello\x0f"
            file.seek(10)
            file.write(b"J")
            file.flush()
            assert mapped[10:15] == b"Jello"
    with mounted(folder, [layer(folder)]) as root, open(root + "/d/file", "rb") as file:
        assert file.read(16)[10:15] == b"Jello"


@in_namespace
def test_appending_by_several(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        pids = []
        for letter in (b"a", b"b"):
            pid = os.fork()
            if pid == 0:
                fd = os.open(root + "/one", os.O_WRONLY | os.O_APPEND)
                for _ in range(200):
                    os.write(fd, letter * 10)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        text = read(root, "three").removeprefix("linked\n")
        assert sorted(text[at : at + 10] for at in range(0, len(text), 10)) == ["a" * 10] * 200 + ["b" * 10] * 200


@in_namespace
def test_direct_access(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        with mmap.mmap(-1, 8192) as buffer:
            buffer[:] = b"x" * 8192
            fd = os.open(root + "/d/file", os.O_RDWR | os.O_DIRECT)
            assert os.pwrite(fd, buffer, 4096) == 8192
            assert os.preadv(fd, [buffer], 0) == 8192
            assert buffer[:8] == bytes(range(8))
            assert buffer[4096:] == b"x" * 4096
            os.close(fd)
        with open(root + "/d/file", "rb") as file:
            assert file.read() == bytes(range(256)) * 16 + b"x" * 8192 + bytes(range(256)) * 16


@in_namespace
def test_a_file_beyond_four_gibibytes(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        with open(root + "/large", "w+b") as file:
            file.seek(5 * GIB)
            file.write(b"far away")
            file.seek(4 * GIB - 2)
            file.write(b"over")
            file.flush()
            assert os.fstat(file.fileno()).st_size == 5 * GIB + 8
            file.seek(5 * GIB)
            assert file.read() == b"far away"
            file.truncate(4 * GIB + 1)
    with mounted(folder, [layer(folder)]) as root:
        with open(root + "/large", "rb") as file:
            assert file.seek(0, os.SEEK_END) == 4 * GIB + 1
            file.seek(4 * GIB - 3)
            assert file.read() == b"\0ove"
        assert os.stat(root + "/large").st_blocks < 1000


@in_namespace
def test_space_can_be_set_aside(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root, open(root + "/one", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        assert os.fstat(file.fileno()).st_size == 100_000
        assert file.read(7) == b"linked\n"
        assert file.read(10) == b"\0" * 10


@in_namespace
def test_locks(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root, open(root + "/one", "r+") as ours:
        for lock in (fcntl.flock, fcntl.lockf):
            lock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pid = os.fork()
            if pid == 0:
                with open(root + "/three", "r+") as theirs:  # another name of the same file
                    try:
                        lock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        os._exit(7)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            lock(ours, fcntl.LOCK_UN)


@in_namespace
def test_statfs_is_that_of_the_upper(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        ours, theirs = os.statvfs(root), os.statvfs(folder + "/upper")
        assert (ours.f_blocks, ours.f_frsize, ours.f_namemax) == (theirs.f_blocks, theirs.f_frsize, theirs.f_namemax)


@in_namespace
def test_times_to_the_nanosecond(folder: str) -> None:
    times = (-123_456_789, 4_000_000_000_123_456_789)  # before 1970 and after 2038
    with mounted(folder, [layer(folder)]) as root:
        for name in ("d/file", "d", "one"):
            os.utime(f"{root}/{name}", ns=times)
            status = os.stat(f"{root}/{name}")
            assert (status.st_atime_ns, status.st_mtime_ns) == times
        os.utime(root + "/one", ns=(5, 6))
        before = os.stat(root + "/one").st_ctime_ns
        while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= before:
            time.sleep(0.001)
        os.chmod(root + "/one", 0o600)
        assert os.stat(root + "/one").st_ctime_ns > before
        assert os.stat(root + "/one").st_mtime_ns == 6
    with mounted(folder, [layer(folder)]) as root:
        assert os.stat(root + "/d").st_mtime_ns == times[1]


@in_namespace
def test_copy_up_shows_in_no_time_but_the_change_of_the_file(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        before = [os.stat(root + name).st_mtime_ns for name in ("/", "/d", "/d/file")]
        os.chmod(root + "/d/file", 0o600)
        assert [os.stat(root + name).st_mtime_ns for name in ("/", "/d", "/d/file")] == before


def as_user(work) -> None:
    """Run something as user 1000 in a child that has no capabilities."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@in_namespace
def test_set_id_bits_and_capabilities_go_with_a_change(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        program = root + "/program"
        open(program, "w").close()
        assert stat.S_IMODE(os.stat(program).st_mode) == 0o755  # with the copy-up that it takes

        def mode() -> int:
            return stat.S_IMODE(os.stat(program).st_mode)

        def write_one() -> None:
            with open(program, "r+b") as file:
                file.write(b"x")

        def write_anew() -> None:
            with open(program, "w") as file:
                file.write("x")

        for change in (write_one, lambda: os.truncate(program, 3), lambda: open(program, "w").close(), write_anew):
            os.chown(program, 1000, 1000)
            os.chmod(program, 0o6755)
            os.setxattr(program, "security.capability", CAPABILITY)
            assert mode() == 0o6755
            as_user(change)
            assert mode() == 0o755, change
            assert "security.capability" not in os.listxattr(program)
        os.chmod(program, 0o6745)
        as_user(write_one)
        assert mode() == 0o2745  # no group-execute: that is not a set-group-id program
        os.chmod(program, 0o6755)
        os.setxattr(program, "security.capability", CAPABILITY)
        write("#!/bin/sh\n", program)
        os.chmod(program, 0o6755)
        os.setxattr(program, "security.capability", CAPABILITY)
        os.chown(program, 7, 7)
        assert mode() == 0o755
        assert "security.capability" not in os.listxattr(program)
        os.chmod(program, 0o6755)
        with open(program, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0:1] = b"y"
            mapped.flush()

        assert mode() == 0o6755  # writing to memory is no write(2)
        os.chmod(root + "/d", 0o7755)
        os.chown(root + "/d", 7, 7)
        assert stat.S_IMODE(os.stat(root + "/d").st_mode) == 0o7755


@in_namespace
def test_attributes_as_xattr_7_has_them(folder: str) -> None:
    with mounted(folder, [layer(folder)]) as root:
        one = root + "/one"
        with pytest.raises(OSError) as error:
            os.setxattr(one, "user.a", b"1", os.XATTR_REPLACE)
        assert error.value.errno == errno.ENODATA
        os.setxattr(one, "user.a", b"1", os.XATTR_CREATE)
        os.setxattr(root + "/three", "user.b", b"", 0)
        assert sorted(os.listxattr(one)) == ["user.a", "user.b"]
        os.setxattr(one, "user.a", b"2" * 2000)
        assert os.getxattr(root + "/d/two", "user.a") == b"2" * 2000
        os.removexattr(one, "user.a")
        with pytest.raises(OSError) as error:
            os.removexattr(one, "user.a")
        assert error.value.errno == errno.ENODATA
        os.symlink("one", root + "/link")
        with pytest.raises(PermissionError):
            os.setxattr(root + "/link", "user.a", b"", follow_symlinks=False)


@in_namespace
def test_sync_is_answered(folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with mounted(folder, [layer(folder)]) as root:
        with open(root + "/d/file", "r+b") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            os.fdatasync(file.fileno())
            assert libc.syncfs(file.fileno()) == 0
        fd = os.open(root + "/d", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
    with mounted(folder, [layer(folder)]) as root, open(root + "/d/file", "rb") as file:
        assert file.read(2) == b"x\1"


def test_what_copy_up_makes_is_synced_with_a_file(tmp_path: Path) -> None:
    """And what copy-up copies, before it takes the place of the file below."""
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    me = {"uid": os.geteuid(), "gid": os.getegid()}
    entries = [directory("d", **me), directory("d/e", **me), (regular("d/e/file", **me), b"content")]
    lower = archive(str(tmp_path), "layer", entries)
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(f"{tmp_path}/"))
        real(fd)

    real = os.fsync
    tree = Tree([lower], UpperDirectory(str(tmp_path / "upper"), str(tmp_path / "work")))
    d = tree.lookup(tree.root, b"d")
    e = tree.lookup(d, b"e")  # type: ignore[arg-type]
    file = tree.lookup(e, b"file")  # type: ignore[arg-type]
    for inode in (d, e, file):
        inode.lookups += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        tree.open(file, os.O_RDWR)
        assert [path.partition("/")[0] for path in synced] == ["work"]  # before the copy is moved into place
        synced.clear()
        tree.write(file, 0, b"C")
        tree.fsync(file, data_only=False)
        assert synced == ["upper/d/e/file", "upper/d/e", "upper/d", "upper"]
        synced.clear()
        tree.fsync(file, data_only=False)
        assert synced == ["upper/d/e/file"]
        tree.release(file)
    tree.close()
