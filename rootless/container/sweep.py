"""Clearing up after a supervisor that was killed: what it could not do itself is done by the next command.

A directory below <runtime>/containers whose lock nobody holds belongs to a dead supervisor. Its mounts went with its
mount namespace, and its processes were killed with it (PR_SET_PDEATHSIG); a process that outlived that is killed here,
by pid and start time, so that no other process of that pid can be hit.
"""

from __future__ import annotations

import os
import signal
import time

import msgspec

from ..errors import ContainerError
from ..processes import process_state
from ..settings import Settings
from . import debris, lock
from .containers import Container, is_id
from .timestamps import rfc3339


def sweep(settings: Settings) -> None:
    """Clears up after every dead supervisor of this user."""
    debris.clear(settings.live)
    debris.clear(settings.containers)
    try:
        entries = os.listdir(settings.live)
    except FileNotFoundError:
        return
    for id in filter(is_id, entries):  # and not what is just appearing or disappearing, see debris.py
        container = Container(settings, id)
        try:
            held = lock.hold_leftover(f"{container.live}/lock")
        except (FileNotFoundError, NotADirectoryError):
            continue  # it has just been cleared up, or is being made
        if held is None:
            continue
        try:
            _clear(container)
        finally:
            os.close(held)


def _clear(container: Container) -> None:
    try:
        record = container.record()
    except (FileNotFoundError, ContainerError):
        container.forget_live()
        return
    state = container.live_state()
    if state is not None and state.boot_id == boot_id():
        kill_exactly(state.pid, state.pid_start)
    last = container.last_state()
    if state is not None and (last is None or last.started_at != state.started_at):
        container.keep_config()
        container.write_last_state(
            msgspec.structs.replace(
                state,
                status="exited",
                pid=0,
                exit_code=137,
                finished_at=rfc3339(time.time_ns()),
                error="the process that looked after the container was killed",
            )
        )
    if record.remove:
        container.forget()
    else:
        container.forget_live()


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is no such process."""
    found = process_state(pid)
    return 0 if found is None else found.start_time


def kill_exactly(pid: int, started: int) -> None:
    """Kills this process unless it has ended, even if another one has its pid by now."""
    if pid <= 1 or started == 0:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_time(pid) == started:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
