"""`rcontain-fuse-overlay`, `python -m fuse`: the overlay with the command line of fuse-overlayfs(1).

So that Podman and others can use it as their `mount_program`. Options that ask for nothing that can be given here are
accepted where fuse-overlayfs accepts them; an unknown option is an error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from fuse.errors import LayerError
from fuse.ids import IdMap, Owners, Range
from fuse.layers.directory import DirectoryLayer
from fuse.mounting import Adapter, MountOptions
from fuse.protocol import FOREVER
from fuse.server import serve
from fuse.syscalls import MountFlag

VERSION = "1.14"
"""The fuse-overlayfs whose command line this is; tools compare it."""

USAGE = """usage: rcontain-fuse-overlay [-f] [-d] [-o OPTION,...] MOUNTPOINT

options of the overlay (-o):
  lowerdir=DIR[:DIR...]   the layers, topmost first
  upperdir=DIR            where changes are kept; without it the mount is read-only
  workdir=DIR             an empty directory on the file system of upperdir
  uidmapping=STORED:SHOWN:SIZE[:STORED:SHOWN:SIZE...], gidmapping=...
  squash_to_root, squash_to_uid=UID, squash_to_gid=GID
  timeout=SECONDS         how long the kernel may keep names and attributes
  writeback=0|1           whether the kernel collects writes (default 1)
  fsync=0|1, volatile     whether fsync reaches the disk (default 1)
  adapter=device|pyfuse3  how the kernel is spoken to (default device)
and those of mount(8) and fuse(8): ro, nodev, nosuid, noexec, noatime, allow_other, allow_root, fsname=, subtype=

  -f  stay in the foreground      -d  stay there and log more
  -h, --help    -V, --version
"""

_WITHOUT_EFFECT = """
rw dev suid exec atime diratime nodiratime relatime strictatime default_permissions threaded fast_ino noacl acl
static_nlink noxattrs xattr_permissions redirect_dir nfs_export metacopy index userxattr xino plugins context
fscontext defcontext rootcontext auto_unmount max_read debug clone_fd async sync auto noauto user users nouser
_netdev nofail defaults lazytime nolazytime nonempty
"""


class _UsageError(Exception):
    pass


@dataclass
class _Arguments:
    mountpoint: str = ""
    lowers: list[str] = field(default_factory=list)
    upper: str | None = None
    work: str | None = None
    uids: IdMap = field(default_factory=IdMap)
    gids: IdMap = field(default_factory=IdMap)
    flags: MountFlag = field(default_factory=lambda: MountFlag(0))
    allow_other: bool = False
    timeout: float = FOREVER
    writeback: bool = True
    adapter: Adapter = "auto"
    durable: bool = True
    fsname: str = "fuse-overlayfs"
    subtype: str = "fuse-overlayfs"
    foreground: bool = False
    verbose: bool = False


def main(arguments: list[str] | None = None) -> int:
    """Mount, and return once the mount answers (at its end with -f). 0, or 1 with a line on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    if any(word in ("-h", "--help") for word in words):
        sys.stdout.write(USAGE)
        return 0
    if any(word in ("-V", "--version") for word in words):
        sys.stdout.write(f"fuse-overlayfs: version {VERSION} (rcontain)\n")
        return 0
    try:
        settings = parse(words)
        layers = [DirectoryLayer(path) for path in settings.lowers]
    except (_UsageError, OSError, LayerError) as error:
        sys.stderr.write(f"rcontain-fuse-overlay: {error}\n")
        return 1
    logging.basicConfig(level=logging.DEBUG if settings.verbose else logging.WARNING, format="%(name)s: %(message)s")
    owners = Owners(settings.uids, settings.gids)
    options = MountOptions(
        fsname=settings.fsname,
        subtype=settings.subtype,
        flags=settings.flags,
        allow_other=settings.allow_other or os.geteuid() == 0,
        timeout=settings.timeout,
        writeback=settings.writeback,
        adapter=settings.adapter,
        durable=settings.durable,
        inherit_root=False,
    )
    readable, writable = os.pipe()
    if not settings.foreground:
        pid = os.fork()
        if pid:
            os.close(writable)
            return _wait_ready(readable)
        os.setsid()
    os.close(readable)
    mounted = serve(
        os.path.abspath(settings.mountpoint),
        layers,
        settings.upper,
        settings.work,
        options=options,
        ready_fd=_report_to_stderr(writable) if settings.foreground else _detach(writable),
        layer_owners=owners,
        upper_owners=owners,
    )
    return 0 if mounted else 1


