"""Names that come and go, through real mounts."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse.inodes import Directory
from fuse.layers.directory import DirectoryLayer
from fuse.ownership import Ownership
from fuse.stack import DIRECTORIES_HELD
from fuse.syscalls import RenameFlag, renameat2
from fuse.tree import Tree
from fuse.upper import UpperDirectory
from fuse.view import OPEN_FILES
from tests.fuse.archives import archive, directory, regular, symlink
from tests.fuse.namespaces import in_namespace, is_whiteout, mounted, read, write

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def layers(folder: str):
    """Two archives that share directories."""
    low = archive(
        folder,
        "low",
        [
            directory("", 0o755),
            directory("d", 0o750),
            (regular("d/low"), b"low"),
            (regular("d/both"), b"low"),
            directory("d/sub"),
            (regular("d/sub/deep"), b"deep"),
            directory("other"),
            (regular("other/kept"), b"kept"),
            (regular("file"), b"file"),
            symlink("link", "file"),
        ],
    )
    high = archive(folder, "high", [directory("d", 0o750), (regular("d/high"), b"high"), (regular("d/both"), b"high")])
    return [high, low]


def fails_with(number: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as error:
        call(*arguments)
    assert error.value.errno == number, error.value


@in_namespace
def test_every_kind_of_file(folder: str) -> None:
    with mounted(folder, layers(folder)) as root:
        for place in (root, root + "/d", root + "/new"):
            if not os.path.isdir(place):
                os.mkdir(place)
            os.mkfifo(place + "/fifo", 0o640)
            os.mknod(place + "/regular", stat.S_IFREG | 0o604)
            os.mknod(place + "/socket", stat.S_IFSOCK | 0o600)
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
                os.chdir(place)
                server.bind("bound")
                server.listen()
                client.connect("bound")
                os.chdir("/")
            os.symlink("x" * 4095, place + "/symlink")
            assert stat.S_IMODE(os.stat(place + "/fifo").st_mode) == 0o640
            assert stat.S_ISSOCK(os.stat(place + "/bound").st_mode)
            assert os.readlink(place + "/symlink") == "x" * 4095
            assert os.lstat(place + "/symlink").st_size == 4095
            with pytest.raises(FileExistsError):
                os.mkfifo(place + "/fifo")
            fails_with(errno.EPERM, os.mknod, place + "/whiteout", stat.S_IFCHR)
    with mounted(folder, layers(folder)) as root:
        assert stat.S_ISFIFO(os.stat(root + "/d/fifo").st_mode)
        assert stat.S_IMODE(os.stat(root + "/new/regular").st_mode) == 0o604
        assert os.readlink(root + "/new/symlink") == "x" * 4095


@in_namespace
def test_any_bytes_in_a_name_and_255_of_them(folder: str) -> None:
    names = [bytes([number]) for number in range(1, 256) if number not in b"/. "]
    names += [b"n" * 255, b"\xff" * 255, b" ", b"a\nb", b"..."]
    with mounted(folder, layers(folder)) as text:
        root = text.encode()
        os.mkdir(root + b"/new")
        for place in (root + b"/d", root + b"/new"):
            for name in names:
                os.close(os.open(place + b"/" + name, os.O_CREAT | os.O_EXCL))
            assert set(names) <= set(os.listdir(place))
            fails_with(errno.ENAMETOOLONG, os.mkdir, place + b"/" + b"n" * 256)
            fails_with(errno.ENAMETOOLONG, os.stat, place + b"/" + b"n" * 256)
        os.unlink(root + b"/d/" + b"n" * 255)
    with mounted(folder, layers(folder)) as text:
        assert {*names, b"low", b"high", b"both", b"sub"} - {b"n" * 255} == set(os.listdir(text.encode() + b"/d"))


@in_namespace
def test_a_merged_directory_is_renamed_with_everything(folder: str) -> None:
    with mounted(folder, layers(folder)) as root:
        os.unlink(root + "/d/low")
        write("upper", root, "d/upper")
        number = os.stat(root + "/d/both").st_ino
        holder = os.open(root + "/d", os.O_RDONLY | os.O_DIRECTORY)
        os.rename(root + "/d", root + "/other/d")
        assert sorted(os.listdir(root + "/other/d")) == ["both", "high", "sub", "upper"]
        assert os.stat(root + "/other/d/both").st_ino == number
        assert os.stat("sub/deep", dir_fd=holder).st_size == 4
        os.close(holder)
        assert stat.S_IMODE(os.stat(root + "/other/d").st_mode) == 0o750
        os.mkdir(root + "/d")
        assert os.listdir(root + "/d") == []
    with mounted(folder, layers(folder)) as root:
        assert sorted(os.listdir(root + "/other/d")) == ["both", "high", "sub", "upper"]
        assert read(root, "other/d/both") == "high"
        assert read(root, "other/d/sub/deep") == "deep"
        assert os.listdir(root + "/d") == []


@in_namespace
def test_a_directory_replaces_an_emptied_merged_one(folder: str) -> None:
    with mounted(folder, layers(folder)) as root:
        os.mkdir(root + "/new")
        write("x", root, "new/x")
        fails_with(errno.ENOTEMPTY, os.rename, root + "/new", root + "/other")
        os.unlink(root + "/other/kept")
        os.rename(root + "/new", root + "/other")
        assert os.listdir(root + "/other") == ["x"]
        subprocess.run(["rm", "-r", root + "/d"], check=True)
        os.rename(root + "/other", root + "/d")  # onto a whiteout
        assert os.listdir(root + "/d") == ["x"]
        assert not os.path.lexists(root + "/other")
    assert is_whiteout(folder, "upper/other")
    with mounted(folder, layers(folder)) as root:
        assert os.listdir(root + "/d") == ["x"]
        assert sorted(os.listdir(root)) == ["d", "file", "link"]


@in_namespace
def test_rename_flags_and_errors(folder: str) -> None:
    with mounted(folder, layers(folder)) as root:

        def rename(old: str, new: str, flags: int = 0) -> None:
            renameat2(f"{root}/{old}".encode(), f"{root}/{new}".encode(), RenameFlag(flags))

        fails_with(errno.EEXIST, rename, "file", "link", RenameFlag.NOREPLACE)
        fails_with(errno.ENOENT, rename, "file", "nothing", RenameFlag.EXCHANGE)
        fails_with(errno.EINVAL, rename, "d", "d/sub/d")
        fails_with(errno.EINVAL, rename, "d", "d/sub", RenameFlag.EXCHANGE)
        fails_with(errno.EISDIR, rename, "file", "d")
        fails_with(errno.ENOTDIR, rename, "d", "file")
        fails_with(errno.EINVAL, rename, "file", "new", RenameFlag.WHITEOUT)
        fails_with(errno.EINVAL, rename, "file", ".wh.file")
        rename("file", "d", RenameFlag.EXCHANGE)
        assert read(root, "d") == "file"
        assert read(root, "file/sub/deep") == "deep"
        rename("file/low", "low", RenameFlag.NOREPLACE)
        rename("low", "link", RenameFlag.EXCHANGE)
        assert os.readlink(root + "/low") == "file"
    with mounted(folder, layers(folder)) as root:
        assert sorted(os.listdir(root + "/file")) == ["both", "high", "sub"]
        assert (read(root, "d"), read(root, "link")) == ("file", "low")


@in_namespace
def test_numbers_stay(folder: str) -> None:
    """Through copy-up and rename; of archives also from mount to mount."""

    def numbers(root: str) -> dict[str, int]:
        return {
            os.path.join(path, name).removeprefix(root): os.lstat(os.path.join(path, name)).st_ino
            for path, folders, names in os.walk(root)
            for name in (*folders, *names)
        }

    with mounted(folder, layers(folder)) as root:
        before = numbers(root)
        assert len(set(before.values())) == len(before)
        assert {entry.name: entry.inode() for entry in os.scandir(root + "/d")} == {
            name.removeprefix("/d/"): number
            for name, number in before.items()
            if name.count("/") == 2 and "/d/" in name
        }
        subprocess.run(["chown", "-R", "5:5", root + "/d"], check=True)
        assert numbers(root) == before
        os.rename(root + "/d/both", root + "/both")
        assert os.stat(root + "/both").st_ino == before["/d/both"]
        write("new", root, "d/both")
        assert os.stat(root + "/d/both").st_ino not in before.values()
    for name in ("upper", "work"):
        subprocess.run(["rm", "-rf", f"{folder}/{name}"], check=True)
    with mounted(folder, layers(folder)) as root:
        assert numbers(root) == before


@in_namespace
def test_listing_while_names_change(folder: str) -> None:
    """What was there all the time is listed once, whatever comes and goes meanwhile."""
    with mounted(folder, layers(folder)) as root:
        os.mkdir(root + "/many")
        for place in (root + "/many", root + "/d"):
            for number in range(3000):
                os.close(os.open(f"{place}/stays{number}", os.O_CREAT))
            for number in range(1000):
                os.close(os.open(f"{place}/goes{number}", os.O_CREAT))
            seen = []
            with os.scandir(place) as entries:
                for entry in entries:
                    seen.append(entry.name)
                    count = len(seen)
                    if count <= 1000:
                        os.unlink(f"{place}/goes{count - 1}")
                        os.close(os.open(f"{place}/comes{count}", os.O_CREAT))
            stays = [name for name in seen if name.startswith("stays")]
            assert len(stays) == len(set(stays)) == 3000
            assert len(seen) == len(set(seen))
            assert not any(name.startswith("goes") for name in os.listdir(place))
            assert sum(name.startswith("comes") for name in os.listdir(place)) == 1000


@in_namespace
def test_a_large_directory(folder: str) -> None:
    """In the upper directory and in a layer, with names that only one of them has."""
    count = int(os.environ.get("RCONTAIN_TEST_NAMES", "20000"))
    for place in (folder + "/upper/big", folder + "/work", folder + "/low/big", folder + "/low/lowest"):
        os.makedirs(place)
    for number in range(count):
        os.mknod(f"{folder}/{'upper' if number % 2 else 'low'}/big/{number}")
    with mounted(folder, [DirectoryLayer(folder + "/low")]) as root:
        assert len(set(os.listdir(root + "/big"))) == count
        with os.scandir(root + "/big") as entries:
            assert sum(entry.is_file() for entry in entries) == count
        write("x", root, "big/new")
        os.unlink(root + "/big/0")
        assert set(os.listdir(root + "/big")) == {*map(str, range(1, count)), "new"}


@in_namespace
def test_deep_directories(folder: str) -> None:
    """Deeper than a path can say; reached step by step."""
    with mounted(folder, layers(folder)) as root:
        os.chdir(root + "/d")
        for _ in range(60):
            os.mkdir("x" * 100)
            os.chdir("x" * 100)
        write("deep", "file")
        assert read("file") == "deep"
        os.rename("file", "moved")
        os.symlink("moved", "link")
        write("", "empty")
        assert sorted(os.listdir(".")) == ["empty", "link", "moved"]
        os.unlink("empty")
        os.chmod("moved", 0o600)
        os.setxattr("link", "user.note", b"1")
        assert os.readlink("link") == "moved"
        assert sorted(os.listdir(".")) == ["link", "moved"]
        os.rename(root + "/d/" + "x" * 100, root + "/d/y")
        os.truncate("moved", 2)
        assert read("link") == "de"
        os.rename(root + "/d/y", root + "/d/" + "x" * 100)
        os.unlink("link")
        os.unlink("moved")
        for _ in range(60):
            os.chdir("..")
            os.rmdir("x" * 100)
        assert sorted(os.listdir(".")) == ["both", "high", "low", "sub"]
        os.chdir("/")


@in_namespace
def test_a_removed_directory_that_is_in_use(folder: str) -> None:
    with mounted(folder, layers(folder)) as root:
        for path in (root + "/other", root + "/made"):
            os.makedirs(path, exist_ok=True)
            subprocess.run(["sh", "-c", 'rm -f "$0"/*', path], check=True)
            os.chdir(path)
            os.rmdir(path)
            assert os.listdir(".") == []
            assert stat.S_ISDIR(os.stat(".").st_mode)
            for call in (os.mkdir, os.mkfifo):
                fails_with(errno.ENOENT, call, "new")
            fails_with(errno.ENOENT, os.rename, root + "/file", "new")
            os.chmod(".", 0o700)
            assert stat.S_IMODE(os.stat(".").st_mode) == 0o700
            os.chdir("/")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """A limit that is soon reached: what is open already and 60."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 60, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_kept_open_leaves_descriptors_for_others(tmp_path: Path, few_descriptors: None) -> None:
    test_what_is_made_is_kept_open_for_a_while(tmp_path)


