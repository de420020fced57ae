"""Workspaces, locks, and the sweep after a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rootless.image.lock import FileLock
from rootless.image.workspace import Workspace, sweep


def test_a_workspace_goes_with_its_context(tmp_path: Path) -> None:
    with Workspace(str(tmp_path)) as space:
        Path(space.file("a")).write_text("x")
        assert sweep(str(tmp_path)) == 0
        assert os.path.exists(space.file("a"))
    assert os.listdir(tmp_path) == ["lock"]


def test_what_a_killed_owner_left_is_swept(tmp_path: Path) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with Workspace(str(tmp_path)) as space, FileLock(str(tmp_path / "abc.lock")):
            os.mkdir(space.file("tree"), 0)
            os.write(told, b"x")
            signal.pause()
    os.read(ready, 1)
    os.close(ready)
    os.close(told)
    assert sweep(str(tmp_path)) == 0
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sweep(str(tmp_path)) == 2
    assert os.listdir(tmp_path) == ["lock"]


@pytest.mark.parametrize("is_killed", [False, True])
def test_no_file_is_open_in_a_directory_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """NFS cannot remove a directory while a file of it is open: EBUSY."""
    rmdir = os.rmdir
    removed = []

    def rmdir_nfs(path: str) -> None:
        held = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)]
        assert not [name for name in held if name.startswith(f"{path}/")]
        rmdir(path)
        removed.append(path)

    monkeypatch.setattr(os, "rmdir", rmdir_nfs)
    space = Workspace(str(tmp_path))
    if is_killed:
        os.mkdir(space.path)
        (tmp_path / ".nfs0000001").touch()
        assert sweep(str(tmp_path)) == 1
    else:
        with space:
            pass
    assert removed == [space.path]


def _is_open(name: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{name}")


def test_a_lock_whose_file_is_replaced_is_taken_again(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    first = FileLock(path)
    first.acquire()
    other = FileLock(path)
    assert not other.acquire(wait=False)
    first.unlink()
    assert other.acquire(wait=False)
    first.release()
    third = FileLock(path)
    assert not third.acquire(wait=False)
    other.release()


def test_shared_locks(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with FileLock(path, shared=True), FileLock(path, shared=True):
        assert not FileLock(path).acquire(wait=False)
