"""Removing what an image filled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.errors import HostError
from rootless.image.removal import remove_tree


def test_any_modes_names_and_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "f").write_text("x")
    (top / "a" / "link").symlink_to(outside)
    (top / "dangling").symlink_to("nothing")
    with open(os.fsencode(top) + b"/\xff\xfe", "w"):
        pass
    os.chmod(top / "a" / "b", 0)
    os.chmod(top / "a", 0o500)
    remove_tree(str(top))
    assert not top.exists() and (outside / "kept").exists()
    remove_tree(str(top))
    (tmp_path / "link").symlink_to(outside)
    remove_tree(str(tmp_path / "link"))
    assert (outside / "kept").exists() and not os.path.lexists(tmp_path / "link")


def test_deep_trees(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("directory", 0o700, dir_fd=fd)
        deeper = os.open("directory", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    remove_tree(str(tmp_path / "directory"))
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_removed_is_said() -> None:
    with pytest.raises(HostError, match="cannot remove /proc/self/status"):
        remove_tree("/proc/self/status")