def parse(words: list[str]) -> _Arguments:
    """The command line as settings; _UsageError."""
    settings = _Arguments()
    rest = iter(words)
    for word in rest:
        if word == "-o":
            try:
                _options(settings, next(rest))
            except StopIteration:
                raise _UsageError("-o needs options") from None
        elif word.startswith("-o"):
            _options(settings, word[2:])
        elif word in ("-f", "-d", "--debug"):
            settings.foreground = True
            settings.verbose = settings.verbose or word != "-f"
        elif word == "-s":
            continue  # one thread, as always
        elif word.startswith("-"):
            raise _UsageError(f"unknown option {word}; see --help")
        elif settings.mountpoint:
            raise _UsageError(f"more than one mountpoint: {settings.mountpoint} and {word}")
        else:
            settings.mountpoint = word
    if not settings.mountpoint:
        raise _UsageError("no mountpoint given; see --help")
    if not settings.lowers:
        raise _UsageError("no lowerdir given; see --help")
    if settings.upper is not None and settings.work is None:
        raise _UsageError("upperdir needs a workdir on the same file system")
    if settings.upper is None:
        settings.flags |= MountFlag.RDONLY
    return settings


def _options(settings: _Arguments, text: str) -> None:
    for option in split(text, ","):
        key, equals, value = option.partition("=")
        value = value.replace("\\,", ",") if key not in ("lowerdir",) else value
        if key == "lowerdir":
            settings.lowers = [part.replace("\\:", ":").replace("\\,", ",") for part in split(value, ":") if part]
        elif key == "upperdir":
            settings.upper = value
        elif key == "workdir":
            settings.work = value
        elif key in ("uidmapping", "gidmapping"):
            mapping = IdMap(_ranges(key, value))
            if key == "uidmapping":
                settings.uids = mapping
            else:
                settings.gids = mapping
        elif key == "squash_to_root":
            settings.uids, settings.gids = IdMap(squash=0), IdMap(squash=0)
        elif key == "squash_to_uid":
            settings.uids = IdMap(squash=_number(key, value))
        elif key == "squash_to_gid":
            settings.gids = IdMap(squash=_number(key, value))
        elif key == "timeout":
            try:
                settings.timeout = float(value)
            except ValueError:
                raise _UsageError(f"timeout={value} is not a number of seconds") from None
        elif key == "writeback":
            settings.writeback = value != "0"
        elif key == "adapter":
            if value not in _ADAPTERS:
                raise _UsageError(f"adapter={value} is none of {', '.join(_ADAPTERS)}")
            settings.adapter = _ADAPTERS[value]
        elif key == "fsync":
            settings.durable = value != "0"
        elif key == "volatile":
            settings.durable = False
        elif key in ("allow_other", "allow_root"):
            settings.allow_other = True
        elif key in ("fsname", "subtype"):
            setattr(settings, key, value)
        elif key in _FLAGS:
            settings.flags |= _FLAGS[key]
        elif key and key not in _WITHOUT_EFFECT.split():
            raise _UsageError(f"unknown option {key}{equals}{value}; see --help")


_ADAPTERS: dict[str, Adapter] = {"auto": "auto", "device": "device", "pyfuse3": "pyfuse3"}

_FLAGS = {
    "ro": MountFlag.RDONLY,
    "nosuid": MountFlag.NOSUID,
    "nodev": MountFlag.NODEV,
    "noexec": MountFlag.NOEXEC,
    "noatime": MountFlag.NOATIME,
}


def split(text: str, separator: str) -> Iterator[str]:
    """The parts of a list: a backslash keeps a separator in its part, and so do double quotes."""
    part = ""
    quoted = False
    letters = iter(text)
    for letter in letters:
        if letter == "\\":
            part += letter + next(letters, "")
        elif letter == '"':
            quoted = not quoted
        elif letter == separator and not quoted:
            yield part
            part = ""
        else:
            part += letter
    yield part


def _ranges(key: str, value: str) -> tuple[Range, ...]:
    """`STORED:SHOWN:SIZE:...`. Podman names the ids of the image first, and begins with a colon."""
    numbers = [_number(key, part) for part in value.split(":") if part]
    if not numbers or len(numbers) % 3:
        raise _UsageError(f"{key}={value} is not a list of triples")
    return tuple((numbers[at], numbers[at + 1], numbers[at + 2]) for at in range(0, len(numbers), 3))


def _number(key: str, value: str) -> int:
    if not value.isdigit() or int(value) >= 2**32:
        raise _UsageError(f"{key}={value} is not a number")
    return int(value)


def _wait_ready(readable: int) -> int:
    """In the process that was called: wait for the one that serves."""
    with os.fdopen(readable, "rb") as pipe:
        answer = pipe.read()
    if answer == b"1":
        return 0
    sys.stderr.write("rcontain-fuse-overlay: " + (answer.decode(errors="replace").strip() or "the server died") + "\n")
    return 1


def _detach(writable: int) -> int:
    """In the background: let go of the caller's terminal and directory."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    return writable


def _report_to_stderr(writable: int) -> int:
    os.close(writable)
    return -1


if __name__ == "__main__":
    sys.exit(main())
