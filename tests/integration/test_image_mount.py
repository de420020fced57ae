"""image mount and unmount: what the user sees outside, and what is left of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.residue import residue
from tests.kit.command import Rcontain

pytestmark = [pytest.mark.userns, pytest.mark.fuse, pytest.mark.registry, pytest.mark.usefixtures("clean")]


@pytest.fixture
def mount(auto_box: Rcontain, demo: str) -> Iterator[Path]:
    """The demo image's mount point; it is unmounted in the end."""
    yield Path(auto_box.text("image", "mount", demo))
    auto_box("image", "unmount", "--all", "--force")
    assert list((auto_box.runtime / "rcontain/mounts").glob("*/*/*")) == []


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.01)


def attendant(mount: Path) -> int:
    return int((mount.parent / "server").read_text())


def server(mount: Path) -> int:
    pid = attendant(mount)
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def test_the_user_sees_the_image(auto_box: Rcontain, demo: str, mount: Path) -> None:
    inside = auto_box.text("run", "--rm", demo, "cat", "/etc/passwd")
    assert (mount / "etc/passwd").read_text().rstrip("\n") == inside
    modes = auto_box.text("run", "--rm", demo, "stat", "-c", "%a", "/etc/passwd", "/root", "/bin/busybox").split()
    found = [(mount / path).lstat() for path in ("etc/passwd", "root", "bin/busybox")]
    assert [f"{status.st_mode & 0o7777:o}" for status in found] == modes
    assert {(status.st_uid, status.st_gid) for status in found} == {(os.getuid(), os.getgid())}
    (line,) = auto_box.mounts()
    assert {"ro", "nosuid", "nodev"} <= set(line.split()[5].split(","))
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (mount / "new").touch()


def test_it_outlives_the_engine(auto_box: Rcontain, demo: str, mount: Path) -> None:
    auto_box("engine", "stop")
    assert (mount / "etc/passwd").is_file()
    assert auto_box.text("image", "mount", demo) == str(mount)
    assert str(mount) in auto_box.text("image", "mount")
    assert auto_box.text("--no-engine", "image", "umount", demo) == auto_box.text("image", "umount", demo)
    assert not mount.exists() and auto_box.mounts() == []


def test_without_an_engine(auto_box: Rcontain, demo: str) -> None:
    mount = Path(auto_box.text("--no-engine", "image", "mount", demo))
    assert (mount / "etc/passwd").is_file()
    auto_box("--no-engine", "image", "unmount", demo)


@pytest.mark.parametrize("victims", [(attendant,), (server,), (attendant, server)])
def test_killed_servers(auto_box: Rcontain, demo: str, mount: Path, victims: tuple[Callable[[Path], int], ...]) -> None:
    pids = [victim(mount) for victim in victims]
    others = {attendant(mount), server(mount)} - set(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and _words(pid) for pid in (*pids, *others)))
    noticed = auto_box("image", "mount")
    assert noticed.stderr.decode().count("\n") == 1 and b"was killed; the mount is gone" in noticed.stderr
    assert auto_box.mounts() == [] and not mount.exists()
    assert auto_box("image", "mount").stderr == b""
    assert auto_box.text("image", "mount", demo) == str(mount) and (mount / "etc/passwd").is_file()


def _words(pid: int) -> bytes:
    """Empty for one that is gone or waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_unmounted_by_hand(auto_box: Rcontain, demo: str, mount: Path) -> None:
    """The server ends, though others have a copy of the mount in namespaces of their own."""
    auto_box("run", "-d", "--name", "witness", demo, "sleep", "1000")
    words = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]
    words += ["sh", "-c", f"ls {mount} && exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as keeper:
        try:
            assert keeper.stdout is not None and keeper.stdout.readline() == b"bin\n"
            subprocess.run(["fusermount3", "-u", str(mount)], check=True)
            wait_for(lambda: not mount.parent.exists())
            assert auto_box("image", "mount").stderr == b""
        finally:
            keeper.kill()
    auto_box("rm", "-f", "-t", "0", "witness")
    assert residue(auto_box) == []


def test_many_at_once(auto_box: Rcontain, demo: str) -> None:
    """One mount, counted."""
    commands = [
        subprocess.Popen(
            auto_box.words("image", "mount", demo), env=auto_box.environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(5)
    ]
    (point,) = {command.communicate()[0] for command in commands}
    assert [command.returncode for command in commands] == [0] * 5
    assert len(auto_box.mounts()) == 1
    for _ in range(5):
        assert Path(point.rstrip("\n"), "etc/passwd").is_file()
        auto_box("image", "unmount", demo)
    assert auto_box.mounts() == [] and auto_box("image", "unmount", demo, check=False).returncode == 125


def test_a_mounted_image_is_not_removed(auto_box: Rcontain, demo: str, mount: Path) -> None:
    refused = auto_box("rmi", demo, check=False)
    assert refused.returncode == 2 and f"is mounted at {mount}".encode() in refused.stderr
    assert auto_box.text("image", "prune", "-a", "-f") == ""
    assert (mount / "etc/passwd").is_file()
    auto_box("rmi", "-f", demo)
    assert not mount.exists()
    auto_box("pull", "-q", demo)
