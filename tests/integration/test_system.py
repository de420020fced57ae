"""`system check`, `system df`, `image prune` and `system prune` with real containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


def trees(box: Rcontain) -> list[Path]:
    return sorted(box.data.glob("rcontain/layers/*/tree"))


def test_trees_are_compared_and_made_again(auto_box: Rcontain, demo: str) -> None:
    def checked(*flags: str) -> tuple[int, str]:
        done = auto_box("system", "check", *flags, check=False)
        return done.returncode, (done.stdout + done.stderr).decode()

    assert auto_box.text("run", "--rm", "--storage-driver", "overlay", demo, "echo", "ok") == "ok"
    assert checked()[0] == 0
    top = next(tree for tree in trees(auto_box) if (tree / "etc/motd").exists())
    motd = top / "etc/motd"
    before = motd.stat()
    motd.write_bytes(b"THREE layers\n")
    os.utime(motd, ns=(before.st_mtime_ns, before.st_mtime_ns))
    code, text = checked()
    assert code == 125 and "its tree has another content of /etc/motd" in text
    auto_box("run", "-d", "--rm", "--name", "user", "--storage-driver", "overlay", demo, "sleep", "100")
    code, text = checked("--repair")
    assert code == 125 and "container user uses it" in text
    auto_box("kill", "user")
    assert checked("--repair")[0] == 0
    assert motd.read_bytes() == b"three layers\n"
    for harm, words in (
        (lambda: motd.chmod(0o600), "another mode"),
        (lambda: motd.unlink(), "lacks /etc/motd"),
        (lambda: (top / "etc/extra").write_bytes(b""), "a file that the layer has not: /etc/extra"),
        (lambda: motd.write_bytes(b"x"), "has 1 bytes instead of 13"),
        (lambda: os.utime(motd, (1, 1)), "another time"),
    ):
        harm()
        code, text = checked()
        assert code == 125 and words in text
        assert checked("--repair")[0] == 0


def test_removal_goes_on_after_the_answer(auto_box: Rcontain, demo: str) -> None:
    auto_box("run", "--rm", "--storage-driver", "overlay", demo, "true")
    assert auto_box("rmi", demo).stdout.startswith(b"Untagged: ")
    auto_box("pull", "-q", demo)
    assert auto_box.text("run", "--rm", demo, "echo", "again") == "again"
