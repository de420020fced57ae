"""The engine's user namespace E: 0 is the user, 1... are the user's subordinate ids (subuid(5), user_namespaces(7)).

`enter` moves the calling process, which must have one thread, into a new E and a new mount namespace. The maps are
written by newuidmap and newgidmap, called by a helper process that stays in the old namespace. Where that is not
possible E maps the user alone ("single-ID mode"), and the result says why.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import sys
from typing import Final, NoReturn

import msgspec
import sh

from rootless import syscalls
from rootless.errors import HostError
from rootless.runtime.idmap import Extent, IdMap, IdMaps
from rootless.syscalls import Clone

SUBUID: Final = "/etc/subuid"
SUBGID: Final = "/etc/subgid"

ROOT_RANGE: Final = (1 << 30, 1 << 16)
"""(first, size) of the host ids that E uses for container ids when root starts the engine and /etc/subuid has no line
for root: high enough to be nobody's."""

MAX_IDS: Final = 1 << 22


class Entered(msgspec.Struct, frozen=True):
    """The namespace that the process is in now. `reason` says why it is single-ID, where it is."""

    maps: IdMaps
    reason: str | None = None
    is_degraded: bool = False
    """There are subordinate ids, and they could not be mapped: another attempt may succeed."""

    @property
    def is_single_id(self) -> bool:
        """Only the user's own id is mapped."""
        return self.maps.uids.size == 1


class _Answer(msgspec.Struct, frozen=True):
    """What the helper process says; None is success."""

    reason: str | None


def parse_ranges(text: str, user: str, uid: int) -> tuple[tuple[int, int], ...]:
    """The (first, size) ranges in /etc/subuid or subgid of a user, by name or by uid, in the file's order."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"([^:#]+):(\d+):(\d+)", line.strip())
        if match and match[1] in (user, str(uid)) and int(match[3]) > 0:
            found.append((int(match[2]), int(match[3])))
    return tuple(found)


def subordinate_ranges(path: str, user: str, uid: int) -> tuple[tuple[int, int], ...]:
    """`parse_ranges` of a file; none where the file cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return parse_ranges(file.read(), user, uid)
    except OSError:
        return ()


def map_of(own: int, ranges: tuple[tuple[int, int], ...]) -> IdMap:
    """E's map: 0 is the user's own id, 1... are the ranges in order. A range that holds the own id is cut around it."""
    extents = [Extent(0, own, 1)]
    following = 1
    for first, size in ranges:
        size = min(size, MAX_IDS - following)
        pieces = (
            [(first, own - first), (own + 1, first + size - own - 1)]
            if first <= own < first + size
            else [(first, size)]
        )
        for start, count in pieces:
            if count > 0:
                extents.append(Extent(following, start, count))
                following += count
    return IdMap.join(extents)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def plan_maps(uid: int, gid: int) -> tuple[IdMaps, str | None]:
    """The maps that E should have, and why they are single-ID, where they are."""
    name = _user_name(uid)
    uids, gids = subordinate_ranges(SUBUID, name, uid), subordinate_ranges(SUBGID, name, uid)
    if uid == 0:
        uids, gids = uids or (ROOT_RANGE,), gids or (ROOT_RANGE,)
    if not uids or not gids:
        missing = SUBUID if not uids else SUBGID
        return _single(uid, gid), f"{missing} has no line for the user {name}"
    return IdMaps(map_of(uid, uids), map_of(gid, gids)), None


def _single(uid: int, gid: int) -> IdMaps:
    return IdMaps(IdMap.of((0, uid, 1)), IdMap.of((0, gid, 1)))


