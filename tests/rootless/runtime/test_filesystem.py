"""Steps of the root filesystem that a newer kernel than some forgives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rootless import syscalls
from rootless.runtime import filesystem, steps
from rootless.runtime.context import Context
from rootless.runtime.rootdir import RootDir
from rootless.syscalls import TreeFlag


def test_a_tree_is_copied_only_when_it_is_attached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before Linux 6.15 open_tree(2) refuses to copy a detached tree with EINVAL."""
    attached: set[int] = set()

    def open_tree(fd: int, path: bytes, flags: TreeFlag) -> int:
        assert fd in attached
        return os.dup(fd)

    def move_mount(tree: int, target: int) -> None:
        attached.add(tree)

    monkeypatch.setattr(syscalls, "open_tree", open_tree)
    monkeypatch.setattr(syscalls, "move_mount", move_mount)
    (tmp_path / "dev").mkdir()
    (tmp_path / "masked").touch()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        context = Context(ours, b"")
        context.root = RootDir.at(str(tmp_path))
        context.trees = {0: os.open("/dev/null", os.O_PATH), 1: os.open("/dev/zero", os.O_PATH)}
        for step in (
            steps.Devices((("dev/null", 0), ("dev/zero", 1)), ()),
            steps.Mask("/masked", 0),
            steps.Mask("/masked", 0),
        ):
            filesystem.RUN[type(step)](context, step)
        assert context.attached == {0, 1}
        for fd in (context.root.fd, *context.trees.values()):
            os.close(fd)
