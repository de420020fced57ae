"""The lock that says a container lives, between processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rootless.container import lock


def holder(path: str) -> int:
    """A process that holds the lock when this returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1" if lock.hold(path) is not None else b"0")
        signal.pause()
        os._exit(0)
    os.close(writing)
    answer = os.read(reading, 1)
    os.close(reading)
    assert answer == b"1"
    return child


def test_one_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not lock.is_held(path)
    held = lock.hold(path)
    assert held is not None and lock.is_held(path) and lock.hold(path) is None
    os.close(held)
    assert not lock.is_held(path)


def test_it_goes_with_its_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    child = holder(path)
    assert lock.is_held(path) and lock.hold(path) is None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not lock.is_held(path)


def test_a_fork_of_the_holder_holds_it_too(tmp_path: Path) -> None:
    """An open file description lock goes with the last descriptor: why helpers must not inherit it."""
    path = str(tmp_path / "lock")
    held = lock.hold(path)
    assert held is not None
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    os.close(held)
    assert lock.is_held(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not lock.is_held(path)


def test_a_question_takes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    Path(path).touch()
    assert not lock.is_held(path)
    held = lock.hold(path)
    assert held is not None
    os.close(held)
