"""The command line of fuse-overlayfs(1), as settings.

What fuse-overlayfs 1.14 (main.c, fuse-overlayfs.1.md) gives a meaning has that meaning here, or is refused in one
sentence; docs/overlay.md has the list. Other than there, an option that nobody knows is an error: a misspelt `upperdir`
would make a mount that forgets everything.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fuse.ids import EVERY_ID, OVERFLOW_ID, IdMap, Owners, Range
from fuse.mounting import NO_FLAGS, Adapter
from fuse.override import CONTAINERS_XATTR, PRIVILEGED_XATTR
from fuse.ownership import Ownership
from fuse.protocol import FOREVER
from fuse.syscalls import MountFlag

USAGE = """usage: rcontain-fuse-overlay [-f] [-d] [-o OPTION,...] [SOURCE] MOUNTPOINT

options of the overlay (-o):
  lowerdir=DIR[:DIR...]   the layers, topmost first; a backslash before a colon or comma keeps it in the name
  lowerdir+=DIR           one further layer below those
  upperdir=DIR            where changes are kept; without it the mount is read-only
  workdir=DIR             an empty directory on the file system of upperdir
  uidmapping=STORED:SHOWN:SIZE[:STORED:SHOWN:SIZE...], gidmapping=...
  squash_to_root, squash_to_uid=UID, squash_to_gid=GID
  xattr_permissions=0|1|2 keep owners and modes in an attribute of each file: 1 security.fuseoverlayfs.override_stat,
                          2 user.containers.override_stat (default 0: really)
  ownership=HOW           the same with more choice: real, xattr, file (beside), or auto, which finds out what works
  timeout=SECONDS         how long the kernel may keep names and attributes
  writeback=0|1           whether the kernel collects writes (default 0)
  fsync=0|1, volatile     whether fsync reaches the disk (default 1)
  noxattrs=0|1            whether extended attributes are hidden (default 0)
  noacl                   do not heed POSIX access control lists
  adapter=device|pyfuse3  how the kernel is spoken to (default device)
and those of mount(8) and fuse(8): ro, nodev, nosuid, noexec, noatime, allow_other, fsname=, subtype=

  -f  stay in the foreground      -d  stay there and log more
  -h, --help    -V, --version
"""

_SO_IN_ANY_CASE = "static_nlink default_permissions fast_ino fast_ino_check threaded clone_fd"
_LIBFUSE = "splice_read splice_write splice_move kernel_cache max_read max_write max_idle_threads auto_unmount nonempty"
_KERNEL_OVERLAY = "index nfs_export metacopy userxattr uuid"
_SELINUX = "context fscontext defcontext rootcontext"  # fuse-overlayfs takes and does not heed them either
_MOUNT = """rw async atime diratime nodiratime relatime norelatime strictatime lazytime nolazytime
auto noauto user nouser users owner group _netdev nofail defaults dirsync iversion noiversion mand nomand silent loud"""
_PROPAGATION = "private rprivate shared rshared slave rslave unbindable runbindable"  # Podman asks for it with `:O`

WITHOUT_EFFECT = frozenset(
    " ".join((_SO_IN_ANY_CASE, _LIBFUSE, _KERNEL_OVERLAY, _SELINUX, _MOUNT, _PROPAGATION)).split()
)
"""Accepted, with any value."""

_FLAGS = {
    "ro": (MountFlag.RDONLY, True),
    "suid": (MountFlag.NOSUID, False),
    "nosuid": (MountFlag.NOSUID, True),
    "dev": (MountFlag.NODEV, False),
    "nodev": (MountFlag.NODEV, True),
    "exec": (MountFlag.NOEXEC, False),
    "noexec": (MountFlag.NOEXEC, True),
    "noatime": (MountFlag.NOATIME, True),
}

_REFUSED = {
    "allow_root": "allow_root is not offered; without it the mount is yours alone, allow_other opens it to everybody",
    "ino32_t": "inode numbers of 32 bits (ino32_t) are not offered",
}

_WITHOUT_VALUE = frozenset(("squash_to_root", "acl", "noacl", "volatile", "allow_other", "debug"))
"""With one, `volatile=0` would mean what it does not say."""

_ADAPTERS: dict[str, Adapter] = {"auto": "auto", "device": "device", "pyfuse3": "pyfuse3"}

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")

_MOST_SECONDS = 2.0**62
"""About what the kernel's 64 bits hold."""


