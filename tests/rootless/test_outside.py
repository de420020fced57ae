"""The client's side of what a session cannot do in its namespaces."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rootless import outside


def test_the_program_runs(tmp_path: Path) -> None:
    assert outside.run(["--unmount", str(tmp_path)]) == (0, b"")


def test_its_words_come_back() -> None:
    status, text = outside.run(["too few"])
    assert status == 1 and text.startswith(b"usage: ")


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    assert outside.run([]) == (1, b"/does/not/exist cannot be started: No such file or directory")
