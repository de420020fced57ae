"""Profiles of containers-common: which rules apply to whom."""

from __future__ import annotations

import os

import pytest

from rootless.errors import UsageError
from rootless.oci.runtime import Seccomp, SeccompArch, SeccompFilter, SeccompRule
from rootless.runtime.bpf import compile_profile
from rootless.runtime.capabilities import DEFAULT
from rootless.runtime.seccomp import default_for, default_profile, ignoring_chown_errors, parse_profile, resolve
from rootless.syscalls import Prctl, prctl, seccomp_filter
from tests.kit.userns import in_namespaces


def allowed(profile: Seccomp) -> set[str]:
    return {
        name for rule in profile.syscalls if rule.action == "SCMP_ACT_ALLOW" and not rule.args for name in rule.names
    }


def test_the_default_depends_on_capabilities() -> None:
    plain = allowed(resolve(default_profile(), frozenset(DEFAULT), "x86_64", (6, 1)))
    admin = allowed(resolve(default_profile(), frozenset({"CAP_SYS_ADMIN", "CAP_BPF"}), "x86_64", (6, 1)))
    assert {"read", "openat2", "execve", "clone3", "chroot"} <= plain
    assert "bpf" not in plain and "bpf" in admin
    assert "setns" in admin


def test_architectures() -> None:
    x86 = resolve(default_profile(), frozenset(), "x86_64", (6, 1))
    assert x86.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")
    assert "arch_prctl" in allowed(x86)
    arm = resolve(default_profile(), frozenset(), "aarch64", (6, 1))
    assert "arch_prctl" not in allowed(arm) and not arm.arch_map


def test_conditions() -> None:
    def rule(name: str, **conditions: SeccompFilter) -> SeccompRule:
        return SeccompRule(names=(name,), action="SCMP_ACT_ALLOW", **conditions)

    profile = Seccomp(
        default_action="SCMP_ACT_ERRNO",
        arch_map=(SeccompArch("SCMP_ARCH_X86_64"),),
        syscalls=(
            rule("always"),
            rule("both", includes=SeccompFilter(arches=("amd64",), caps=("CAP_KILL",))),
            rule("unless", excludes=SeccompFilter(caps=("CAP_KILL",))),
            rule("modern", includes=SeccompFilter(min_kernel="5.9")),
        ),
    )

    def names(caps: set[str], machine: str, kernel: tuple[int, int]) -> list[str]:
        return [name for rule in resolve(profile, frozenset(caps), machine, kernel).syscalls for name in rule.names]

    assert names({"CAP_KILL"}, "x86_64", (5, 10)) == ["always", "both", "modern"]
    assert names(set(), "x86_64", (5, 8)) == ["always", "unless"]
    assert names({"CAP_KILL"}, "aarch64", (4, 18)) == ["always"]


def test_resolved_profiles_are_kept() -> None:
    assert default_for(frozenset(DEFAULT)) is default_for(frozenset(DEFAULT))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"defaultAction": 3}', b"\xff\xfe"])
def test_bad_files(raw: bytes) -> None:
    with pytest.raises(UsageError, match=r"profile my\.json"):
        parse_profile(raw, "my.json")


@pytest.mark.userns
@pytest.mark.parametrize("profile", [None, default_for(frozenset(DEFAULT))])
def test_a_change_of_owner_that_cannot_be_succeeds_where_that_is_asked_for(profile: Seccomp | None) -> None:
    program = compile_profile(ignoring_chown_errors(profile, 0, 0))

    def work() -> None:
        name = f"chown-{os.getpid()}"
        path = f"/dev/shm/{name}"
        directory = os.open("/dev/shm", os.O_PATH)
        file = os.open(path, os.O_CREAT | os.O_RDWR)
        try:
            with pytest.raises(OSError, match="Invalid argument"):
                os.chown(path, 1, 1)
            prctl(Prctl.SET_NO_NEW_PRIVS, 1)
            seccomp_filter(program.code, program.flags)
            for owner in ((1, 1), (0, 42), (33, 0), (-1, 5), (0, 0), (0, -1), (-1, -1)):
                os.chown(path, *owner)
                os.lchown(path, *owner)
                os.fchown(file, *owner)
                os.chown(name, *owner, dir_fd=directory)
            with pytest.raises(FileNotFoundError):
                os.chown("/dev/shm/no such file", 0, 0)
            assert os.stat(path).st_uid == 0
        finally:
            os.unlink(path)

    in_namespaces(work, single_id=True)
