"""contrib/bench/fs and pull on little: that they work, not how fast anything is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.command import Rcontain

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

BENCHES = Path(__file__).resolve().parent.parent.parent / "contrib/bench"


def test_the_file_system_bench(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    chosen = ("--contenders", "packed,fuse,directory,pyfuse3,overlay")
    words = ["--quick", "--rows", "mount-*,memory,find-*,untar", *chosen]
    done = subprocess.run(
        [sys.executable, BENCHES / "fs", *words, "--markdown", table],
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


@pytest.mark.registry
def test_the_pull_bench(rcontain: Rcontain, tmp_path: Path) -> None:
    """With Debian's Podman beside."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/rcontain").symlink_to(rcontain.launcher)
    table = tmp_path / "table.md"
    words = ["--rows", "tiny", "--rounds", "1", "--contenders", "auto,fuse", "--markdown", table]
    environment = {**rcontain.environment, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, BENCHES / "pull", *words], capture_output=True, text=True, env=environment)
    # Ends the process that keeps Podman's user namespace.
    subprocess.run(["podman", "system", "migrate"], env=environment, check=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in table.read_text().splitlines() if line.startswith("| ")]
    assert [cells[2].strip() for cells in lines[1:]] == ["auto", "fuse", "Podman"]
    assert all(cells[3].strip().endswith(" s") and cells[5].strip().endswith(" ms") for cells in lines[1:])
    assert sorted(os.listdir(tmp_path)) == ["bin", "table.md"]