class UsageError(Exception):
    """The command line asks for what cannot be; the message is one sentence."""


@dataclass
class CommandLine:
    """What is asked for. Paths are absolute, so they hold wherever the server goes."""

    mountpoint: str = ""
    lowers: list[str] = field(default_factory=list)
    """Topmost first."""
    upper: str | None = None
    work: str | None = None
    owners: Owners = field(default_factory=Owners)
    flags: MountFlag = NO_FLAGS
    allow_other: bool = False
    ownership: Ownership = Ownership.REAL
    """How a fresh upper directory keeps owners and modes; one that was written before decides itself."""
    override: bytes = CONTAINERS_XATTR
    """The attribute for that."""
    timeout: float = FOREVER
    """Seconds."""
    writeback: bool = False
    durable: bool = True
    xattrs: bool = True
    acls: bool = True
    adapter: Adapter = "auto"
    fsname: str = "fuse-overlayfs"
    subtype: str = "fuse-overlayfs"
    foreground: bool = False
    verbose: bool = False


def parse(words: list[str], *, root: bool = False) -> CommandLine:
    """The command line as settings, for root or for somebody else; UsageError."""
    return _Parser(root).parse(words)


class _Parser:
    def __init__(self, root: bool) -> None:
        self._settings = CommandLine(allow_other=root)
        self._settings.flags = MountFlag.NODEV | MountFlag.NOATIME | (NO_FLAGS if root else MountFlag.NOSUID)
        self._ranges: dict[str, tuple[Range, ...]] = {}
        self._squash: dict[str, int] = {}
        self._options: dict[str, Callable[[str, str], None]] = {
            "lowerdir": self._lowerdir,
            "lowerdir+": self._further_lowerdir,
            "upperdir": self._upperdir,
            "workdir": self._workdir,
            "uidmapping": self._mapping,
            "gidmapping": self._mapping,
            "squash_to_root": self._squash_to_root,
            "squash_to_uid": self._squash_to,
            "squash_to_gid": self._squash_to,
            "xattr_permissions": self._xattr_permissions,
            "ownership": self._ownership,
            "redirect_dir": self._redirect_dir,
            "xino": self._xino,
            "plugins": self._plugins,
            "timeout": self._timeout,
            "writeback": self._switch,
            "fsync": self._switch,
            "sync": self._sync,
            "noxattrs": self._switch,
            "acl": self._acl,
            "noacl": self._acl,
            "volatile": self._volatile,
            "allow_other": self._allow_other,
            "adapter": self._adapter,
            "fsname": self._name,
            "subtype": self._name,
            "debug": self._debug,
        }

    def parse(self, words: list[str]) -> CommandLine:
        settings = self._settings
        names: list[str] = []
        rest = iter(words)
        for word in rest:
            if word == "--":
                names.extend(rest)
            elif word == "-o":
                options = next(rest, None)
                if options is None:
                    raise UsageError("-o needs options")
                self._take(options)
            elif word.startswith("-o"):
                self._take(word[2:])
            elif word == "-f":
                settings.foreground = True
            elif word in ("-d", "--debug"):
                settings.foreground = settings.verbose = True
            elif word == "-s":
                continue  # one thread, as always
            elif word.startswith("-"):
                raise UsageError(f"unknown option {word}; see --help")
            else:
                names.append(word)
        self._finish(names)
        return settings

    def _finish(self, names: list[str]) -> None:
        settings = self._settings
        if not names:
            raise UsageError("no mountpoint given; see --help")
        if len(names) > 2:
            raise UsageError(f"more than one mountpoint: {', '.join(names[1:])}")
        if len(names) == 2:  # as mount(8) calls its helpers: what is mounted, then where
            settings.fsname = names[0]
        settings.mountpoint = _absolute("mountpoint", names[-1])
        if not settings.lowers:
            raise UsageError("no lowerdir given; see --help")
        if settings.upper is None:
            settings.flags |= MountFlag.RDONLY
        elif settings.work is None:
            raise UsageError("upperdir needs a workdir on the same file system")
        settings.owners = Owners(self._map("uidmapping", "squash_to_uid"), self._map("gidmapping", "squash_to_gid"))

    def _map(self, mapping: str, squash: str) -> IdMap:
        everybody = self._squash.get(squash, self._squash.get("squash_to_root"))
        return IdMap(self._ranges.get(mapping, EVERY_ID), everybody, overflow=OVERFLOW_ID)

    def _take(self, text: str) -> None:
        for option in split_options(text):
            key, sign, value = option.partition("=")
            if sign and (key in _FLAGS or key in _WITHOUT_VALUE):
                raise UsageError(f"{key} takes no value")
            if key in self._options:
                self._options[key](key, value if key.startswith("lowerdir") else _unescaped(value))
            elif key in _FLAGS:
                flag, wanted = _FLAGS[key]
                self._settings.flags = self._settings.flags | flag if wanted else self._settings.flags & ~flag
            elif key in _REFUSED:
                raise UsageError(_REFUSED[key])
            elif key and key not in WITHOUT_EFFECT and not key.startswith(("x-", "X-")):
                raise UsageError(f"unknown option {option}; see --help")

    # Options, in the order of the table.

    def _lowerdir(self, key: str, value: str) -> None:
        self._settings.lowers = [_layer(part) for part in split_lowers(value)]

    def _further_lowerdir(self, key: str, value: str) -> None:
        self._settings.lowers.append(_layer(_unescaped(value)))

    def _upperdir(self, key: str, value: str) -> None:
        self._settings.upper = _absolute(key, value)

    def _workdir(self, key: str, value: str) -> None:
        self._settings.work = _absolute(key, value)

    def _mapping(self, key: str, value: str) -> None:
        """`STORED:SHOWN:SIZE:...`. Podman names the ids of the image first, and begins with a colon."""
        numbers = [_number(key, part) for part in value.split(":") if part]
        if not numbers or len(numbers) % 3:
            raise UsageError(f"{key}={value} is not a list of STORED:SHOWN:SIZE")
        triples = tuple((numbers[at], numbers[at + 1], numbers[at + 2]) for at in range(0, len(numbers), 3))
        for stored, shown, size in triples:
            if not size or max(stored, shown) + size > 2**32:
                raise UsageError(f"{key}={value} has a range that leads nowhere: {stored}:{shown}:{size}")
        self._ranges[key] = triples

    def _squash_to_root(self, key: str, value: str) -> None:
        self._squash[key] = 0

    def _squash_to(self, key: str, value: str) -> None:
        """Goes before `squash_to_root`, wherever it stands."""
        self._squash[key] = _number(key, value)
        if self._squash[key] == 2**32 - 1:
            raise UsageError(f"{key}={value} is not an id, it stands for none")

    def _xattr_permissions(self, key: str, value: str) -> None:
        if value not in ("0", "1", "2"):
            raise UsageError(f"{key}={value} is none of 0, 1 and 2")
        self._settings.ownership = Ownership.REAL if value == "0" else Ownership.XATTR
        self._settings.override = PRIVILEGED_XATTR if value == "1" else CONTAINERS_XATTR

    def _ownership(self, key: str, value: str) -> None:
        try:
            self._settings.ownership = Ownership(value)
        except ValueError:
            raise UsageError(f"{key}={value} is none of {', '.join(how.value for how in Ownership)}") from None

    def _redirect_dir(self, key: str, value: str) -> None:
        if value not in ("off", "nofollow"):
            raise UsageError(f"{key}={value} is not offered, only off: directories are renamed by copying them up")

    def _xino(self, key: str, value: str) -> None:
        if value not in ("off", "auto"):
            raise UsageError(f"{key}={value} is not offered: inode numbers hold while the mount lives")

    def _plugins(self, key: str, value: str) -> None:
        if value:
            raise UsageError("plugins are not offered: every layer has to be a directory")

    def _timeout(self, key: str, value: str) -> None:
        seconds = float(value) if _SECONDS.fullmatch(value) else math.nan
        if not 0 <= seconds <= _MOST_SECONDS:
            raise UsageError(f"{key}={value} is not a number of seconds")
        self._settings.timeout = seconds

    def _switch(self, key: str, value: str) -> None:
        if value not in ("0", "1"):
            raise UsageError(f"{key}={value} is neither 0 nor 1")
        if key == "writeback":
            self._settings.writeback = value == "1"
        elif key == "fsync":
            self._settings.durable = value == "1"
        else:
            self._settings.xattrs = value == "0"

    def _sync(self, key: str, value: str) -> None:
        """fuse-overlayfs's other name of `fsync`; without a value, mount(8)'s, which asks for more than is offered."""
        if not value:
            raise UsageError("sync is not offered: programs that need it call fsync(2)")
        self._switch("fsync", value)

    def _volatile(self, key: str, value: str) -> None:
        self._settings.durable = False

    def _acl(self, key: str, value: str) -> None:
        self._settings.acls = key == "acl"

    def _allow_other(self, key: str, value: str) -> None:
        self._settings.allow_other = True

    def _adapter(self, key: str, value: str) -> None:
        if value not in _ADAPTERS:
            raise UsageError(f"{key}={value} is none of {', '.join(_ADAPTERS)}")
        self._settings.adapter = _ADAPTERS[value]

    def _name(self, key: str, value: str) -> None:
        if not value or "\0" in value:
            raise UsageError(f"{key} needs a value, without NUL")
        setattr(self._settings, key, value)

    def _debug(self, key: str, value: str) -> None:
        self._settings.foreground = self._settings.verbose = True


def split_options(text: str) -> Iterator[str]:
    """The parts of a list with commas: a backslash keeps one in its part, and so do double quotes."""
    part = ""
    quoted = False
    letters = iter(text)
    for letter in letters:
        if letter == "\\":
            part += letter + next(letters, "")
        elif letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            yield part
            part = ""
        else:
            part += letter
    yield part


_LOWER = re.compile(r"(\\[0-3][0-7]{2})|\\{1,2}(:)|\\(.)|(:)|([^:])", re.S)


def split_lowers(text: str) -> Iterator[str]:
    """The parts of a list with colons; empty ones are left out.

    libfuse takes one backslash away before fuse-overlayfs sees the list, so there a colon in a name needs two; its
    later versions, and overlayfs itself, want one. Both are read.
    """
    part = ""
    for octal, kept, escaped, colon, letter in _LOWER.findall(text):
        if not colon:
            part += _letter(octal) if octal else kept or escaped or letter
        elif part:
            yield part
            part = ""
    if part:
        yield part


_ESCAPE = re.compile(r"\\(?:([0-3][0-7]{2})|(.))", re.S)


def _unescaped(text: str) -> str:
    """As libfuse reads an option: `\\054` is the letter of that number, else the letter after a backslash is itself."""
    return _ESCAPE.sub(lambda found: _letter(found[1]) if found[1] else found[2], text)


def _letter(octal: str) -> str:
    return os.fsdecode(bytes([int(octal.lstrip("\\"), 8)]))


def _layer(path: str) -> str:
    if path.startswith("//"):
        raise UsageError(f"{path} names a plugin, and plugins are not offered: every layer has to be a directory")
    return _absolute("lowerdir", path)


def _absolute(key: str, path: str) -> str:
    """Not normalized: `..` after a symbolic link is the kernel's to follow."""
    if not path:
        raise UsageError(f"{key} is empty")
    if "\0" in path:
        raise UsageError(f"{key} has a NUL in it")
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)


def _number(key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 20) or int(value) >= 2**32:
        raise UsageError(f"{key}={value} is not a number that an id can have")
    return int(value)
