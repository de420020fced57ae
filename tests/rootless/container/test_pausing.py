"""Pausing on real processes: everything of a container stops, and goes on whatever happens to whoever asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from rootless.container.containers import Container
from rootless.container.pausing import paused
from rootless.container.record import State


class Stub:
    """What `paused` asks of a container."""

    id = "0" * 64

    def __init__(self, pid: int, status: str = "running") -> None:
        self._state = State(status=status, pid=pid)

    def state(self) -> State:
        return self._state


def container(pid: int, status: str = "running") -> Container:
    return cast(Container, Stub(pid, status))


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def eventually(pid: int, wanted: str) -> bool:
    for _ in range(500):
        if status(pid) in wanted:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def family() -> Iterator[tuple[int, int, int]]:
    """A process, a child of it, and one that has been stopped before."""
    script = "sleep 1000 & a=$!; sleep 1000 & b=$!; kill -STOP $b; echo $a $b; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as shell:
        assert shell.stdout is not None
        first, second = map(int, shell.stdout.readline().split())
        try:
            assert eventually(second, "T")
            yield shell.pid, first, second
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


def test_all_stop_and_go_on(family: tuple[int, int, int]) -> None:
    shell, child, stopped = family
    with paused(container(shell)):
        assert [status(pid) for pid in family] == ["T", "T", "T"]
    assert eventually(shell, "S") and eventually(child, "S")
    assert status(stopped) == "T"  # as it was


def test_an_error_lets_them_go_on(family: tuple[int, int, int]) -> None:
    with pytest.raises(KeyboardInterrupt), paused(container(family[0])):
        raise KeyboardInterrupt
    assert eventually(family[0], "S") and eventually(family[1], "S")


def test_a_kill_lets_them_go_on(family: tuple[int, int, int]) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with paused(container(family[0])):
            os.write(write, b"1")
            time.sleep(1000)
        os._exit(0)
    assert os.read(read, 1) == b"1"
    assert status(family[0]) == "T"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)
    assert eventually(family[0], "S") and eventually(family[1], "S")


def test_what_does_not_run_is_left_alone() -> None:
    with paused(container(os.getpid(), "exited")):
        assert status(os.getpid()) == "R", sys.platform
