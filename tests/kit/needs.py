"""What a tier of tests needs from this machine, and what is missing.

A tier is a pytest marker. `missing(tier)` is None where the tier can run, else it names what is missing; that becomes
the reason of the skip, and in CI the message of a failure.
"""

from __future__ import annotations

import ctypes
import functools
import os
import pwd
import shutil
from collections.abc import Callable

_CLONE_NEWUSER = 0x10000000  # namespaces(7)


def subordinate_ranges(path: str) -> int:
    """How many ranges subuid(5) or subgid(5) at `path` gives to the current user."""
    uid = os.getuid()
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return sum(line.split(":")[0] in names for line in file if line.count(":") == 2)
    except FileNotFoundError:
        return 0


def _userns() -> str | None:
    if os.geteuid() == 0:
        return "an unprivileged user; contrib/test becomes one, and contrib/asuser COMMAND does it by hand"
    for program in ("newuidmap", "newgidmap"):
        if shutil.which(program) is None:
            return f"{program}, from the package uidmap"
    for path in ("/etc/subuid", "/etc/subgid"):
        if not subordinate_ranges(path):
            return f"a range of subordinate ids for this user in {path}"
    return _namespaces()


def _namespaces() -> str | None:
    """Whether the kernel lets this user make a user namespace; asked of the kernel in a child, since knobs are many."""
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).unshare(_CLONE_NEWUSER) != 0)
    _, status = os.waitpid(child, 0)
    if status:
        return "user namespaces for unprivileged users (sysctl user.max_user_namespaces, or AppArmor's restriction)"
    return None


def _device(path: str) -> Callable[[], str | None]:
    def check() -> str | None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return f"{path}, readable and writable for this user ({error.strerror})"
        return None

    return check


def _registry() -> str | None:
    if shutil.which("docker-registry") is None:
        return "docker-registry, from the package of that name"
    return None


def _podman() -> str | None:
    if shutil.which("podman") is None:
        return "podman, from the package of that name"
    return None


def _nosub() -> str | None:
    if os.geteuid() == 0 or subordinate_ranges("/etc/subuid"):
        return "a user without subordinate ids; contrib/test as root brings one"
    return _namespaces()


_CHECKS: dict[str, Callable[[], str | None]] = {
    "userns": _userns,
    "nosub": _nosub,
    "fuse": _device("/dev/fuse"),
    "tun": _device("/dev/net/tun"),
    "registry": _registry,
    "podman": _podman,
}
TIERS = tuple(_CHECKS)


@functools.cache
def missing(tier: str) -> str | None:
    """What this machine lacks for `tier`, or None."""
    return _CHECKS[tier]()
