"""A mount of ours with the kernel's overlayfs over it: ours serves the layers, the kernel keeps the changes."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from fuse.layers.archive import ArchiveLayer
from tests.fuse.archives import archive, directory, hardlink, regular, whiteout
from tests.fuse.namespaces import covered, in_namespace, is_whiteout, mounted, read, write

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def plain(folder: str) -> ArchiveLayer:
    return archive(
        folder,
        "plain",
        [
            directory("", 0o755),
            (regular("etc/passwd", uid=0, gid=0), b"root:x:0:0\n"),
            (regular("etc/shadow", 0o640, gid=42), b"secret\n"),
            (regular("big"), bytes(range(256)) * 4096),
            hardlink("big2", "big"),
            (regular("home/user/file", uid=1000, gid=1000), b"mine\n"),
        ],
    )


def changed(folder: str) -> ArchiveLayer:
    return archive(folder, "changed", [whiteout("etc/shadow"), (regular("etc/group"), b"root:x:0:\n")])


@in_namespace
def test_layers_are_read_and_changes_kept_by_the_kernel(folder: str) -> None:
    with covered(folder, [changed(folder), plain(folder)]) as root:
        assert sorted(os.listdir(f"{root}/etc")) == ["group", "passwd"]
        with open(f"{root}/big2", "rb") as file:
            assert file.read() == bytes(range(256)) * 4096
        assert (os.stat(f"{root}/home/user/file").st_uid, os.stat(f"{root}/big").st_nlink) == (1000, 2)
        with open(f"{root}/etc/passwd", "a") as text:
            text.write("user:x:1000:1000\n")
        os.unlink(f"{root}/etc/group")
        subprocess.run(["rm", "-r", f"{root}/home"], check=True)
        os.mkdir(f"{root}/home")
        write("new\n", root, "home", "file")
    with covered(folder, [changed(folder), plain(folder)]) as root:
        assert read(root, "etc/passwd") == "root:x:0:0\nuser:x:1000:1000\n"
        assert os.listdir(f"{root}/etc") == ["passwd"] and os.listdir(f"{root}/home") == ["file"]


@in_namespace
def test_the_kernels_changes_and_ours_are_written_alike(folder: str) -> None:
    with covered(folder, [plain(folder)]) as root:
        os.unlink(f"{root}/etc/shadow")
        os.chmod(f"{root}/etc/passwd", 0o600)
        subprocess.run(["rm", "-r", f"{root}/home"], check=True)
        os.mkdir(f"{root}/home")
    with mounted(folder, [plain(folder)]) as root:
        assert os.listdir(f"{root}/etc") == ["passwd"] and os.listdir(f"{root}/home") == []
        assert os.stat(f"{root}/etc/passwd").st_mode & 0o777 == 0o600
        os.unlink(f"{root}/big2")
        os.rmdir(f"{root}/home")
        os.rename(f"{root}/etc", f"{root}/elsewhere")
    assert is_whiteout(f"{folder}/upper", "big2")
    with covered(folder, [plain(folder)]) as root:
        assert sorted(os.listdir(root)) == ["big", "elsewhere"]
        assert read(root, "elsewhere/passwd") == "root:x:0:0\n"


@in_namespace
def test_where_there_are_no_attributes_the_kernel_is_told_once(folder: str) -> None:
    with covered(folder, [plain(folder)]) as root:
        with pytest.raises(OSError) as error:
            os.getxattr(f"{root}/big", "user.note")
        assert error.value.errno == errno.EOPNOTSUPP
        assert os.listxattr(f"{root}/big") == []
        os.setxattr(f"{root}/big", "user.note", b"here")
        assert os.getxattr(f"{root}/big", "user.note") == b"here"


@in_namespace
def test_attributes_of_an_image_do_not_steer_the_kernel(folder: str) -> None:
    def noted(path: str):
        steering = ((name, b"/etc/shadow") for name in names)
        return regular(path, xattrs=(*steering, (b"user.note", b"1"))), b"whole\n"

    kinds = (b"redirect", b"metacopy", b"opaque", b"whiteout")
    names = [prefix + kind for kind in kinds for prefix in (b"user.overlay.", b"user.overlay.overlay.")]
    layer = archive(folder, "steering", [noted("file"), noted("etc/passwd"), regular("empty")])
    with covered(folder, [layer, plain(folder)]) as root:
        assert read(root, "file") == read(root, "etc/passwd") == "whole\n"
        assert sorted(os.listdir(root)) == ["big", "big2", "empty", "etc", "file", "home"]
        assert os.listxattr(f"{root}/file") == ["user.note"]
        assert os.getxattr(f"{root}/file", "user.note") == b"1"
        with pytest.raises(OSError) as error:
            os.getxattr(f"{root}/file", "user.missing")
        assert error.value.errno == errno.ENODATA


@in_namespace
def test_a_directory_that_ours_has_renamed_shows_no_deleted_names(folder: str) -> None:
    with mounted(folder, [plain(folder)]) as root:
        os.unlink(f"{root}/etc/shadow")
        os.rename(f"{root}/etc", f"{root}/moved")
    with covered(folder, [plain(folder)]) as root:
        assert os.listdir(f"{root}/moved") == ["passwd"]


@in_namespace
def test_numbers_stay_when_a_file_is_copied_up(folder: str) -> None:
    with covered(folder, [plain(folder)]) as root:
        device = os.stat(root).st_dev
        for path in ("etc", "etc/passwd", "big"):
            before = os.lstat(f"{root}/{path}")
            os.utime(f"{root}/{path}")
            after = os.lstat(f"{root}/{path}")
            assert before.st_dev == after.st_dev == device
