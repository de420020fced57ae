"""What a command may leave in its directories, and what it may not."""

from __future__ import annotations

import os
import shutil
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


def scour(command: Rcontain) -> None:
    """Takes away what a failed test has left, so that the next one does not suffer for it."""
    command("rm", "--all", "--force", "--time", "0", check=False)
    for entry in _entries(command.runtime / "rcontain/containers"):
        shutil.rmtree(entry, ignore_errors=True)
    for entry in _entries(command.data / "rcontain/containers/names"):
        entry.unlink(missing_ok=True)


def _files(command: Rcontain, containers: frozenset[str]) -> list[str]:
    data, live = command.data / "rcontain", command.runtime / "rcontain/containers"
    names = data / "containers/names"
    found = [f"container {entry.name}" for entry in _entries(data / "containers") if entry not in (names,)]
    found += [f"living container {entry.name}" for entry in _entries(live)]
    found = [line for line in found if line.rpartition(" ")[2] not in containers]
    found += [f"name {entry.name}" for entry in _entries(names) if os.readlink(entry) not in containers]
    found += [
        f"workspace {entry}" for entry in _entries(data / "tmp") if entry.suffix != ".lock" and entry.name != "lock"
    ]
    found += [f"file {entry}" for entry in _entries(data) if ".tmp" in entry.name or entry.name.startswith("probe-")]
    return found


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _processes(command: Rcontain) -> list[str]:
    at_home = engine_processes(command)
    return [f"process {pid}: {words}" for pid, words in command.processes().items() if pid not in at_home]


def engine_pid(command: Rcontain) -> int | None:
    """The engine of a command's directories.

    Unlike the sessions that it forks it leads no session of its own; and unlike what those fork, which has its name
    for a moment, it is nobody's child.
    """
    named = _named(command)
    return next((pid for pid, (parent, session) in named.items() if session != pid and parent not in named), None)


def engine_processes(command: Rcontain) -> set[int]:
    """The engine, and the one session that it has forked ahead of the next client."""
    engine = engine_pid(command)
    if engine is None:
        return set()
    spare = max((pid for pid, (parent, _) in _named(command).items() if parent == engine), default=engine)
    return {engine, spare}


def _named(command: Rcontain) -> dict[int, tuple[int, int]]:
    """Processes with the engine's name: their parents and sessions (proc(5), stat, fields 4 and 6)."""
    found = {}
    for pid in command.processes():
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "rc-engine":
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[pid] = (int(fields[1]), int(fields[3]))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def client_pid(command: Rcontain, word: str) -> int:
    """The client whose command line has this word."""
    for pid, words in command.processes().items():
        if str(command.launcher) in words and word in words.split():
            return pid
    raise AssertionError(f"no client has {word!r} in its command line")