def test_what_is_made_is_kept_open_for_a_while(tmp_path: Path) -> None:
    """And the directories that it is made in, however they move."""
    for name in ("upper", "work"):
        os.mkdir(tmp_path / name)
    before = open_files()
    upper = UpperDirectory(str(tmp_path / "upper"), str(tmp_path / "work"), ownership=Ownership.REAL)
    tree = Tree([], upper)
    me = os.getuid(), os.getgid()
    for at in range(DIRECTORIES_HELD + 10):
        directory = tree.mkdir(tree.root, b"d%d" % at, 0o755, *me)
        assert isinstance(directory, Directory)
        for name in range(8):
            inode = tree.mknod(directory, b"%d" % name, stat.S_IFREG | 0o640, 0, *me)
            assert inode.writable
        tree.rename(tree.root, b"d%d" % at, tree.root, b"e%d" % at)
        tree.write(tree.mknod(directory, b"later", stat.S_IFREG | 0o640, 0, *me), 0, b"data")
        assert (tmp_path / "upper" / f"e{at}" / "later").read_text() == "data"
    assert open_files() - before < OPEN_FILES + DIRECTORIES_HELD + 10
    for at in range(DIRECTORIES_HELD + 10):
        subprocess.run(["rm", "-r", tmp_path / "upper" / f"e{at}"], check=True)
    tree.close()
    assert open_files() == before


def test_a_file_without_a_name_keeps_its_set_id_bits_until_it_is_written_by_others(tmp_path: Path) -> None:
    for name in ("upper", "work"):
        os.mkdir(tmp_path / name)
    upper = UpperDirectory(str(tmp_path / "upper"), str(tmp_path / "work"), ownership=Ownership.REAL)
    tree = Tree([], upper)
    inode = tree.tmpfile(tree.root, 0o4755, os.getuid(), os.getgid())
    tree.write(inode, 0, b"by somebody who may")
    assert stat.S_IMODE(tree.attributes(inode).mode) == 0o4755
    tree.drop_privileges(inode)
    assert stat.S_IMODE(tree.attributes(inode).mode) == 0o755
    tree.drop_privileges(inode)
    tree.chmod(inode, 0o2755)
    tree.drop_privileges(inode)
    assert stat.S_IMODE(tree.attributes(inode).mode) == 0o755
    tree.close()
