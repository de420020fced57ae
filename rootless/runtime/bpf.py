"""Seccomp profiles compiled to BPF programs by libseccomp, seccomp(2).

Building a program takes some ten milliseconds, so `compiled` keeps those of this process; loading one is a single
system call (syscalls.seccomp_filter). Importing this module looks for libseccomp, which takes as long again.
"""

from __future__ import annotations

import errno
import tempfile
from typing import Any, Final

import msgspec
import pyseccomp

from rootless.errors import HostError, UsageError
from rootless.oci.runtime import Seccomp, SeccompArg, SeccompRule
from rootless.runtime.steps import Program
from rootless.syscalls import SeccompFlag

_BINARY_TREE: Final = 2
"""SCMP_FLTATR_CTL_OPTIMIZE, seccomp_attr_set(3): fewer comparisons for each system call, and a faster load."""

_FLAGS: Final = {
    "SECCOMP_FILTER_FLAG_TSYNC": SeccompFlag.TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": SeccompFlag.LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SeccompFlag.SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": SeccompFlag.WAIT_KILLABLE_RECV,
}


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
        program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
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