def enter() -> Entered:
    """Move this process into a new E. Raises HostError where user namespaces are forbidden."""
    uid, gid = os.geteuid(), os.getegid()
    maps, reason = plan_maps(uid, gid)
    planned = reason
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    answer_read, answer_write = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    target = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(go_write)
        _help(go_read, answer_write, target, maps, reason, uid)
    os.close(go_read)
    os.close(answer_write)
    try:
        try:
            syscalls.unshare(Clone.NEWUSER | Clone.NEWNS)
        except OSError as error:
            raise HostError(f"cannot make a user namespace: {error.strerror}", hint=_unshare_hint(error)) from error
        os.write(go_write, b"g")
        raw = os.read(answer_read, 65536)
    finally:
        os.close(go_write)
        os.close(answer_read)
        os.waitpid(helper, 0)
    failure = msgspec.json.decode(raw, type=_Answer).reason if raw else "the helper process died"
    if failure is not None:
        maps, reason = _single(uid, gid), failure
        _write_single(uid, gid)
    _leave_keyring()
    return Entered(maps, reason, is_degraded=failure is not None and planned is None)


def _unshare_hint(error: OSError) -> str | None:
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        return "ask for a larger value in /proc/sys/user/max_user_namespaces"
    if error.errno == errno.EPERM:
        return (
            "ask for unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile)"
        )
    return None


def _help(go: int, answer: int, target: int, maps: IdMaps, reason: str | None, uid: int) -> NoReturn:
    """In the helper process: write the target's maps once it has its namespace."""
    try:
        if os.read(go, 1) and reason is None:
            reason = _write_as_root(target, maps) if uid == 0 else _write_with_tools(target, maps)
        os.write(answer, msgspec.json.encode(_Answer(reason)))
    finally:
        os._exit(0)


def _search_paths() -> list[str]:
    """PATH, and where the programs are where PATH is missing or odd."""
    return [*filter(None, os.environ.get("PATH", "").split(":")), "/usr/bin", "/bin", "/usr/sbin", "/sbin"]


def _write_with_tools(target: int, maps: IdMaps) -> str | None:
    """Call newuidmap(1) and newgidmap(1); the reason where that fails."""
    for name, id_map in (("newuidmap", maps.uids), ("newgidmap", maps.gids)):
        words = [str(number) for extent in id_map.triples() for number in extent]
        try:
            # No pseudo-terminal: sandboxes may have none, and these programs need none.
            sh.Command(name, _search_paths())(str(target), *words, _tty_in=False, _tty_out=False)
        except sh.CommandNotFound:
            return f"the program {name} is missing (Debian: apt install uidmap)"
        except sh.ErrorReturnCode as error:
            text = error.stderr.decode(errors="replace").strip().splitlines()
            return f"{name} failed: {text[-1] if text else f'exit status {error.exit_code}'}"
    return None


def _write_as_root(target: int, maps: IdMaps) -> str | None:
    """Root of the namespace around writes any map of ids that it has itself."""
    try:
        around = IdMaps.of_self()
        for name, id_map in (
            ("gid_map", _within(maps.gids, around.gids)),
            ("uid_map", _within(maps.uids, around.uids)),
        ):
            with open(f"/proc/{target}/{name}", "wb", buffering=0) as file:
                file.write(id_map.to_bytes())
    except OSError as error:
        return f"cannot write the id map: {error.strerror}"
    return None


def _within(id_map: IdMap, around: IdMap) -> IdMap:
    return id_map.split_for(around)


def _write_single(uid: int, gid: int) -> None:
    """user_namespaces(7): without privilege a process may map its own ids, once setgroups(2) is given up."""
    try:
        for name, content in (("setgroups", "deny"), ("gid_map", f"0 {gid} 1"), ("uid_map", f"0 {uid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)
    except OSError as error:
        raise HostError(
            f"cannot map your own user id in a user namespace: {error.strerror}",
            hint="a security module may restrict it (AppArmor: sysctl kernel.apparmor_restrict_unprivileged_userns)",
        ) from error


def join(userns: int, mntns: int) -> Entered:
    """Move this process, which must have one thread, into an E that exists, given descriptors of its namespaces."""
    try:
        syscalls.setns(userns, Clone.NEWUSER)
        syscalls.setns(mntns, Clone.NEWNS)
    except OSError as error:
        raise HostError(f"cannot join the engine's user namespace: {error.strerror}") from error
    return Entered(IdMaps.of_self())


def _leave_keyring() -> None:
    """Containers must not find the login's keys: a session keyring of E's own."""
    try:
        syscalls.join_session_keyring()
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise
