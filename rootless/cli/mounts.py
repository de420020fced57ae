"""The three ways to ask for a mount: -v SOURCE:DESTINATION[:OPTIONS], --mount type=…, --tmpfs PATH[:OPTIONS]."""

from __future__ import annotations

import os
import re

from ..container.caller import NO_DIRECTORY
from ..container.options import MountRequest
from ..errors import UsageError

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
_PROPAGATION = {"shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"}
_FLAGS = {"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "bind", "rbind", "noatime", "relatime"}
_IGNORED = {"z", "Z", "cached", "delegated", "consistent", "idmap"}  # SELinux labels and Docker Desktop's hints
_NUMBER = r"\d+[kKmMgG]?"
_TMPFS_VALUES = {  # tmpfs(5)
    "size": rf"{_NUMBER}|\d+%",
    "mode": r"[0-7]{1,4}",
    "uid": r"\d+",
    "gid": r"\d+",
    "nr_inodes": _NUMBER,
    "nr_blocks": _NUMBER,
}
_TMPFS_DEFAULTS = ("rprivate", "nosuid", "nodev")


def parse_volume(text: str, cwd: str) -> MountRequest:
    """-v. A source with a slash or a leading dot is a path, else a volume's name; none: an anonymous volume."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts[:2]):
        raise UsageError(f'the volume "{text}" is not SOURCE:DESTINATION[:OPTIONS]')
    source, destination = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
    words = parts[2].split(",") if len(parts) > 2 and parts[2] else []
    return _request(text, source, destination, words, cwd)


def _request(text: str, source: str, destination: str, words: list[str], cwd: str) -> MountRequest:
    _check_destination(text, destination)
    kind = "bind" if "/" in source or source.startswith(".") else "volume"
    if kind == "bind":
        source = _existing(source, cwd)
    elif source and not _VOLUME_NAME.match(source):
        raise UsageError(f'the volume name "{source}" is not valid', hint="names match [a-zA-Z0-9][a-zA-Z0-9_.-]*")
    options = [word for word in words if word in _FLAGS or word in _PROPAGATION]
    for word in words:
        if word not in _FLAGS | _PROPAGATION | _IGNORED | {"U", "copy", "nocopy"}:
            raise UsageError(f'the option "{word}" of the volume "{text}" is not known')
    return MountRequest(
        type=kind,
        source=source,
        destination=destination,
        options=tuple(options),
        copy=kind == "volume" and "nocopy" not in words,
        chown="U" in words,
    )


def _existing(source: str, cwd: str) -> str:
    expanded = os.path.expanduser(source)
    if cwd == NO_DIRECTORY and not os.path.isabs(expanded):
        raise UsageError(f'cannot mount "{source}": the working directory does not exist any more')
    path = os.path.normpath(os.path.join(cwd, expanded))
    if not os.path.lexists(path):
        raise UsageError(f"cannot mount {path}: no such file or directory", hint="create it first, or check the path")
    return path


def _check_destination(text: str, destination: str) -> None:
    if not destination.startswith("/") or os.path.normpath(destination) == "/":
        raise UsageError(
            f'the mount "{text}" has the destination "{destination}"', hint="it must be an absolute path below /"
        )


def parse_mount(text: str, cwd: str) -> MountRequest:
    """--mount type=bind|volume|tmpfs,source=…,destination=…[,ro][,…]."""
    kind, source, destination = "volume", "", ""
    words: list[str] = []
    values: list[str] = []
    for field in text.split(","):
        key, separator, value = field.partition("=")
        if key == "type":
            kind = value
        elif key in ("source", "src"):
            source = value
        elif key in ("destination", "dst", "target"):
            destination = value
        elif key in ("ro", "readonly"):
            if value in ("", "true", "1"):
                words.append("ro")
        elif key in ("rw",):
            words.append("rw" if value in ("", "true", "1") else "ro")
        elif key == "bind-propagation":
            words.append(value)
        elif key in ("tmpfs-size", "tmpfs-mode"):
            values.append(f"{key.removeprefix('tmpfs-')}={value}")
        elif key == "volume-nocopy":
            words.append("nocopy")
        elif key in ("chown", "U"):
            words += ["U"] if value in ("", "true", "1") else []
        elif not separator:
            words.append(key)
        else:
            raise UsageError(f'the option "{key}" of the mount "{text}" is not known')
    if kind == "tmpfs":
        _check_destination(text, destination)
        return _tmpfs(text, destination, [*words, *values])
    if kind not in ("bind", "volume"):
        raise UsageError(f'the mount "{text}" has the type "{kind}"', hint="use bind, volume or tmpfs")
    if kind == "bind" and not source:
        raise UsageError(f'the bind mount "{text}" has no source')
    if kind == "bind" and "/" not in source:
        source = f"./{source}"
    return _request(text, source, destination, words, cwd)


def _tmpfs_option(word: str, text: str) -> str:
    name, _, value = word.partition("=")
    if name not in _TMPFS_VALUES and word not in _FLAGS:
        raise UsageError(f'the option "{word}" of the tmpfs "{text}" is not known')
    if name in _TMPFS_VALUES and not re.fullmatch(_TMPFS_VALUES[name], value):
        raise UsageError(f'the option "{word}" of the tmpfs "{text}" has a value that cannot be', hint="see tmpfs(5)")
    return word


def parse_tmpfs(text: str) -> MountRequest:
    """--tmpfs PATH[:OPTIONS]."""
    destination, _, words = text.partition(":")
    _check_destination(text, destination)
    return _tmpfs(text, destination, words.split(",") if words else [])


def _tmpfs(text: str, destination: str, words: list[str]) -> MountRequest:
    """What the image has at the destination is copied in unless `notmpcopyup` says not to, as with Podman."""
    given = [_tmpfs_option(word, text) for word in words if word not in ("tmpcopyup", "notmpcopyup")]
    copy = [] if "notmpcopyup" in words else ["tmpcopyup"]
    return MountRequest(
        type="tmpfs", source="tmpfs", destination=destination, options=(*_TMPFS_DEFAULTS, *copy, *given)
    )
