"""Directories that come and go as a whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rootless.container import debris


def a_dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_discarded_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / "one" / "two").mkdir(parents=True)
    (tmp_path / "one" / "two" / "file").write_text("x")
    debris.discard(str(tmp_path / "one"))
    debris.discard(str(tmp_path / "never"))
    assert os.listdir(tmp_path) == []


def test_only_what_the_dead_left_is_cleared(tmp_path: Path) -> None:
    dead = a_dead_pid()
    for name in (f".new-{dead}-a", f".old-{dead}-b", ".new-x-c", "d", ".other"):
        (tmp_path / name).mkdir()
    mine = Path(debris.fresh(str(tmp_path), "e"))
    mine.mkdir()
    (tmp_path / f".old-{dead}-b" / "file").write_text("x")
    debris.clear(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([mine.name, ".new-x-c", "d", ".other"])
    debris.clear(str(tmp_path / "nowhere"))


def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / f".old-{zombie.pid}-a").mkdir()
    debris.clear(str(tmp_path))
    assert os.listdir(tmp_path) == []
    zombie.wait()
