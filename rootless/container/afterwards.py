"""What can wait until the client has its answer: making room on the disk, letting mounts go.

A task here concerns only what nobody can see any more (debris.py), so that a process that is killed before it has done
its tasks leaves nothing but debris, which the next command clears.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import HostError

_tasks: list[Callable[[], None]] = []


def do(task: Callable[[], None]) -> None:
    """Has `task` done at the end of this process; tasks are done in the order in which they came."""
    _tasks.append(task)


def run() -> None:
    """Does what has been put off."""
    while _tasks:
        try:
            _tasks.pop(0)()
        except (OSError, HostError):
            continue  # the client has its answer; what is left is debris, and cleared or complained of by the next
