"""What a command may leave in its directories, and what it may not."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.kit.command import Rcontain


def residue(command: Rcontain, *, containers: frozenset[str] = frozenset(), patience: float = 5.0) -> list[str]:
    """One line for each container, temporary file, mount or process that is there and should not be.

    `containers` are ids that may be there. The engine may be too. Waits up to `patience` seconds for what is going
    away.
    """
    deadline = time.monotonic() + patience
    while True:
        found = [*_files(command, containers), *_processes(command)]
        found += [f"mount {line}" for line in command.mounts()]
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(0.02)


def _files(command: Rcontain, containers: frozenset[str]) -> list[str]:
    data, live = command.data / "rcontain", command.runtime / "rcontain/containers"
    names = data / "containers/names"
    found = [f"container {entry.name}" for entry in _entries(data / "containers") if entry not in (names,)]
    found += [f"living container {entry.name}" for entry in _entries(live)]
    found = [line for line in found if line.rpartition(" ")[2] not in containers]
    found += [f"name {entry.name}" for entry in _entries(names) if os.readlink(entry) not in containers]
    found += [f"workspace {entry}" for entry in _entries(data / "tmp") if entry.name != "lock"]
    found += [f"file {entry}" for entry in _entries(data) if ".tmp" in entry.name or entry.name.startswith("probe-")]
    return found


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _processes(command: Rcontain) -> list[str]:
    """A zombie holds nothing, and how soon the system's own process 1 looks after one is not ours to say."""
    engine = engine_pid(command)
    found = command.processes().items()
    return [f"process {pid}: {words}" for pid, words in found if pid != engine and not _is_zombie(pid)]


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def engine_pid(command: Rcontain) -> int | None:
    """The engine of a command's directories: the process that has their runtime directory and the engine's name."""
    found = []
    for pid in command.processes():
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if name == "rc-engine" and parent == 1:
            found.append(pid)
    return min(found, default=None)
