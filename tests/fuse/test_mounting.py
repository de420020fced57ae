"""Mounting without being root of anything: fusermount3 does it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse.server import Adapter

pytestmark = [pytest.mark.fuse, pytest.mark.userns]  # which root is not asked for


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Path]:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_text("below")
    yield tmp_path
    with open("/proc/self/mounts") as mounts:
        left = str(tmp_path) in mounts.read()
    if left:
        unmount(tmp_path)
    assert not left, "a mount was left"


def command(stack: Path, *more: str) -> list[str]:
    options = f"lowerdir={stack}/lower,upperdir={stack}/upper,workdir={stack}/work"
    return [sys.executable, "-m", "fuse", "-o", ",".join((options, *more)), str(stack / "merged")]


def unmount(stack: Path) -> None:
    subprocess.run(["fusermount3", "-u", stack / "merged"], check=True)


def test_the_helper_mounts_and_anybody_may_unmount(stack: Path, adapter: Adapter) -> None:
    subprocess.run(command(stack, f"adapter={adapter}", "fsname=with\\,comma"), check=True)
    try:
        assert (stack / "merged/file").read_text() == "below"
        (stack / "merged/file").write_text("changed")
        (stack / "merged/new").write_text("new")
        with open("/proc/self/mounts") as mounts:
            (line,) = [line for line in mounts if str(stack) in line]
        assert line.startswith("with,comma ")
    finally:
        unmount(stack)
    assert (stack / "lower/file").read_text() == "below"
    assert (stack / "upper/file").read_text() == "changed"


def test_a_signal_unmounts(stack: Path, adapter: Adapter) -> None:
    server = subprocess.Popen([*command(stack, f"adapter={adapter}"), "-f"])
    try:
        while not os.path.ismount(stack / "merged"):
            assert server.poll() is None
        assert (stack / "merged/file").read_text() == "below"  # which waits for the server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    assert not os.path.ismount(stack / "merged")


def test_a_killed_server_is_told_and_its_mount_taken_away(stack: Path, adapter: Adapter) -> None:
    program = subprocess.Popen([*command(stack, f"adapter={adapter}"), "-f"], stderr=subprocess.PIPE, text=True)
    while not os.path.ismount(stack / "merged"):
        assert program.poll() is None
    assert (stack / "merged/file").read_text() == "below"
    server = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text()
    os.kill(int(server), signal.SIGKILL)
    assert program.stderr is not None
    with program.stderr:
        words = program.stderr.read()
    assert program.wait() == 1
    assert f"the server of {stack}/merged was ended by SIGKILL, so the mount is gone" in words
    assert words.count("\n") == 1
    assert not os.path.ismount(stack / "merged")


def test_owners_that_nobody_sees_need_not_be_kept(stack: Path, adapter: Adapter) -> None:
    """A lower directory of root's, changed by somebody who cannot give files away."""
    for option, works in (("fsync=1", False), (f"squash_to_uid={os.getuid()},squash_to_gid={os.getgid()}", True)):
        options = f"lowerdir=/etc,upperdir={stack}/upper,workdir={stack}/work,adapter={adapter},{option}"
        subprocess.run([sys.executable, "-m", "fuse", "-o", options, str(stack / "merged")], check=True)
        try:
            if works:
                assert (stack / "merged/passwd").stat().st_uid == os.getuid()
                (stack / "merged/passwd").write_text("changed")
                assert (stack / "upper/passwd").read_text() == "changed"
            else:
                with pytest.raises(PermissionError):
                    (stack / "merged/passwd").write_text("changed")
        finally:
            unmount(stack)


def test_modes_are_real_unless_asked_otherwise(stack: Path, adapter: Adapter) -> None:
    """As with fuse-overlayfs."""
    kept = ["user.containers.override_stat"]
    for option, real, names in (("fsync=1", 0o406, []), ("ownership=auto", 0o606, kept)):
        shutil.rmtree(stack / "upper")
        (stack / "upper").mkdir()
        subprocess.run(command(stack, f"adapter={adapter}", option), check=True)
        try:
            (stack / "merged/new").write_text("new")
            (stack / "merged/new").chmod(0o406)
            assert (stack / "merged/new").stat().st_mode & 0o777 == 0o406
            assert (stack / "upper/new").stat().st_mode & 0o777 == real
            assert os.listxattr(stack / "upper/new") == names
        finally:
            unmount(stack)


def test_what_the_helper_refuses_is_one_line(stack: Path) -> None:
    with open("/etc/fuse.conf") as conf:
        if "user_allow_other" in conf.read().split("\n"):
            return
    done = subprocess.run(command(stack, "allow_other"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "user_allow_other in /etc/fuse.conf" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_helper_is_missed(stack: Path) -> None:
    done = subprocess.run(command(stack), capture_output=True, text=True, check=False, env={"PATH": "/nowhere"})
    assert done.returncode == 1
    assert "fusermount3, which is not installed" in done.stderr
