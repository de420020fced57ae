"""The filter of system calls, run by a small interpreter of its language, and against the tables of the machine."""

from __future__ import annotations

import errno
import struct

import pytest

from netns import seccomp

ALLOW, DENY, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x80000000
X86, ARM = 0xC000003E, 0xC00000B7


def run(program: bytes, architecture: int, number: int) -> int:
    steps = list(struct.iter_unpack("=HBBI", program))
    data = {0: number, 4: architecture}
    loaded = place = 0
    while True:
        code, yes, no, value = steps[place]
        place += 1
        if code == 0x20:
            loaded = data[value]
        elif code in (0x15, 0x35):
            place += yes if (loaded == value if code == 0x15 else loaded >= value) else no
        else:
            assert code == 6
            return int(value)


@pytest.mark.parametrize(("machine", "architecture", "column"), [("x86_64", X86, 0), ("aarch64", ARM, 1)])
def test_what_is_listed_is_denied_and_nothing_else(machine: str, architecture: int, column: int) -> None:
    program = seccomp.program(machine)
    assert program is not None
    denied = {numbers[column] for numbers in seccomp.DENIED.values()}
    assert len(denied) == len(seccomp.DENIED)
    for number in range(500):
        assert run(program, architecture, number) == (DENY if number in denied else ALLOW)
    assert run(program, 0x40000003, 11) == KILL
    assert run(program, X86, 0x40000000 + 1) == (DENY if machine == "x86_64" else KILL)


def test_a_machine_that_is_not_known() -> None:
    assert seccomp.program("vax") is None
