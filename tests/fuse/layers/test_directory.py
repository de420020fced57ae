"""Directory layers: deletions in every form that is written anywhere, read as the kernel's overlayfs reads them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse.errors import LayerError
from fuse.inodes import Directory, Inode
from fuse.layers.directory import DirectoryLayer
from fuse.syscalls import MountFlag, mount, umount
from fuse.view import View
from tests.fuse.namespaces import in_namespace

Found = dict[str, str]


def lower(folder: str) -> str:
    """What is to be deleted: three layers, from the bottom up low, middle, top."""
    for path in ("gone/inside", "replaced/old", "kept/old", "deep/er/old"):
        os.makedirs(os.path.join(folder, "low", path))
    for path in ("gone/file", "file", "replaced/file", "kept/file", "deep/er/file", "empty"):
        write(f"low {path}", folder, "low", path)
    for name in ("middle", "top"):
        os.makedirs(os.path.join(folder, name))
    for path in ("kept/new", "deep/er"):
        os.makedirs(os.path.join(folder, "middle", path))
    write("middle", folder, "middle", "deep", "er", "file")
    return folder


def write(text: str, *parts: str) -> None:
    with open(os.path.join(*parts), "w") as file:
        file.write(text)


def walk(view: View) -> Found:
    """Every path as the view has it, found by listing and by looking up."""
    found: Found = {}

    def inside(directory: Directory, path: str) -> None:
        for name, places in view.listing(directory):
            inode: Inode = view.adopt(directory, name, places)
            assert view.lookup(directory, name) is inode
            below = f"{path}/{os.fsdecode(name)}"
            if isinstance(inode, Directory):
                found[below] = "directory"
                inside(inode, below)
            else:
                found[below] = view.read(inode, 0, 100).decode()

    inside(view.root, "")
    return found


def walk_directory(folder: str) -> Found:
    found: Found = {}
    for where, directories, files in os.walk(folder):
        for name in directories:
            found[os.path.join(where, name)[len(folder) :]] = "directory"
        for name in files:
            with open(os.path.join(where, name)) as file:
                found[os.path.join(where, name)[len(folder) :]] = file.read()
    return found


def view_of(folder: str) -> Found:
    view = View([DirectoryLayer(os.path.join(folder, name)) for name in ("top", "middle", "low")])
    try:
        return walk(view)
    finally:
        view.close()


def kernel_of(folder: str) -> Found:
    merged = os.path.join(folder, "merged")
    os.makedirs(merged, exist_ok=True)
    lowers = ":".join(os.path.join(folder, name) for name in ("top", "middle", "low"))
    mount(b"overlay", merged.encode(), b"overlay", MountFlag(0), f"lowerdir={lowers},userxattr".encode())
    try:
        return walk_directory(merged)
    finally:
        umount(merged.encode())


def device(path: str) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def attribute(path: str) -> None:
    write("", path)
    os.setxattr(path, "user.overlay.whiteout", b"")
    os.setxattr(os.path.dirname(path), "user.overlay.opaque", b"x")


def dotted(path: str) -> None:
    write("", os.path.dirname(path), ".wh." + os.path.basename(path))


def opaque(name: str) -> Callable[[str], None]:
    return lambda path: os.setxattr(path, name, b"y")


def marker(path: str) -> None:
    write("", path, ".wh..wh..opq")


def beside(path: str) -> None:
    dotted(path)


EXPECTED = {
    "/kept": "directory",
    "/kept/file": "low kept/file",
    "/kept/new": "directory",
    "/kept/old": "directory",
    "/deep": "directory",
    "/deep/er": "directory",
    "/deep/er/old": "directory",
    "/replaced": "directory",
    "/replaced/own": "own",
    "/empty": "",
}


def delete(folder: str, whiteout: Callable[[str], None], hide: Callable[[str], None]) -> None:
    top = os.path.join(folder, "top")
    os.makedirs(os.path.join(top, "deep/er"))
    os.makedirs(os.path.join(top, "replaced"))
    for path in ("gone", "file", "deep/er/file"):
        whiteout(os.path.join(top, path))
    hide(os.path.join(top, "replaced"))
    write("own", top, "replaced", "own")
    write("", top, "empty")


NEVER = (1000, 0)
FORMS = [  # whiteout, what hides a directory, and since when the kernel reads both
    (device, opaque("user.overlay.opaque"), (5, 11)),
    (attribute, opaque("user.overlay.opaque"), (6, 7)),
    (device, opaque("user.fuseoverlayfs.opaque"), NEVER),
    (dotted, marker, NEVER),
    (dotted, beside, NEVER),
    (device, marker, NEVER),
    (attribute, beside, NEVER),
]
KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])


@pytest.mark.userns
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_every_form_is_read_and_as_the_kernel_reads_it(form: int) -> None:
    whiteout, hide, since = FORMS[form]

    @in_namespace
    def run(folder: str) -> None:
        delete(lower(folder), whiteout, hide)
        assert view_of(folder) == EXPECTED
        if since <= KERNEL:
            assert kernel_of(folder) == EXPECTED

    run("auto")  # nothing is mounted by us: the adapter does not matter


@pytest.mark.userns
def test_what_only_looks_like_a_deletion() -> None:
    @in_namespace
    def run(folder: str) -> None:
        lower(folder)
        top = os.path.join(folder, "top")
        os.makedirs(os.path.join(top, "kept"))
        os.setxattr(os.path.join(top, "kept"), "user.overlay.opaque", b"n")
        write("", top, "file")
        os.setxattr(os.path.join(top, "file"), "user.overlay.overlay.whiteout", b"")  # of an overlay on top of this
        write("not empty", top, "empty")
        os.setxattr(os.path.join(top, "empty"), "user.overlay.whiteout", b"")
        found = view_of(folder)
        assert found == kernel_of(folder)
        assert (found["/file"], found["/empty"], found["/kept/file"]) == ("", "not empty", "low kept/file")

    run("auto")  # nothing is mounted by us: the adapter does not matter


@pytest.mark.userns
def test_a_lower_that_was_a_mounted_upper() -> None:
    """What the kernel's overlay wrote, as another layer."""

    @in_namespace
    def run(folder: str) -> None:
        lower(folder)
        for name in ("work", "merged"):
            os.makedirs(os.path.join(folder, name))
        paths = {name: os.path.join(folder, name) for name in ("low", "middle", "top", "work", "merged")}
        options = "lowerdir={middle}:{low},upperdir={top},workdir={work},userxattr".format_map(paths)
        mount(b"overlay", paths["merged"].encode(), b"overlay", MountFlag(0), options.encode())
        merged = paths["merged"]
        os.unlink(f"{merged}/file")
        os.unlink(f"{merged}/gone/file")
        os.rmdir(f"{merged}/gone/inside")
        os.rmdir(f"{merged}/gone")
        os.mkdir(f"{merged}/gone")
        os.rename(f"{merged}/kept/file", f"{merged}/moved")
        write("changed", merged, "deep", "er", "file")
        expected = walk_directory(merged)
        umount(merged.encode())
        assert view_of(folder) == expected

    run("auto")  # nothing is mounted by us: the adapter does not matter


def test_a_redirect_is_refused(tmp_path: Path) -> None:
    for name in ("top", "low"):
        (tmp_path / name / "d").mkdir(parents=True)
    os.setxattr(tmp_path / "top/d", "user.overlay.redirect", b"/elsewhere")
    view = View([DirectoryLayer(str(tmp_path / name)) for name in ("top", "low")])
    with pytest.raises(LayerError, match="redirect_dir"):
        view.lookup(view.root, b"d")
    view.close()
    view = View([DirectoryLayer(str(tmp_path / "top"))])
    view.lookup(view.root, b"d")  # nothing is below that it could lead to
    view.close()


def test_a_file_without_its_data_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(5000)
    with (tmp_path / "copied").open("wb") as file:
        file.truncate(5000)
    os.setxattr(tmp_path / "copied", "user.overlay.metacopy", b"")
    before = len(os.listdir("/proc/self/fd"))
    layer = DirectoryLayer(str(tmp_path))
    layer.open(b"sparse").close()
    with pytest.raises(LayerError, match="metacopy"):
        layer.open(b"copied")
    layer.close()
    assert len(os.listdir("/proc/self/fd")) == before
