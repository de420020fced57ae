"""Seccomp profiles: the files of containers-common and the `seccomp` of config.json, compiled to BPF by libseccomp.

A profile of containers-common has rules that depend on capabilities and architecture; `resolve` takes them out and
gives what config.json holds. `compile_profile` gives the program's bytes. Building it takes tens of milliseconds, so
`compiled` keeps the programs of this process; loading one is a single system call (syscalls.seccomp_filter).

Source of seccomp.json: containers-common (github.com/containers/common, pkg/seccomp), Apache-2.0.
"""

from __future__ import annotations

import errno
import os
import tempfile
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
import pyseccomp

from rootless.errors import HostError, UsageError
from rootless.oci.runtime import Seccomp, SeccompArg, SeccompFilter, SeccompRule, decode
from rootless.syscalls import SeccompFlag

MACHINES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "amd64"),
    "aarch64": ("SCMP_ARCH_AARCH64", "arm64"),
    "armv7l": ("SCMP_ARCH_ARM", "arm"),
    "ppc64le": ("SCMP_ARCH_PPC64LE", "ppc64le"),
    "s390x": ("SCMP_ARCH_S390X", "s390x"),
    "riscv64": ("SCMP_ARCH_RISCV64", "riscv64"),
}
"""uname's machine: libseccomp's name and Go's, which profiles use in `arches`."""

_FLAGS: Final = {
    "SECCOMP_FILTER_FLAG_TSYNC": SeccompFlag.TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": SeccompFlag.LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SeccompFlag.SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": SeccompFlag.WAIT_KILLABLE_RECV,
}


class Program(msgspec.Struct, frozen=True):
    """A filter ready to be loaded."""

    code: bytes
    flags: SeccompFlag = SeccompFlag.NONE

    def __repr__(self) -> str:
        return f"Program({len(self.code) // 8} instructions, {self.flags!r})"


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


def _action(name: str, number: int | None, text: str | None) -> int:
    if text is not None:
        code = getattr(errno, text, None)
        if not isinstance(code, int):
            raise UsageError(f"the seccomp profile has an unknown errno {text!r}")
        number = code if number is None else number
    if name == "SCMP_ACT_ERRNO":
        return int(pyseccomp.ERRNO(errno.EPERM if number is None else number))
    if name == "SCMP_ACT_TRACE":
        return int(pyseccomp.TRACE(errno.EPERM if number is None else number))
    fixed = {
        "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
        "SCMP_ACT_LOG": pyseccomp.LOG,
        "SCMP_ACT_TRAP": pyseccomp.TRAP,
        "SCMP_ACT_KILL": pyseccomp.KILL,
        "SCMP_ACT_KILL_THREAD": pyseccomp.KILL,
        "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS,
    }
    if name not in fixed:
        raise UsageError(f"the seccomp profile has an action {name!r}, which is not supported")
    return int(fixed[name])


def _argument(argument: SeccompArg) -> Any:
    comparison = getattr(pyseccomp, argument.op.removeprefix("SCMP_CMP_"), None)
    if comparison is None or not argument.op.startswith("SCMP_CMP_") or not 0 <= argument.index <= 5:
        raise UsageError(f"the seccomp profile has a bad comparison {argument.op!r} of argument {argument.index}")
    return pyseccomp.Arg(argument.index, comparison, argument.value, argument.value_two)


def compile_profile(profile: Seccomp) -> Program:
    """Build the BPF program of a resolved profile. System calls that this libseccomp does not know are left out.

    Raises UsageError for a bad profile, HostError where libseccomp fails.
    """
    if profile.listener_path is not None:
        raise UsageError("a seccomp profile with listenerPath is not supported")
    flags = SeccompFlag.NONE
    for flag in profile.flags:
        if flag not in _FLAGS:
            raise UsageError(f"the seccomp profile has an unknown flag {flag!r}")
        flags |= _FLAGS[flag]
    default = _action(profile.default_action, profile.default_errno_ret, profile.default_errno)
    try:
        program = pyseccomp.SyscallFilter(default)
        for name in profile.architectures:
            arch = getattr(pyseccomp.Arch, name.removeprefix("SCMP_ARCH_"), None)
            if arch is not None and not program.exist_arch(arch):
                program.add_arch(arch)
        for rule in profile.syscalls:
            action = _action(rule.action, rule.errno_ret, rule.errno)
            if action == default:
                continue
            _add(program, rule, action)
        with tempfile.TemporaryFile() as file:
            program.export_bpf(file)
            file.seek(0)
            return Program(file.read(), flags)
    except (OSError, ValueError, RuntimeError) as error:
        raise HostError(f"libseccomp cannot build the seccomp filter: {error}") from error


def _add(program: Any, rule: SeccompRule, action: int) -> None:
    """One rule. Several conditions on one argument are alternatives, as in runc (each a rule of its own)."""
    arguments = rule.args or ()
    indices = [argument.index for argument in arguments]
    repeated = len(set(indices)) != len(indices)
    for name in rule.names:
        try:
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        except ValueError:
            continue  # a newer system call than this libseccomp: the default action answers it
        if number == -1:
            continue
        if repeated:
            for argument in arguments:
                program.add_rule(action, name, _argument(argument))
        else:
            program.add_rule(action, name, *map(_argument, arguments))


_programs: dict[bytes, Program] = {}


def compiled(profile: Seccomp) -> Program:
    """`compile_profile`, remembered in this process; the key is the resolved profile's content."""
    key = msgspec.msgpack.encode(profile)
    program = _programs.get(key)
    if program is None:
        program = _programs[key] = compile_profile(profile)
    return program


_resolved: dict[tuple[int, frozenset[str]], tuple[Seccomp, Seccomp]] = {}


def default_for(caps: frozenset[str], profile: Seccomp | None = None) -> Seccomp:
    """The default (or the given) profile resolved for a bounding set on this machine, remembered in this process."""
    source = profile if profile is not None else default_profile()
    key = (id(source), caps)
    found = _resolved.get(key)
    if found is None:
        found = _resolved[key] = (source, resolve(source, caps, os.uname().machine, _kernel()))
    return found[1]
