"""contrib/bench/net for a second each: that it works, not how fast anything is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.tun, pytest.mark.userns, pytest.mark.slow]

BENCH = Path(__file__).resolve().parent.parent.parent / "contrib/bench/net"
ROWS = "tcp-out,cpu-out,dns,ping,published-*http,delay-in"


def bench(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCH, "--quick", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


def test_the_network_bench(tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    words = ("--rows", ROWS, "--contenders", "rcontain-slirp,pasta,host")
    done = bench(tmp_path, *words, "--pasta", "no-such-pasta", "--markdown", str(table))
    assert done.returncode == 0, done.stderr
    assert "bench: pasta is left out: there is no no-such-pasta, see --pasta" in done.stderr
    lines = [line.split("|") for line in table.read_text().splitlines() if line.startswith("| ")]
    titles = [cells[1].strip() for cells in lines]
    assert titles[0] == "what"
    assert len(titles) == 8, done.stderr
    assert {len(cells) for cells in lines} == {len(lines[0])} == {7}
    complete = [cells for cells in lines[1:] if "CPU" not in cells[1]]
    assert all(cell.strip() for cells in complete for cell in cells[2:4]), done.stderr
    assert all(float(cells[4].strip("* ")) > 0 for cells in complete)
    assert os.listdir(tmp_path) == ["table.md"]


def test_a_network_that_does_not_start_is_named(tmp_path: Path) -> None:
    words = ("--rows", "ping", "--contenders", "slirp4netns,host", "--slirp4netns", "false")
    done = bench(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "bench: pings, slirp4netns: slirp4netns did not start" in done.stderr
    assert "ms" in done.stdout
