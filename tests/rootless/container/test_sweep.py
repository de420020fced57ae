"""Clearing up after dead supervisors."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from rootless.container import lock, sweep
from rootless.container.containers import Container
from rootless.container.record import State
from tests.rootless.container.conftest import Store


def dead(container: Container, **fields: object) -> None:
    """As a supervisor leaves it that was killed while its container ran."""
    os.makedirs(container.live)
    Path(container.live, "lock").touch()
    container.write_live_state(State(status="running", boot_id=sweep.boot_id(), started_at="2024", **fields))  # type: ignore[arg-type]


def test_a_dead_supervisors_container_has_exited(store: Store) -> None:
    container = store.create("web")
    dead(container)
    sweep.sweep(store.settings)
    state = container.last_state()
    assert state is not None and (state.status, state.exit_code) == ("exited", 137) and "killed" in state.error
    assert not os.path.exists(container.live)


def test_one_with_rm_goes_away(store: Store) -> None:
    container = store.create("web", remove=True)
    dead(container)
    sweep.sweep(store.settings)
    assert not os.path.exists(container.path) and not os.path.exists(container.live)
    assert os.listdir(f"{store.settings.containers}/names") == []


def test_the_living_are_left_alone(store: Store) -> None:
    container = store.create("web")
    dead(container)
    held = lock.hold(f"{container.live}/lock")
    assert held is not None
    sweep.sweep(store.settings)
    assert container.state().status == "running"
    os.close(held)


def test_what_has_no_record_is_removed(store: Store) -> None:
    live = Path(store.settings.live, "ab" * 32)
    live.mkdir(parents=True)
    (live / "lock").touch()
    sweep.sweep(store.settings)
    assert not live.exists()


def test_what_another_command_is_just_removing_is_left_alone(store: Store) -> None:
    """It has let go of its lock, and hides what it removes under names of its own; the next command comes meanwhile."""
    container = store.create("web", remove=True)
    dead(container)
    for path in (container.live, container.path):
        folder, _, name = path.rpartition("/")
        os.rename(path, f"{folder}/.old-{os.getpid()}-{name}")
    before = [sorted(os.listdir(folder)) for folder in (store.settings.live, store.settings.containers)]
    sweep.sweep(store.settings)
    assert [sorted(os.listdir(folder)) for folder in (store.settings.live, store.settings.containers)] == before


def test_nothing_there(store: Store) -> None:
    sweep.sweep(store.settings)


def test_a_process_that_outlived_its_supervisor_is_killed(store: Store) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        container = store.create("web")
        dead(container, pid=process.pid, pid_start=sweep.start_time(process.pid))
        sweep.sweep(store.settings)
        assert process.wait(10) == -signal.SIGKILL


def test_another_process_of_that_number_is_not(store: Store) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        container = store.create("web")
        dead(container, pid=process.pid, pid_start=sweep.start_time(process.pid) - 1)
        sweep.sweep(store.settings)
        assert process.poll() is None
        process.kill()


def test_identity_of_processes() -> None:
    assert sweep.start_time(os.getpid()) > 0 and sweep.start_time(2**22 + 1) == 0
    assert len(sweep.boot_id()) == 36
    sweep.kill_exactly(2**22 + 1, 5)
    sweep.kill_exactly(1, 5)
