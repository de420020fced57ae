"""Access control lists without a file system: their form, and what a new file begins with."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.acl import Acl, Entry, Tag
from fuse.errors import LayerError

PERMISSIONS = st.integers(0, 7)
NAMED = st.lists(
    st.builds(Entry, st.sampled_from((Tag.USER, Tag.GROUP)), PERMISSIONS, st.integers(0, 2**32 - 2)), max_size=5
)


@st.composite
def lists(draw: st.DrawFn) -> Acl:
    named = sorted(draw(NAMED))
    mask = [Entry(Tag.MASK, draw(PERMISSIONS))] if named or draw(st.booleans()) else []
    users = [entry for entry in named if entry.tag == Tag.USER]
    groups = [entry for entry in named if entry.tag == Tag.GROUP]
    owner, group, other = (Entry(tag, draw(PERMISSIONS)) for tag in (Tag.USER_OBJ, Tag.GROUP_OBJ, Tag.OTHER))
    return Acl((owner, *users, group, *groups, *mask, other))


def acl(text: str) -> Acl:
    """As setfacl(1) writes it: u::rw-,u:1000:r--,g::r--,m::r--,o::---."""
    entries = []
    for part in text.split(","):
        kind, who, letters = part.split(":")
        tag = {"u": Tag.USER_OBJ, "g": Tag.GROUP_OBJ, "m": Tag.MASK, "o": Tag.OTHER}[kind]
        bits = sum(bit for bit, letter in zip((4, 2, 1), letters, strict=True) if letter != "-")
        entries.append(Entry(Tag(tag << 1), bits, int(who)) if who else Entry(tag, bits))
    return Acl(tuple(entries))


@given(lists())
def test_a_list_is_read_as_it_was_written(found: Acl) -> None:
    assert Acl.parse(found.to_bytes()) == found


def test_the_form_is_the_kernels() -> None:
    value = bytes.fromhex(
        "02000000 01000600ffffffff 02000400e8030000 04000000ffffffff 10000400ffffffff 20000000ffffffff"
    )
    assert Acl.parse(value) == acl("u::rw-,u:1000:r--,g::---,m::r--,o::---")


@given(st.binary(max_size=60))
def test_what_is_no_list_is_an_error(value: bytes) -> None:
    try:
        found = Acl.parse(value)
    except LayerError:
        return
    assert len(found.to_bytes()) == len(value)


@pytest.mark.parametrize("value", [b"", b"\2\0\0", b"\3\0\0\0", b"\2\0\0\0", b"\2\0\0\0" + b"\7\0\0\0\0\0\0\0"])
def test_damaged_lists(value: bytes) -> None:
    with pytest.raises(LayerError):
        Acl.parse(value)


@pytest.mark.parametrize(
    ("default", "mode", "made", "access"),
    [
        ("u::rwx,g::r-x,o::---", 0o666, 0o640, None),
        ("u::rwx,g::r-x,o::---", 0o2777, 0o2750, None),
        ("u::rwx,u:7:rw-,g::r-x,m::rwx,o::r--", 0o666, 0o664, "u::rw-,u:7:rw-,g::r-x,m::rw-,o::r--"),
        ("u::rwx,u:7:rwx,g::rwx,m::rwx,o::rwx", 0o600, 0o600, "u::rw-,u:7:rwx,g::rwx,m::---,o::---"),
        ("u::r--,g::---,m::r-x,o::---", 0o755, 0o450, "u::r--,g::---,m::r-x,o::---"),
    ],
)
def test_what_a_file_in_a_directory_with_a_default_list_begins_with(
    default: str, mode: int, made: int, access: str | None
) -> None:
    assert acl(default).inherited(stat.S_IFREG | mode) == (
        stat.S_IFREG | made,
        None if access is None else acl(access),
    )


@given(lists(), st.integers(0, 0o7777))
def test_nobody_gets_more_than_the_mode_or_the_default_list_says(default: Acl, mode: int) -> None:
    made, access = default.inherited(mode)
    assert made & ~mode == 0
    assert made & 0o7000 == mode & 0o7000
    if access is None:
        assert default.minimal
    else:
        mask = access.of(Tag.MASK)
        assert mask is None or mask.permissions == made >> 3 & 7
        for before, after in zip(default.entries, access.entries, strict=True):
            assert (before.tag, before.ident) == (after.tag, after.ident)
            assert after.permissions & ~before.permissions == 0


def test_ids_are_mapped_and_nothing_else() -> None:
    found = acl("u::rw-,u:7:r--,g::---,g:7:rwx,m::r--,o::---")
    assert found.mapped(lambda uid: uid + 1, lambda gid: gid * 2) == acl("u::rw-,u:8:r--,g::---,g:14:rwx,m::r--,o::---")


def test_without_its_list_a_file_shows_what_its_group_had() -> None:
    assert acl("u::rw-,u:7:rw-,g::r--,m::rw-,o::---").mode_without(0o660) == 0o640
    assert acl("u::rw-,u:7:rw-,g::rw-,m::r--,o::---").mode_without(0o640) == 0o640
