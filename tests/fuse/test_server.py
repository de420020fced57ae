"""Real mounts, as root of a user namespace of an unprivileged user."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest
import trio

from fuse.layers.directory import DirectoryLayer
from fuse.server import Adapter, MountOptions, serve
from fuse.syscalls import RenameFlag, renameat2, umount
from tests.fuse.archives import archive, archive_of_tar, directory, hardlink, regular, symlink, whiteout
from tests.fuse.namespaces import in_namespace, is_whiteout, mounted, options_here, read, write
from tests.kit.userns import in_namespaces

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def base(folder: str, **fields: object):
    return archive(
        folder,
        "base",
        [
            directory("", 0o755),
            directory("etc"),
            (regular("etc/passwd", uid=0, gid=0, mtime_ns=1_600_000_000_123_456_789), b"root:x:0:0\n"),
            (regular("etc/shadow", 0o640, gid=42), b"secret\n"),
            (regular("bin/su", 0o4755, xattrs=((b"user.note", b"setuid"),)), b"#!/bin/sh\n"),
            (regular("big", 0o600), bytes(range(256)) * 4096),
            hardlink("big2", "big"),
            symlink("link", "etc/passwd"),
            directory("home/user", 0o700, uid=1000, gid=1000),
            (regular("home/user/file", uid=1000, gid=1000), b"mine\n"),
        ],
    )


@in_namespace
def test_reads_what_the_archive_holds(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        assert read(root, "link") == "root:x:0:0\n"
        assert os.stat(root + "/etc/passwd").st_mtime_ns == 1_600_000_000_123_456_789
        with open(root + "/big", "rb") as file:
            assert file.read() == bytes(range(256)) * 4096
        status = os.stat(root + "/big")
        assert (status.st_nlink, status.st_ino) == (2, os.stat(root + "/big2").st_ino)
        assert stat.S_IMODE(os.stat(root + "/bin/su").st_mode) == 0o4755
        assert os.getxattr(root + "/bin/su", "user.note") == b"setuid"
        assert os.listxattr(root + "/bin/su") == ["user.note"]
        assert os.stat(root + "/home/user").st_uid == 1000
        assert sorted(os.listdir(root)) == ["big", "big2", "bin", "etc", "home", "link"]
        assert not os.path.exists(root + "/nothing")
        write("now it is", root, "nothing")
        assert read(root, "nothing") == "now it is"


@in_namespace
def test_whiteouts_and_opaque_directories_of_layers(folder: str) -> None:
    top = archive(
        folder, "top", [whiteout("etc/shadow"), directory("home", opaque=True), regular("home/other"), whiteout("big")]
    )
    with mounted(folder, [top, base(folder)]) as root:
        assert sorted(os.listdir(root + "/etc")) == ["passwd"]
        assert os.listdir(root + "/home") == ["other"]
        assert not os.path.exists(root + "/big")
        assert os.path.exists(root + "/big2")


@in_namespace
def test_changes_go_to_the_upper_directory_and_stay(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        with open(root + "/etc/passwd", "a") as file:
            file.write("user:x:1000:1000\n")
        os.chmod(root + "/etc/shadow", 0o600)
        os.chown(root + "/home/user/file", 1001, 1002)
        os.unlink(root + "/link")
        os.mkdir(root + "/new")
        os.symlink("target", root + "/new/symlink")
        os.mkfifo(root + "/new/fifo")
        os.utime(root + "/bin/su", ns=(5_000_000_001, 6_000_000_002))
        os.setxattr(root + "/bin/su", "user.more", b"1")
    upper = folder + "/upper"
    assert is_whiteout(upper, "link")
    assert os.stat(upper + "/home/user/file").st_uid == 1001
    with mounted(folder, [base(folder)]) as root:
        assert read(root, "etc/passwd") == "root:x:0:0\nuser:x:1000:1000\n"
        assert stat.S_IMODE(os.stat(root + "/etc/shadow").st_mode) == 0o600
        assert os.stat(root + "/etc/shadow").st_gid == 42
        assert (os.stat(root + "/home/user/file").st_uid, os.stat(root + "/home/user/file").st_gid) == (1001, 1002)
        assert not os.path.lexists(root + "/link")
        assert os.readlink(root + "/new/symlink") == "target"
        assert stat.S_ISFIFO(os.stat(root + "/new/fifo").st_mode)
        assert os.stat(root + "/bin/su").st_mtime_ns == 6_000_000_002
        assert stat.S_IMODE(os.stat(root + "/bin/su").st_mode) == 0o4755
        assert os.getxattr(root + "/bin/su", "user.more") == b"1"
        assert os.getxattr(root + "/bin/su", "user.note") == b"setuid"


@in_namespace
def test_a_removed_directory_made_again_is_empty(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        subprocess.run(["rm", "-r", root + "/home"], check=True)
        assert not os.path.exists(root + "/home")
        os.mkdir(root + "/home")
        assert os.listdir(root + "/home") == []
        with pytest.raises(OSError) as error:
            os.rmdir(root + "/etc")
        assert error.value.errno == errno.ENOTEMPTY
    assert os.getxattr(folder + "/upper/home", "user.overlay.opaque") == b"y"
    with mounted(folder, [base(folder)]) as root:
        assert os.listdir(root + "/home") == []


@in_namespace
def test_rename_of_files_and_merged_directories(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        number = os.stat(root + "/home/user/file").st_ino
        os.rename(root + "/home", root + "/houses")
        assert read(root, "houses/user/file") == "mine\n"
        assert os.stat(root + "/houses/user/file").st_ino == number
        assert os.stat(root + "/houses/user").st_uid == 1000
        assert not os.path.exists(root + "/home")
        os.rename(root + "/etc/passwd", root + "/etc/shadow")
        assert os.listdir(root + "/etc") == ["shadow"]
        assert read(root, "etc/shadow") == "root:x:0:0\n"
        os.mkdir(root + "/fresh")
        with pytest.raises(FileExistsError):
            renameat2(f"{root}/bin".encode(), f"{root}/fresh".encode(), RenameFlag.NOREPLACE)
        renameat2(f"{root}/bin".encode(), f"{root}/fresh".encode(), RenameFlag.EXCHANGE)
        assert os.listdir(root + "/bin") == []
    with mounted(folder, [base(folder)]) as root:
        assert read(root, "houses/user/file") == "mine\n"
        assert not os.path.exists(root + "/home")
        assert os.listdir(root + "/etc") == ["shadow"]
        assert os.listdir(root + "/bin") == []
        assert os.listdir(root + "/fresh") == ["su"]


@in_namespace
def test_a_changed_file_keeps_its_other_names(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        write("small", root, "big")
        assert read(root, "big2") == "small"
        os.link(root + "/big2", root + "/big3")
        assert os.stat(root + "/big").st_nlink == 3
        os.unlink(root + "/big")
        assert os.stat(root + "/big3").st_nlink == 2
        write("smaller", root, "big3")
        assert read(root, "big2") == "smaller"
    with mounted(folder, [base(folder)]) as root:
        assert read(root, "big2") == read(root, "big3") == "smaller"
        assert not os.path.exists(root + "/big")


@in_namespace
def test_an_open_file_outlives_its_name(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        with open(root + "/etc/passwd") as lower, open(root + "/etc/shadow", "r+") as upper:
            os.unlink(root + "/etc/passwd")
            os.unlink(root + "/etc/shadow")
            write("another", root, "etc/passwd")
            assert lower.read() == "root:x:0:0\n"
            assert upper.read() == "secret\n"
            upper.write("and more\n")
            upper.flush()
            os.fsync(upper.fileno())
            upper.seek(0)
            assert upper.read() == "secret\nand more\n"
            assert os.fstat(upper.fileno()).st_nlink == 0
            os.fchmod(upper.fileno(), 0o611)
            os.fchmod(lower.fileno(), 0o612)
            assert stat.S_IMODE(os.fstat(lower.fileno()).st_mode) == 0o612
        assert read(root, "etc/passwd") == "another"


@in_namespace
def test_a_reader_sees_what_another_writes(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        with open(root + "/etc/passwd") as reader:
            assert reader.read() == "root:x:0:0\n"
            with open(root + "/etc/passwd", "a") as writer:
                writer.write("more\n")
            assert reader.read() == "more\n"


@in_namespace
def test_writing_clears_set_id_bits_and_chown_too(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        pid = os.fork()
        if pid == 0:
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            try:
                with open(root + "/home/user/file", "a") as file:
                    os.fchmod(file.fileno(), 0o6755)
                    file.write("x")
                status = os.stat(root + "/home/user/file")
                os._exit(0 if stat.S_IMODE(status.st_mode) == 0o755 else 1)
            except OSError as error:
                os._exit(error.errno or 2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.chown(root + "/bin/su", 7, 7)
        assert stat.S_IMODE(os.stat(root + "/bin/su").st_mode) == 0o755


@in_namespace
def test_permissions_are_those_of_the_image(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            denied = 0
            for path in ("/etc/shadow", "/big"):
                try:
                    open(root + path).close()
                except PermissionError:
                    denied += 1
            write("mine", root, "home/user/made")
            status = os.stat(root + "/home/user/made")
            os._exit(0 if (denied, status.st_uid, status.st_gid) == (2, 1000, 1000) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@in_namespace
def test_a_set_group_id_directory_hands_its_group_down(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        os.mkdir(root + "/shared")
        os.chown(root + "/shared", 0, 50)
        os.chmod(root + "/shared", 0o2775)
        write("", root, "shared/file")
        os.mkdir(root + "/shared/sub")
        assert os.stat(root + "/shared/file").st_gid == 50
        assert os.stat(root + "/shared/sub").st_gid == 50
        assert os.stat(root + "/shared/sub").st_mode & stat.S_ISGID


@in_namespace
def test_owners_follow_the_map(folder: str) -> None:
    idmap = ((0, 1000, 1), (1, 1, 999), (1000, 0, 1), (1001, 1001, 1000))
    with mounted(folder, [base(folder)], uidmap=idmap, gidmap=idmap) as root:
        assert os.stat(root + "/etc/passwd").st_uid == 1000
        assert os.stat(root + "/home/user/file").st_uid == 0
        os.chmod(root + "/home/user/file", 0o600)
    assert os.stat(folder + "/upper/home/user/file").st_uid == 0
    with mounted(folder, [base(folder)], uidmap=idmap, gidmap=idmap) as root:
        assert os.stat(root + "/home/user/file").st_uid == 0


@in_namespace(single=True)
def test_with_a_single_id_everything_is_roots(folder: str) -> None:
    only = ((0, 0, 1),)
    with mounted(folder, [base(folder)], uidmap=only, gidmap=only) as root:
        assert os.stat(root + "/home/user/file").st_uid == 0
        assert os.stat(root + "/etc/shadow").st_gid == 0
        write("changed", root, "etc/shadow")
        os.chown(root + "/home/user/file", 0, 0)
        os.unlink(root + "/etc/passwd")
        os.mkdir(root + "/new")
        with pytest.raises(PermissionError):
            os.mknod(root + "/new/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert is_whiteout(folder, "upper/etc/passwd")


@in_namespace
def test_without_an_upper_directory_it_is_read_only(folder: str) -> None:
    with mounted(folder, [base(folder)], writable=False) as root:
        assert read(root, "etc/passwd") == "root:x:0:0\n"
        for change in (
            lambda: write("", root, "etc/passwd"),
            lambda: os.unlink(root + "/link"),
            lambda: os.mkdir(root + "/new"),
            lambda: os.chmod(root + "/big", 0o777),
        ):
            with pytest.raises(OSError) as error:
                change()
            assert error.value.errno == errno.EROFS
        assert os.statvfs(root).f_namemax == 255


@in_namespace
def test_directories_as_layers(folder: str) -> None:
    for name in ("low", "high"):
        os.makedirs(f"{folder}/{name}/dir/sub")
        write(name, folder, name, "dir", name)
        write(name, folder, name, "dir", "both")
    os.link(folder + "/low/dir/low", folder + "/low/dir/again")
    os.mknod(folder + "/high/gone", stat.S_IFCHR)
    write("", folder, "low/gone")
    write("", folder, "low/dotted")
    write("", folder, "high/.wh.dotted")
    os.setxattr(folder + "/high/dir/sub", "user.overlay.opaque", b"y")
    write("", folder, "low/dir/sub/hidden")
    layers = [DirectoryLayer(folder + "/high"), DirectoryLayer(folder + "/low")]
    with mounted(folder, layers) as root:
        assert os.listdir(root) == ["dir"]
        assert sorted(os.listdir(root + "/dir")) == ["again", "both", "high", "low", "sub"]
        assert read(root, "dir/both") == "high"
        assert os.listdir(root + "/dir/sub") == []
        assert os.listxattr(root + "/dir/sub") == []
        write("new", root, "dir/low")
        assert read(root, "dir/again") == "new"
        write("", root, "gone")
        write("", root, "dotted")
        with pytest.raises(OSError) as error:
            write("", root, ".wh.name")
        assert error.value.errno == errno.EINVAL
    assert read(folder, "low/dir/low") == "low"


@in_namespace
def test_sparse_and_large_writes(folder: str) -> None:
    block = os.urandom(1 << 20)
    with mounted(folder, [base(folder)]) as root:
        with open(root + "/big", "r+b") as file:
            file.seek(40 << 20)
            file.write(block)
            file.seek(100)
            file.write(b"inside")
        with open(root + "/big", "rb") as file:
            data = file.read()
        assert len(data) == 41 << 20
        assert data[40 << 20 :] == block
        assert data[100:106] == b"inside"
        assert data[106:256] == bytes(range(106, 256))
        assert os.stat(root + "/big").st_blocks < 8 << 11
        os.truncate(root + "/big", 3)
        assert read(root, "big") == "\0\1\2"


@in_namespace
def test_an_overlay_keeps_attributes_of_overlays_apart(folder: str) -> None:
    with mounted(folder, [base(folder)]) as root:
        os.mkdir(root + "/inner")
        os.setxattr(root + "/inner", "user.overlay.opaque", b"y")
        assert os.getxattr(root + "/inner", "user.overlay.opaque") == b"y"
        assert os.listxattr(root + "/inner") == ["user.overlay.opaque"]
    assert os.listxattr(folder + "/upper/inner") == ["user.overlay.overlay.opaque"]


@in_namespace
def test_many_layers(folder: str) -> None:
    layers = [base(folder)]
    for number in range(300):
        layers.insert(0, archive(folder, f"l{number}", [(regular(f"layers/f{number}"), b"%d" % number)]))
    layers.insert(0, archive(folder, "top", [(regular("layers/f0"), b"top")]))
    with mounted(folder, layers) as root:
        assert len(os.listdir(root + "/layers")) == 300
        assert read(root, "layers/f0") == "top"
        assert read(root, "layers/f299") == "299"
        assert read(root, "etc/passwd")


@in_namespace
def test_damaged_data_is_an_input_output_error(folder: str) -> None:
    layer = base(folder)
    with open(folder + "/base.frames", "r+b") as file:
        file.seek(700)
        file.write(b"\xff" * 3000)
    with mounted(folder, [layer]) as root:
        with pytest.raises(OSError) as error:
            read(root, "big")
        assert error.value.errno == errno.EIO
        assert os.path.exists(root + "/etc/passwd")


@in_namespace
def test_the_root_has_the_attributes_of_the_image(folder: str) -> None:
    layer = archive(folder, "rooted", [directory("", 0o751, uid=3, gid=4, mtime_ns=10**18), regular("file")])
    with mounted(folder, [layer]) as root:
        status = os.stat(root)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o751, 3, 4)
        assert status.st_mtime_ns == 10**18
        os.chmod(root, 0o700)
        write("", root, "new")
    layer = archive(folder, "rooted", [directory("", 0o751), regular("file")])
    with mounted(folder, [layer]) as root:
        assert stat.S_IMODE(os.stat(root).st_mode) == 0o700


@in_namespace
def test_set_id_programs_work_in_a_nested_user_namespace(folder: str) -> None:
    """A container's user namespace is below the one that mounted."""
    with open("/usr/bin/id", "rb") as file:
        program = file.read()
    layer = archive(folder, "programs", [directory("", 0o755), (regular("id", 0o4755, uid=100, gid=100), program)])
    with mounted(folder, [layer]) as root:
        assert _nested(["setpriv", "--reuid=7", "--clear-groups", root + "/id", "-u"]) == "100\n"


