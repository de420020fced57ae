"""Mount options sorted into flags, propagation and data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.runtime.mounts import OPTIONS, parse_options, parse_size, without_unmapped_group
from rootless.syscalls import MountAttr, MountFlag


def test_flags_and_data() -> None:
    options = parse_options(("nosuid", "noexec", "mode=755", "size=1k", "rslave", "ro"))
    assert options.flags == MountFlag.NOSUID | MountFlag.NOEXEC | MountFlag.RDONLY
    assert options.data == ("mode=755", "size=1k")
    assert options.propagation == (MountFlag.SLAVE | MountFlag.REC,)
    assert not options.bind


def test_the_last_one_wins() -> None:
    assert parse_options(("ro", "rw")).flags == MountFlag.NONE
    assert parse_options(("ro", "rw")).clear == MountFlag.RDONLY
    assert parse_options(("rw", "ro")).flags == MountFlag.RDONLY
    assert parse_options(("rro", "rrw")).clear_recursive == MountAttr.RDONLY


def test_bind_and_recursive_attributes() -> None:
    options = parse_options(("rbind", "rro", "rnosuid", "exec", "noatime"))
    assert options.bind and options.recursive
    assert options.set_recursive == MountAttr.RDONLY | MountAttr.NOSUID
    assert options.attributes == (MountAttr.NOATIME, MountAttr.NOEXEC | MountAttr.ATIME)


def test_options_of_the_engine_are_no_data() -> None:
    options = parse_options(("z", "U", "nocopy", "tmpcopyup", "newinstance", "gid=5"))
    assert options.copy_up and options.data == ("gid=5",)
    assert without_unmapped_group(options.data, False) == ()
    assert without_unmapped_group(options.data, True) == ("gid=5",)


@pytest.mark.parametrize(("text", "size"), [("64m", 64 << 20), ("1", 1), ("2K", 2048), ("1GiB", 1 << 30), ("3b", 3)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1.5g", "1x"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@given(st.lists(st.one_of(st.sampled_from(OPTIONS), st.text(max_size=8)), max_size=12))
def test_set_and_clear_never_meet(options: list[str]) -> None:
    parsed = parse_options(options)
    assert not parsed.flags & parsed.clear
    assert not parsed.set_recursive & parsed.clear_recursive
