"""Programs that libseccomp builds."""

from __future__ import annotations

import pytest

from rootless.errors import UsageError
from rootless.oci.runtime import Seccomp, SeccompArg, SeccompRule
from rootless.runtime.bpf import compile_profile, compiled
from rootless.runtime.capabilities import DEFAULT
from rootless.runtime.seccomp import default_for
from rootless.syscalls import SeccompFlag


def rule(**fields: object) -> Seccomp:
    made = SeccompRule(names=("personality", "no_such_call"), action="SCMP_ACT_ERRNO", **fields)  # type: ignore[arg-type]
    return Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(made,))


def test_the_default_is_built_once() -> None:
    program = compiled(default_for(frozenset(DEFAULT)))
    assert len(program.code) % 8 == 0 and 500 < len(program.code) // 8 < 4096
    assert compiled(default_for(frozenset(DEFAULT))) is program
    assert "instructions" in repr(program)


def test_unknown_system_calls_are_left_out() -> None:
    assert compile_profile(rule()).code


def test_several_conditions_on_one_argument_are_alternatives() -> None:
    def argument(index: int, value: int) -> SeccompArg:
        return SeccompArg(index=index, value=value, op="SCMP_CMP_EQ")

    both = compile_profile(rule(args=(argument(0, 8), argument(0, 9))))
    one = compile_profile(rule(args=(argument(0, 8),)))
    assert len(both.code) > len(one.code)


def test_flags() -> None:
    assert compile_profile(Seccomp(default_action="SCMP_ACT_ALLOW", flags=("SECCOMP_FILTER_FLAG_LOG",))).flags is (
        SeccompFlag.LOG
    )


@pytest.mark.parametrize(
    "profile",
    [
        Seccomp(default_action="SCMP_ACT_NOTIFY"),
        Seccomp(default_action="SCMP_ACT_ALLOW", flags=("NOSUCH",)),
        Seccomp(default_action="SCMP_ACT_ALLOW", listener_path="/x"),
        Seccomp(default_action="SCMP_ACT_ERRNO", default_errno="ENOSUCH"),
        rule(args=(SeccompArg(index=9, value=1, op="SCMP_CMP_EQ"),)),
        rule(args=(SeccompArg(index=1, value=1, op="LIKE"),)),
    ],
)
def test_bad_profiles(profile: Seccomp) -> None:
    with pytest.raises(UsageError):
        compile_profile(profile)
