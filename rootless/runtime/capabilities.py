"""Capability names, sets and the default set, capabilities(7)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rootless.errors import UsageError
from rootless.oci.runtime import Capabilities

NAMES: Final[tuple[str, ...]] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
"""In the order of their numbers, linux/capability.h."""

NUMBERS: Final = {name: number for number, name in enumerate(NAMES)}

SYS_ADMIN: Final = 1 << NUMBERS["CAP_SYS_ADMIN"]

DEFAULT: Final[tuple[str, ...]] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""Podman's default set (containers-common, containers.conf, `default_capabilities`)."""


def normalize(name: str) -> str:
    """ "net_raw" and "CAP_NET_RAW" are both CAP_NET_RAW. Raises UsageError where there is no such capability."""
    upper = name.strip().upper()
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in NUMBERS:
        raise UsageError(f"there is no capability {name!r}", hint="see capabilities(7) for their names")
    return full


def select(
    add: Iterable[str] = (), drop: Iterable[str] = (), *, default: Iterable[str] = DEFAULT, last: int = len(NAMES) - 1
) -> tuple[str, ...]:
    """The capabilities after --cap-add and --cap-drop, sorted by name as Podman sorts them.

    As in Podman: "ALL" added means all that the kernel knows (up to the number `last`), less those dropped; "ALL"
    dropped means none but those added; a capability both added and dropped is a UsageError.
    """
    adds = {name.strip().upper() for name in add}
    drops = {name.strip().upper() for name in drop}
    add_all, drop_all = "ALL" in adds, "ALL" in drops
    added = {normalize(name) for name in adds - {"ALL"}}
    dropped = {normalize(name) for name in drops - {"ALL"}}
    if add_all and drop_all:
        raise UsageError("--cap-add=ALL and --cap-drop=ALL contradict each other")
    both = added & dropped
    if both:
        raise UsageError(f"capability {min(both)} is both added and dropped")
    if drop_all:
        chosen = added
    elif add_all:
        chosen = set(NAMES) - dropped
    else:
        chosen = ({normalize(name) for name in default} - dropped) | added
    return tuple(sorted(name for name in chosen if NUMBERS[name] <= last))


def mask(names: Iterable[str]) -> int:
    """A bit set of capability numbers. Names that this table lacks are left out, as the specification asks."""
    bits = 0
    for name in names:
        number = NUMBERS.get(name.upper())
        if number is not None:
            bits |= 1 << number
    return bits


def for_user(names: tuple[str, ...], *, root: bool, added: tuple[str, ...] = ()) -> Capabilities:
    """The five sets of a process as Podman makes them.

    Root has the chosen set as bounding, permitted and effective. Another user has them as bounding, and only what was
    explicitly added as permitted, effective, inheritable and ambient.
    """
    if root:
        return Capabilities(bounding=names, effective=names, permitted=names)
    kept = tuple(name for name in names if name in added)
    return Capabilities(bounding=names, effective=kept, permitted=kept, inheritable=kept, ambient=kept)
