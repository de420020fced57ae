"""What a network's process cannot open any more: landlock(7), which needs no privilege and no namespace.

It reads where the host keeps its name servers, and Python's own modules; everything else that is opened afterwards
is refused, to write above all. What is open stays open, so device, captures and sockets go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from netns import syscalls

_READ_FILE, _READ_DIR, _REMOVE_FILE = 1 << 2, 1 << 3, 1 << 5  # linux/landlock.h
_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many kinds of access a version of the interface knows
_BITS_NOW = 16  # since version 5
_READ = _READ_FILE | _READ_DIR
_NAMES = ("/etc", "/run", "/proc/sys/net")  # of servers, and what the host allows
_RESOLV_CONF = "/etc/resolv.conf"


def enter(removes_in: Iterable[str] = ()) -> None:
    """Confine this thread and what it starts, for good; in `removes_in` names may still be removed.

    Needs no_new_privs. Raises OSError: ENOSYS or EOPNOTSUPP where the kernel has no Landlock.
    """
    version = syscalls.landlock_version()
    handled = (1 << _BITS.get(version, _BITS_NOW)) - 1
    rules = dict.fromkeys((*_NAMES, os.path.dirname(os.path.realpath(_RESOLV_CONF))), _READ)
    for module in (os.__file__, __file__):
        rules[os.path.dirname(os.path.abspath(module))] = _READ
    for path in removes_in:
        rules[path] = rules.get(path, 0) | _REMOVE_FILE
    ruleset = syscalls.landlock_create(handled)
    try:
        for path, access in rules.items():
            try:
                folder = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                syscalls.landlock_allow(ruleset, folder, access)
            finally:
                os.close(folder)
        syscalls.landlock_enter(ruleset)
    finally:
        os.close(ruleset)
