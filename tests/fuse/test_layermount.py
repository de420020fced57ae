"""The program that mounts layers for one user. The whole road is in tests/integration/test_image_mount.py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuse import layermount


@pytest.mark.parametrize(
    "words", [[], ["/m"], ["/m", "/s"], ["/m", "/s", "frames", "i"], ["/m", "/s", "odd", "i", "d"], ["--unmount"]]
)
def test_a_mistake_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert layermount.main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("usage: ") and error.count("\n") == 1


def test_what_cannot_be_mounted_leaves_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "rootfs").mkdir(parents=True)
    words = [str(state / "rootfs"), str(state), "plain", str(tmp_path / "index"), str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in [os.getcwd(), *sys.path] if path)}
    done = subprocess.run(
        [sys.executable, "-m", "fuse.layermount", *words], env=environment, capture_output=True, text=True
    )
    error = done.stderr
    assert done.returncode == 1 and error.startswith("cannot open a layer: ") and error.count("\n") == 1
    while state.exists():  # the process that clears it away is no child of ours
        time.sleep(0.005)


def test_nothing_to_take_away(tmp_path: Path) -> None:
    assert layermount.main(["--unmount", str(tmp_path)]) == 0
    assert layermount.main(["--unmount", str(tmp_path / "nothing")]) == 0


MOUNTINFO = rb"""25 1 8:1 / / rw shared:1 - ext4 /dev/sda rw
90 25 0:45 / /run/a\040b\134c ro - fuse.rcontain rcontain-image ro
"""


@pytest.mark.parametrize(
    ("path", "there"), [("/", True), ("/run/a b\\c", True), ("/run/a b", False), ("/run", False), ("8:1", False)]
)
def test_is_mounted(path: str, there: bool) -> None:
    assert layermount.is_mounted(path, MOUNTINFO) is there
