"""Seccomp profiles: the files of containers-common and the `seccomp` of config.json.

A profile of containers-common has rules that depend on capabilities and architecture; `resolve` takes them out and
gives what config.json holds. bpf.py compiles that.

Source of seccomp.json: containers-common (github.com/containers/common, pkg/seccomp), Apache-2.0.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

from rootless.errors import UsageError
from rootless.oci.runtime import Seccomp, SeccompArg, SeccompFilter, SeccompRule, decode

MACHINES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "amd64"),
    "aarch64": ("SCMP_ARCH_AARCH64", "arm64"),
    "armv7l": ("SCMP_ARCH_ARM", "arm"),
    "ppc64le": ("SCMP_ARCH_PPC64LE", "ppc64le"),
    "s390x": ("SCMP_ARCH_S390X", "s390x"),
    "riscv64": ("SCMP_ARCH_RISCV64", "riscv64"),
}
"""uname's machine: libseccomp's name and Go's, which profiles use in `arches`."""


@cache
def default_profile() -> Seccomp:
    """Podman's default profile, from this package."""
    return decode((files(__package__) / "seccomp.json").read_bytes(), Seccomp)


def parse_profile(raw: bytes, name: str) -> Seccomp:
    """A profile file that the user gave. Raises UsageError."""
    try:
        return decode(raw, Seccomp)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the seccomp profile {name}: {error}") from error


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)


def _holds(condition: SeccompFilter, caps: frozenset[str], arch: str, kernel: tuple[int, int]) -> tuple[bool, bool]:
    """(every stated condition holds, any stated condition holds)."""
    stated: list[bool] = []
    if condition.arches:
        stated.append(arch in condition.arches)
    if condition.caps:
        stated.append(all(name in caps for name in condition.caps))
    if condition.min_kernel is not None:
        major, minor = condition.min_kernel.split(".")[:2]
        stated.append(kernel >= (int(major), int(minor)))
    return all(stated), any(stated)


def resolve(profile: Seccomp, caps: frozenset[str], machine: str, kernel: tuple[int, int]) -> Seccomp:
    """The rules that apply to a container with the bounding set `caps`: containers-common, setupSeccomp.

    A rule is used if every condition of `includes` holds, and, of `excludes`, neither the architecture nor a listed
    capability matches.
    """
    scmp, arch = MACHINES.get(machine, ("", machine))
    rules: list[SeccompRule] = []
    for rule in profile.syscalls:
        every, _ = _holds(rule.includes, caps, arch, kernel)
        _, any_ = _holds(rule.excludes, caps, arch, kernel)
        if every and not any_:
            rules.append(msgspec.structs.replace(rule, includes=SeccompFilter(), excludes=SeccompFilter()))
    architectures = profile.architectures
    for entry in profile.arch_map:
        if entry.architecture == scmp:
            architectures = (scmp, *entry.sub_architectures)
    return msgspec.structs.replace(profile, syscalls=tuple(rules), architectures=architectures, arch_map=())


_CHOWN: Final = ("chown", "chown32", "fchown", "fchown32", "lchown", "lchown32")
_CHOWN_AT: Final = ("fchownat",)
_NOTHING: Final = Seccomp(default_action="SCMP_ACT_ALLOW")


def ignoring_chown_errors(profile: Seccomp | None, uid: int, gid: int) -> Seccomp:
    """A resolved profile with which chown(2) to any other id than these succeeds and does nothing.

    For a container that has no other: the kernel answers EINVAL before it asks a file system. None is no profile.
    """
    profile = profile or _NOTHING
    rules = [
        msgspec.structs.replace(rule, names=tuple(name for name in rule.names if name not in _CHOWN + _CHOWN_AT))
        for rule in profile.syscalls
    ]
    for names, at in ((_CHOWN, 1), (_CHOWN_AT, 2)):
        for index, id in ((at, uid), (at + 1, gid)):
            other = SeccompArg(index=index, value=id, op="SCMP_CMP_NE")
            rules.append(SeccompRule(names=names, action="SCMP_ACT_ERRNO", errno_ret=0, args=(other,)))
        own = tuple(SeccompArg(index=at + n, value=id, op="SCMP_CMP_EQ") for n, id in enumerate((uid, gid)))
        rules.append(SeccompRule(names=names, action="SCMP_ACT_ALLOW", args=own))
    return msgspec.structs.replace(profile, syscalls=tuple(rules))


_resolved: dict[tuple[int, frozenset[str]], tuple[Seccomp, Seccomp]] = {}


def default_for(caps: frozenset[str], profile: Seccomp | None = None) -> Seccomp:
    """The default (or the given) profile resolved for a bounding set on this machine, remembered in this process."""
    source = profile if profile is not None else default_profile()
    key = (id(source), caps)
    found = _resolved.get(key)
    if found is None:
        found = _resolved[key] = (source, resolve(source, caps, os.uname().machine, _kernel()))
    return found[1]
