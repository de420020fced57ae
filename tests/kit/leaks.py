"""What a process holds that a test could leave behind: descriptors, children, mounts.

A network namespace lives as long as a process, a descriptor or a mount of it, so these three cover it.

    before = holdings()
    ...
    assert not leaked(before)
"""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holdings:
    """What this process holds now."""

    descriptors: dict[int, str]
    """Descriptor to what it refers to, as /proc/self/fd shows it."""
    children: frozenset[int]
    """Process ids, zombies included."""
    mounts: frozenset[str]
    """Lines of /proc/self/mountinfo without the mount's id, which is not stable."""


def holdings() -> Holdings:
    return Holdings(_descriptors(), _children(), _mounts())


def leaked(before: Holdings, *, patience: float = 5.0) -> list[str]:
    """One line for each thing held now and not in `before`. Waits up to `patience` seconds for what is going away."""
    deadline = time.monotonic() + patience
    found = _differences(before)
    if found:
        gc.collect()  # a cycle that holds a socket is the collector's business, not a leak
        found = _differences(before)
    while found and time.monotonic() < deadline:
        time.sleep(0.02)
        found = _differences(before)
    return found


def _differences(before: Holdings) -> list[str]:
    now = holdings()
    lines = [
        f"descriptor {number} -> {target}"
        for number, target in now.descriptors.items()
        if before.descriptors.get(number) != target
    ]
    lines += [f"child process {pid}: {command_line(pid)}" for pid in sorted(now.children - before.children)]
    lines += [f"mount {line}" for line in sorted(now.mounts - before.mounts)]
    return lines


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor that listed the directory
            continue
    return found


def _children() -> frozenset[int]:
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
        except FileNotFoundError:  # the thread ended meanwhile
            continue
    return frozenset(found)


def _mounts() -> frozenset[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return frozenset(line.split(" ", 2)[2].rstrip("\n") for line in file)


def command_line(pid: int) -> str:
    """The command line of a process for people to read; its name where it has none (a zombie)."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        if words != [b""]:
            return b" ".join(words).decode(errors="replace").strip()
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"[{file.read().strip()}]"
    except (FileNotFoundError, ProcessLookupError):
        return "(gone)"
