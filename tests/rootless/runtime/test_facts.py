"""What is found out about the machine."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rootless.runtime import facts


def test_static_and_dynamic_programs() -> None:
    assert facts.is_static(Path("/usr/bin/busybox").read_bytes()[:4096])
    assert not facts.is_static(Path("/bin/sh").read_bytes()[:4096])
    assert not facts.is_static(b"#!/bin/sh\n")


@given(st.binary(max_size=200), st.binary(min_size=64, max_size=200))
def test_any_file(raw: bytes, rest: bytes) -> None:
    assert facts.is_static(raw) in (True, False)
    assert facts.is_static(b"\x7fELF\x02\x01" + rest) in (True, False)


def test_the_kernel() -> None:
    assert 36 <= facts.read().last_capability < 64
