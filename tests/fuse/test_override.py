"""Overrides in every form that Podman's tools write."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.attributes import Attributes
from fuse.errors import LayerError
from fuse.override import Override, parse

REGULAR = Attributes(stat.S_IFREG | 0o600, 1, 5, 6, 0, 0, 0, 1, 2, 3)
DIRECTORY = REGULAR._replace(mode=stat.S_IFDIR | 0o700)


@pytest.mark.parametrize(
    ("value", "override"),
    [
        # containers/storage
        (b"1000:1011:0644:file", Override(1000, 1011, stat.S_IFREG | 0o644)),
        (b"1001:1012:0755:dir", Override(1001, 1012, stat.S_IFDIR | 0o755)),
        (b"1002:1013:0777:symlink", Override(1002, 1013, stat.S_IFLNK | 0o777)),
        (b"1003:1014:0666:pipe", Override(1003, 1014, stat.S_IFIFO | 0o666)),
        (b"1004:1015:0700:socket", Override(1004, 1015, stat.S_IFSOCK | 0o700)),
        (b"1005:1016:0600:block-8-0", Override(1005, 1016, stat.S_IFBLK | 0o600, os.makedev(8, 0))),
        (b"1006:1017:0600:char-1-3", Override(1006, 1017, stat.S_IFCHR | 0o600, os.makedev(1, 3))),
        (b"1012:1022:4755:file", Override(1012, 1022, stat.S_IFREG | 0o4755)),
        (b"1014:1024:1777:file", Override(1014, 1024, stat.S_IFREG | 0o1777)),
        # A later version may say more about a device.
        (b"0:0:0600:char-1-3-more", Override(0, 0, stat.S_IFCHR | 0o600, os.makedev(1, 3))),
        # fuse-overlayfs
        (b"0:0:555", Override(0, 0, 0o555)),
        (b"33:33:100644", Override(33, 33, 0o644)),
        (b"0:0:40755", Override(0, 0, 0o755)),
        (b"0:0:660:block8:0", Override(0, 0, stat.S_IFBLK | 0o660, os.makedev(8, 0))),
        (b"0:6:666:char1-3", Override(0, 6, stat.S_IFCHR | 0o666, os.makedev(1, 3))),
        (b"0:0:755\0", Override(0, 0, 0o755)),
    ],
)
def test_forms(value: bytes, override: Override) -> None:
    assert parse(value) == override


@pytest.mark.parametrize(
    "value",
    [b"", b"0", b"0:0", b"a:0:644", b"-1:0:644", b"0:0:999", b"0:0:644:bogus", b"0:0:644:block", b"0:0:644:block-8",
     b"0:0:644:char-99999999999-1", b"4294967296:0:644", b"0:0:644:file-1-2", b"0:0:"],
)  # fmt: skip
def test_damage_is_one_error(value: bytes) -> None:
    with pytest.raises(LayerError):
        parse(value)


@given(st.binary(max_size=80))
def test_anything_is_read_or_refused(value: bytes) -> None:
    try:
        parse(value)
    except LayerError:
        pass


ids = st.integers(0, 2**32 - 2)
kinds = st.sampled_from(
    [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFCHR]
)


@given(ids, ids, st.integers(0, 0o7777), kinds, st.integers(0, 4095), st.integers(0, 1 << 20 - 1))
def test_what_is_written_is_read(uid: int, gid: int, mode: int, kind: int, major: int, minor: int) -> None:
    rdev = os.makedev(major, minor) if kind in (stat.S_IFBLK, stat.S_IFCHR) else 0
    override = Override(uid, gid, kind | mode, rdev)
    assert parse(override.to_bytes()) == override


def test_only_a_regular_file_stands_for_another_type() -> None:
    device = Override(1, 2, stat.S_IFCHR | 0o620, os.makedev(1, 3))
    shown = device.over(REGULAR)
    assert (shown.mode, shown.rdev, shown.uid, shown.gid) == (stat.S_IFCHR | 0o620, os.makedev(1, 3), 1, 2)
    assert device.over(DIRECTORY).mode == stat.S_IFDIR | 0o620
    assert Override(0, 0, stat.S_IFDIR | 0o755).over(REGULAR).mode == stat.S_IFREG | 0o755
    assert Override(0, 0, stat.S_IFLNK | 0o777).over(REGULAR).mode == stat.S_IFREG | 0o777
    assert Override(0, 0, 0o4755).over(REGULAR).mode == stat.S_IFREG | 0o4755
