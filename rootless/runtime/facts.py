"""What plans depend on of this machine."""

from __future__ import annotations

import os
import struct
from functools import cache
from typing import Final

from rootless.runtime.capabilities import NAMES
from rootless.runtime.plan import HostFacts


@cache
def _last_capability() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            return int(file.read())
    except FileNotFoundError:
        return len(NAMES) - 1


def read() -> HostFacts:
    """Look at /proc and /sys, as the namespaces that the caller is in now show them."""
    with open("/proc/self/setgroups") as file:
        can_set_groups = file.read().strip() == "allow"
    return HostFacts(
        last_capability=_last_capability(),
        cgroup_mounted=os.path.ismount("/sys/fs/cgroup"),
        can_set_groups=can_set_groups,
    )


_INITS: Final = (
    "/usr/bin/catatonit",
    "/usr/libexec/podman/catatonit",
    "/usr/libexec/catatonit/catatonit",
    "/usr/bin/tini-static",
    "/usr/bin/docker-init",
    "/usr/bin/tini",
)
_PT_INTERP: Final = 3


def is_static(head: bytes) -> bool:
    """Whether the beginning of a file is that of a 64-bit ELF program that needs no interpreter; elf(5)."""
    if head[:5] != b"\x7fELF\x02" or len(head) < 64:
        return False
    order = "<" if head[5] == 1 else ">"
    (offset,) = struct.unpack_from(order + "Q", head, 32)
    size, count = struct.unpack_from(order + "HH", head, 54)
    entries = range(offset, offset + size * count, size or 1)
    if size < 56 or not count or offset + size * count > len(head):
        return False
    return all(struct.unpack_from(order + "I", head, entry)[0] != _PT_INTERP for entry in entries)


@cache
def find_init() -> str | None:
    """A static init program of this host for `--init`, or None: then the runtime's own reaper does it."""
    for path in _INITS:
        try:
            with open(path, "rb") as file:
                if is_static(file.read(4096)) and os.access(path, os.X_OK):
                    return path
        except OSError:
            continue
    return None