def _nested(words: list[str]) -> str:
    """The output of a program run in a user namespace below this one, with the same ids."""
    entered, mapped, output = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(mapped[1])
            assert ctypes.CDLL(None).unshare(0x10000000) == 0  # CLONE_NEWUSER
            os.write(entered[1], b"1")
            os.read(mapped[0], 1)
            os.dup2(output[1], 1)
            os.execvp(words[0], words)
        finally:
            os._exit(127)
    os.close(output[1])
    os.read(entered[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write("0 0 1\n1 1 2000\n")  # a line must lie inside one line of the map above
    os.close(mapped[1])
    with os.fdopen(output[0]) as file:
        found = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for fd in (*entered, mapped[0]):
        os.close(fd)
    return found


@in_namespace
def test_it_can_be_forked_inside_trio(folder: str) -> None:
    async def session() -> None:
        with mounted(folder, [base(folder)]) as root:
            assert await trio.to_thread.run_sync(read, root, "etc/passwd") == "root:x:0:0\n"

    trio.run(session)


@in_namespace
def test_what_it_cannot_mount_it_says_in_one_line(folder: str) -> None:
    for mountpoint, upper, words in (
        (folder + "/missing", folder, b"No such file or directory"),
        (folder, folder + "/missing", b"No such file or directory"),
        (folder, "/proc", b"not on the file system"),
    ):
        readable, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os._exit(int(serve(mountpoint, [base(folder)], upper, folder, options=options_here(), ready_fd=writing)))
        os.close(writing)
        with os.fdopen(readable, "rb") as ready:
            answer = ready.read()
        assert words in answer, answer
        assert answer.count(b"\n") == 1
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@in_namespace
def test_a_signal_unmounts(folder: str) -> None:
    os.mkdir(folder + "/merged")
    readable, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os._exit(int(serve(folder + "/merged", [base(folder)], None, None, options=options_here(), ready_fd=writing)))
    os.close(writing)
    assert os.read(readable, 10) == b"1"
    os.close(readable)
    assert os.path.exists(folder + "/merged/etc/passwd")
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert os.listdir(folder + "/merged") == []


def test_it_ends_when_nobody_sees_the_mount(tmp_path: Path, adapter: Adapter) -> None:
    alive, held = os.pipe()

    def work() -> None:
        os.mkdir(tmp_path / "merged")
        readable, writing = os.pipe()
        if os.fork() == 0:
            os.close(readable)
            os.setsid()
            options = MountOptions(adapter=adapter)
            serve(str(tmp_path / "merged"), [base(str(tmp_path))], None, None, options=options, ready_fd=writing)
            os._exit(0)
        os.close(writing)
        assert os.read(readable, 10) == b"1"
        umount(str(tmp_path / "merged").encode(), 2)

    in_namespaces(work)
    os.close(held)
    with os.fdopen(alive, "rb") as pipe:
        assert pipe.read() == b""  # the last holder of the other end is gone


@in_namespace
def test_the_tree_of_a_distribution(folder: str) -> None:
    """Alpine where the variable names a directory with its archive, else Debian's busybox: unpacked there, compared."""
    found = glob.glob(os.path.join(os.environ.get("RCONTAIN_TEST_IMAGES", "/nowhere"), "alpine-minirootfs-*.tar.gz"))
    if found:
        tar = found[0]
    else:
        tar = folder + "/busybox.tar"
        names = ["etc", "etc/passwd", "usr", "usr/bin", "usr/bin/busybox", "usr/bin/env"]
        subprocess.run(["tar", "-C", "/", "--no-recursion", "-cf", tar, *names], check=True)
    with mounted(folder, [archive_of_tar(folder, "distribution", tar)]) as root:
        os.mkdir(root + "/copy")
        subprocess.run(["tar", "-C", root + "/copy", "-xpf", tar], check=True)
        os.mkdir(folder + "/plain")
        subprocess.run(["tar", "-C", folder + "/plain", "-xpf", tar], check=True)
        for tree in (root + "/copy", root):
            here = subprocess.run(["sh", "-c", _LISTING], cwd=tree, check=True, capture_output=True, text=True).stdout
            there = subprocess.run(
                ["sh", "-c", _LISTING], cwd=folder + "/plain", check=True, capture_output=True, text=True
            ).stdout
            assert _comparable(here) == _comparable(there)
        subprocess.run(["diff", "-r", "--no-dereference", "-x", "copy", root, folder + "/plain"], check=True)
        subprocess.run(["rm", "-rf", root + "/copy"], check=True)


_LISTING = (
    "find . -path ./copy -prune -o -not -name . -printf '%P %y %m %U %G %n %l %T@ ' "
    "\\( -type f -printf '%s' -o -true \\) -printf '\\n' | sort"
)


def _comparable(listing: str) -> list[list[str]]:
    """Without link counts of directories, and times to the second."""
    lines = [line.split() for line in listing.splitlines()]
    return [
        [*line[:5], "" if line[1] == "d" else line[5], *[part.split(".")[0] for part in line[6:]]] for line in lines
    ]
