"""Whiteouts on file systems that have devices and cannot exchange them for directories."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

import fuse.marks
from tests.fuse.model import File, Folder
from tests.fuse.test_tree import Overlay


def layer() -> dict[bytes, object]:
    return {b"a": Folder({b"x": File(b"x")}), b"b": File(b"b"), b"c": Folder({b"y": File(b"y")}), b"d": Folder()}


def refuse(*_: object, **__: object) -> None:
    """renameat2(2) with flags, on NFS."""
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def shown(overlay: Overlay) -> list[bytes]:
    return sorted(path for path, _ in overlay.walk())


def test_directories_go_where_nothing_can_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse.marks, "renameat2", refuse)
    overlay = Overlay(str(tmp_path), [layer()], archives=False)
    overlay.chmod(b"a", 0o700)  # so that the upper has it too
    overlay.unlink(b"a/x")
    overlay.rmdir(b"a")
    overlay.rmdir(b"d")
    overlay.rename(b"c", b"d", 0)
    overlay.remount()
    assert shown(overlay) == [b"b", b"d", b"d/y"]
    overlay.mkdir(b"a")
    overlay.remount()
    assert shown(overlay) == [b"a", b"b", b"d", b"d/y"]
    overlay.tree.close()
    assert os.listdir(tmp_path / "work") == []


def test_whiteouts_from_elsewhere_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That are devices, as the kernel's overlay leaves them."""
    overlay = Overlay(str(tmp_path), [layer()], archives=False)
    overlay.unlink(b"a/x")
    overlay.rmdir(b"a")
    overlay.rmdir(b"d")
    assert stat.S_ISCHR(os.stat(tmp_path / "upper" / "a").st_mode)
    monkeypatch.setattr(fuse.marks, "renameat2", refuse)
    overlay.remount()
    overlay.mkdir(b"a")
    overlay.rename(b"c", b"d", 0)
    assert shown(overlay) == [b"a", b"b", b"d", b"d/y"]
    overlay.remount()
    assert shown(overlay) == [b"a", b"b", b"d", b"d/y"]
    overlay.tree.close()
    assert sorted(os.listdir(tmp_path / "upper")) == [".wh.c", "a", "d"]
