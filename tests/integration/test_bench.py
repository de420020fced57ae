"""contrib/bench/fs on a small tree: that it works, not how fast anything is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

BENCH = Path(__file__).resolve().parent.parent.parent / "contrib/bench/fs"


def test_the_file_system_bench(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    chosen = ("--contenders", "packed,fuse,directory,pyfuse3,overlay")
    words = ["--quick", "--rows", "mount-*,memory,find-*,untar", *chosen]
    done = subprocess.run(
        [sys.executable, BENCH, *words, "--markdown", table],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in table.read_text().splitlines() if line.startswith("| ")]
    titles = [cells[1].strip() for cells in lines]
    assert titles[0] == "what"
    assert len(titles) == 7
    assert {len(cells) for cells in lines} == {len(lines[0])}
    find = lines[titles.index("`find`, cold")]
    assert all(cell.strip().endswith(" s") for cell in find[2:7])
    assert all(float(cell.strip("* ")) > 0 for cell in find[8:16:2])
    assert os.listdir(tmp_path) == ["table.md"]
