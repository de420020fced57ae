"""Files of several names in a directory layer: all are copied up, known or not, and so found by a later mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuse.inodes import Inode
from fuse.layers import links
from fuse.layers.directory import DirectoryLayer
from fuse.layers.links import HardLinks
from fuse.tree import Tree
from fuse.upper import UpperDirectory


def found(tree: Tree, path: str) -> Inode:
    inode: Inode = tree.root
    for name in path.encode().split(b"/"):
        inode = tree.lookup(tree.directory(inode.number), name)
    return inode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("low/d/e", "upper", "work"):
        os.makedirs(tmp_path / name)
    (tmp_path / "low/a").write_text("old")
    os.link(tmp_path / "low/a", tmp_path / "low/d/e/b")
    os.link(tmp_path / "low/a", tmp_path / "low/d/c")
    (tmp_path / "low/single").write_text("single")
    return tmp_path


def mount(folder: Path) -> Tree:
    return Tree([DirectoryLayer(str(folder / "low"))], UpperDirectory(str(folder / "upper"), str(folder / "work")))


def test_names_that_were_never_looked_up_change_too(folder: Path) -> None:
    tree = mount(folder)
    inode = found(tree, "d/c")
    number = inode.number
    tree.write(inode, 0, b"new")
    assert tree.attributes(inode).nlink == 3
    tree.close()
    tree = mount(folder)
    for name in ("a", "d/e/b", "d/c"):
        inode = found(tree, name)
        assert tree.read(inode, 0, 10) == b"new"
        assert tree.attributes(inode).nlink == 3
    assert found(tree, "a") is found(tree, "d/e/b")
    assert number
    tree.close()


def test_a_removed_name_stays_removed(folder: Path) -> None:
    tree = mount(folder)
    tree.unlink(tree.directory(found(tree, "d/e").number), b"b")
    tree.write(found(tree, "a"), 0, b"new")
    assert tree.attributes(found(tree, "d/c")).nlink == 2
    tree.close()
    tree = mount(folder)
    assert tree.read(found(tree, "d/c"), 0, 10) == b"new"
    with pytest.raises(FileNotFoundError):
        found(tree, "d/e/b")
    tree.close()


def test_names_outside_the_layer_are_no_reason_to_search_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.link(folder / "low/single", folder / "outside")
    fd = os.open(folder / "low", os.O_PATH)
    hard = HardLinks(fd)
    inode = os.stat(folder / "low/a").st_ino
    assert sorted(hard.names(b"a", inode, 3)) == [b"a", b"d/c", b"d/e/b"]
    monkeypatch.setattr(hard, "_walk", None)
    assert hard.names(b"single", os.stat(folder / "low/single").st_ino, 2) == [b"single"]
    assert sorted(hard.names(b"d/c", inode, 3)) == [b"a", b"d/c", b"d/e/b"]
    os.close(fd)


def test_names_in_one_directory_need_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("")
    os.link(tmp_path / "x", tmp_path / "y")
    fd = os.open(tmp_path, os.O_PATH)
    hard = HardLinks(fd)
    monkeypatch.setattr(hard, "_search", None)
    assert sorted(hard.names(b"x", os.stat(tmp_path / "x").st_ino, 2)) == [b"x", b"y"]
    os.close(fd)


def test_the_search_is_given_up_in_a_tree_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "ENTRIES", 2)
    tree = mount(folder)
    tree.write(found(tree, "a"), 0, b"new")
    assert tree.attributes(found(tree, "a")).nlink == 1
    tree.close()
    tree = mount(folder)
    assert tree.read(found(tree, "d/c"), 0, 10) == b"old"
    tree.close()
