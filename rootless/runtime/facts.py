"""What plans depend on of this machine, read once per process."""

from __future__ import annotations

import os
from functools import cache

from rootless.runtime.capabilities import NAMES
from rootless.runtime.plan import HostFacts


@cache
def read() -> HostFacts:
    """Look at /proc and /sys, as the user namespace that the caller is in shows them."""
    try:
        with open("/proc/sys/kernel/cap_last_cap") as file:
            last = int(file.read())
    except FileNotFoundError:
        last = len(NAMES) - 1
    with open("/proc/self/setgroups") as file:
        can_set_groups = file.read().strip() == "allow"
    return HostFacts(
        last_capability=last, cgroup_mounted=os.path.ismount("/sys/fs/cgroup"), can_set_groups=can_set_groups
    )
