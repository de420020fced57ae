"""Users and groups of an image: "name", "uid", "name:group", "uid:gid" looked up in its /etc/passwd and /etc/group.

The rules are those of Docker and Podman: a number needs no entry; an unknown number has group 0 and home "/"; who
names a group gets no supplementary ones. The files are the image's: untrusted, read through RootDir, with limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from rootless.errors import ContainerError, UsageError
from rootless.oci.runtime import User
from rootless.runtime.rootdir import RootDir

_LIMIT: Final = 16 << 20
"""Bytes of /etc/passwd or /etc/group."""

_MAX_GROUPS: Final = 65536
_MAX_ID: Final = 2**31 - 1


class Account(msgspec.Struct, frozen=True):
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


class Group(msgspec.Struct, frozen=True):
    """A line of group(5)."""

    name: str
    gid: int
    members: tuple[str, ...]


class Resolved(msgspec.Struct, frozen=True):
    """The ids to run with, and what the environment wants to know."""

    user: User
    home: str
    name: str | None = None


def parse_passwd(raw: bytes) -> Iterator[Account]:
    """The accounts of a passwd(5) file; malformed lines are passed over, as libc does."""
    for line in raw.decode(errors="surrogateescape").splitlines():
        fields = line.strip().split(":")
        if len(fields) < 4 or line.startswith("#") or not fields[0]:
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is None or gid is None:
            continue
        fields += [""] * (7 - len(fields))
        yield Account(fields[0], uid, gid, fields[5], fields[6])


def parse_group(raw: bytes) -> Iterator[Group]:
    """The groups of a group(5) file; malformed lines are passed over."""
    for line in raw.decode(errors="surrogateescape").splitlines():
        fields = line.strip().split(":")
        if len(fields) < 3 or line.startswith("#") or not fields[0]:
            continue
        gid = _number(fields[2])
        if gid is None:
            continue
        members = fields[3].split(",") if len(fields) > 3 else []
        yield Group(fields[0], gid, tuple(member.strip() for member in members if member.strip()))


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit():
        return None
    value = int(text) if len(text) <= 10 else _MAX_ID + 1
    return value if value <= _MAX_ID else None


def resolve(passwd: bytes, group: bytes, spec: str) -> Resolved:
    """Pure: the ids that `spec` stands for. Raises UsageError for a bad or unknown name."""
    who, _, which = spec.partition(":")
    number = _number(who)
    if who.isascii() and who.isdigit() and number is None:
        raise UsageError(f"the user id {who} is too large")
    account = next(
        (
            entry
            for entry in parse_passwd(passwd)
            if (entry.name == who if who else entry.uid == 0) or (number is not None and entry.uid == number)
        ),
        None,
    )
    if account is None and number is None and who:
        raise UsageError(f"unable to find user {who}: no matching entries in passwd file")
    uid = account.uid if account is not None else number or 0
    gid = account.gid if account is not None else 0
    groups: tuple[int, ...] = ()
    if which:
        gid = _group_id(group, which)
    elif account is not None:
        member = [entry.gid for entry in parse_group(group) if account.name in entry.members]
        groups = tuple(dict.fromkeys(member))[:_MAX_GROUPS]
    home = account.home if account is not None and account.home else "/"
    return Resolved(User(uid=uid, gid=gid, additional_gids=groups), home, account.name if account is not None else None)


def _group_id(group: bytes, which: str) -> int:
    number = _number(which)
    if which.isascii() and which.isdigit() and number is None:
        raise UsageError(f"the group id {which} is too large")
    for entry in parse_group(group):
        if entry.name == which or entry.gid == number:
            return entry.gid
    if number is None:
        raise UsageError(f"unable to find group {which}: no matching entries in group file")
    return number


def _read(root: RootDir, path: str) -> bytes:
    try:
        return root.read(path, _LIMIT) or b""
    except OSError as error:
        raise ContainerError(f"cannot read /{path} of the image: {error.strerror}") from error


def resolve_user(root: RootDir | int, spec: str, *, extra_groups: Sequence[str] = ()) -> Resolved:
    """The ids that `spec` stands for in the root filesystem `root` (a RootDir, or a directory's descriptor).

    `extra_groups` are names or numbers of supplementary groups to add (--group-add).
    Raises UsageError for an unknown name, ContainerError where the files cannot be read.
    """
    directory = RootDir(root) if isinstance(root, int) else root
    passwd, group = _read(directory, "etc/passwd"), _read(directory, "etc/group")
    found = resolve(passwd, group, spec)
    if not extra_groups:
        return found
    gids = dict.fromkeys((*found.user.additional_gids, *(_group_id(group, name) for name in extra_groups)))
    return msgspec.structs.replace(found, user=msgspec.structs.replace(found.user, additional_gids=tuple(gids)))
