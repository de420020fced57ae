"""Mount options of config.json, parsed: pure. The names are those of mount(8) and the runtime specification."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from rootless.errors import UsageError
from rootless.syscalls import MountAttr, MountFlag

_FLAGS: Final[dict[str, tuple[MountFlag, MountFlag]]] = {
    "defaults": (MountFlag.NONE, MountFlag.NONE),
    "ro": (MountFlag.RDONLY, MountFlag.NONE),
    "rw": (MountFlag.NONE, MountFlag.RDONLY),
    "nosuid": (MountFlag.NOSUID, MountFlag.NONE),
    "suid": (MountFlag.NONE, MountFlag.NOSUID),
    "nodev": (MountFlag.NODEV, MountFlag.NONE),
    "dev": (MountFlag.NONE, MountFlag.NODEV),
    "noexec": (MountFlag.NOEXEC, MountFlag.NONE),
    "exec": (MountFlag.NONE, MountFlag.NOEXEC),
    "sync": (MountFlag.SYNCHRONOUS, MountFlag.NONE),
    "async": (MountFlag.NONE, MountFlag.SYNCHRONOUS),
    "dirsync": (MountFlag.DIRSYNC, MountFlag.NONE),
    "mand": (MountFlag.MANDLOCK, MountFlag.NONE),
    "nomand": (MountFlag.NONE, MountFlag.MANDLOCK),
    "noatime": (MountFlag.NOATIME, MountFlag.NONE),
    "atime": (MountFlag.NONE, MountFlag.NOATIME),
    "nodiratime": (MountFlag.NODIRATIME, MountFlag.NONE),
    "diratime": (MountFlag.NONE, MountFlag.NODIRATIME),
    "relatime": (MountFlag.RELATIME, MountFlag.NONE),
    "norelatime": (MountFlag.NONE, MountFlag.RELATIME),
    "strictatime": (MountFlag.STRICTATIME, MountFlag.NONE),
    "nostrictatime": (MountFlag.NONE, MountFlag.STRICTATIME),
    "nosymfollow": (MountFlag.NOSYMFOLLOW, MountFlag.NONE),
    "symfollow": (MountFlag.NONE, MountFlag.NOSYMFOLLOW),
}

_PROPAGATION: Final = {
    "private": MountFlag.PRIVATE,
    "rprivate": MountFlag.PRIVATE | MountFlag.REC,
    "slave": MountFlag.SLAVE,
    "rslave": MountFlag.SLAVE | MountFlag.REC,
    "shared": MountFlag.SHARED,
    "rshared": MountFlag.SHARED | MountFlag.REC,
    "unbindable": MountFlag.UNBINDABLE,
    "runbindable": MountFlag.UNBINDABLE | MountFlag.REC,
}

_RECURSIVE: Final = {
    "rro": (MountAttr.RDONLY, MountAttr.NONE),
    "rrw": (MountAttr.NONE, MountAttr.RDONLY),
    "rnosuid": (MountAttr.NOSUID, MountAttr.NONE),
    "rsuid": (MountAttr.NONE, MountAttr.NOSUID),
    "rnodev": (MountAttr.NODEV, MountAttr.NONE),
    "rdev": (MountAttr.NONE, MountAttr.NODEV),
    "rnoexec": (MountAttr.NOEXEC, MountAttr.NONE),
    "rexec": (MountAttr.NONE, MountAttr.NOEXEC),
    "rnosymfollow": (MountAttr.NOSYMFOLLOW, MountAttr.NONE),
    "rsymfollow": (MountAttr.NONE, MountAttr.NOSYMFOLLOW),
}

_ATTRIBUTES: Final = (
    (MountFlag.RDONLY, MountAttr.RDONLY),
    (MountFlag.NOSUID, MountAttr.NOSUID),
    (MountFlag.NODEV, MountAttr.NODEV),
    (MountFlag.NOEXEC, MountAttr.NOEXEC),
    (MountFlag.NODIRATIME, MountAttr.NODIRATIME),
    (MountFlag.NOSYMFOLLOW, MountAttr.NOSYMFOLLOW),
)

_SELINUX_AND_OWNER: Final = frozenset({"z", "Z", "U", "copy", "nocopy"})
"""Podman's volume options that the engine answers before a config.json is written."""


OPTIONS: Final = (*_FLAGS, *_PROPAGATION, *_RECURSIVE, "bind", "rbind", "tmpcopyup")
"""All names that stand for more than file system data."""


class Options(msgspec.Struct, frozen=True):
    """The options of one mount."""

    flags: MountFlag = MountFlag.NONE
    clear: MountFlag = MountFlag.NONE
    propagation: tuple[MountFlag, ...] = ()
    set_recursive: MountAttr = MountAttr.NONE
    clear_recursive: MountAttr = MountAttr.NONE
    bind: bool = False
    recursive: bool = False
    copy_up: bool = False
    data: tuple[str, ...] = ()

    @property
    def attributes(self) -> tuple[MountAttr, MountAttr]:
        """(set, clear) for mount_setattr(2). An access time mode takes the place of the old one."""
        set_, clear = MountAttr.NONE, MountAttr.NONE
        for flag, attribute in _ATTRIBUTES:
            if self.flags & flag:
                set_ |= attribute
            if self.clear & flag:
                clear |= attribute
        if self.flags & MountFlag.NOATIME:
            set_, clear = set_ | MountAttr.NOATIME, clear | MountAttr.ATIME
        elif self.flags & MountFlag.STRICTATIME:
            set_, clear = set_ | MountAttr.STRICTATIME, clear | MountAttr.ATIME
        return set_, clear


def parse_options(options: Iterable[str]) -> Options:
    """Sort options into flags, propagation and file system data; a later option wins over an earlier one."""
    flags, clear = MountFlag.NONE, MountFlag.NONE
    set_recursive, clear_recursive = MountAttr.NONE, MountAttr.NONE
    propagation: list[MountFlag] = []
    data: list[str] = []
    bind = recursive = copy_up = False
    for option in options:
        if option in _FLAGS:
            on, off = _FLAGS[option]
            flags, clear = (flags | on) & ~off, (clear | off) & ~on
        elif option in _PROPAGATION:
            propagation.append(_PROPAGATION[option])
        elif option in _RECURSIVE:
            on_all, off_all = _RECURSIVE[option]
            set_recursive = (set_recursive | on_all) & ~off_all
            clear_recursive = (clear_recursive | off_all) & ~on_all
        elif option in ("bind", "rbind"):
            bind, recursive = True, option == "rbind"
        elif option == "tmpcopyup":
            copy_up = True
        elif option not in _SELINUX_AND_OWNER and option not in ("notmpcopyup", "newinstance"):
            # newinstance: every devpts mount is one since Linux 4.7.
            data.append(option)
    return Options(
        flags, clear, tuple(propagation), set_recursive, clear_recursive, bind, recursive, copy_up, tuple(data)
    )


def without_unmapped_group(data: tuple[str, ...], is_mapped: bool) -> tuple[str, ...]:
    """Leave out devpts's gid= where the container has no such group: the kernel refuses an unmapped one."""
    return data if is_mapped else tuple(option for option in data if not option.startswith("gid="))


_SIZE = re.compile(r"(\d+)([bkmgt]?)(?:i?b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """ "64m" -> bytes; the units are powers of 1024, as in Podman's --shm-size. Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size", hint="write a number with an optional unit: b, k, m, g or t")
    return int(match[1]) << {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}[match[2].lower()]
