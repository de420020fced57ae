"""Reassembly of fragments: order does not matter, overlaps and excess do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.fragments import Fragments, Name
from netns.wire.error import WireError

NAME: Name = (b"aaaa", b"bbbb", 17, 1)
LIMIT = 2 << 20


@given(st.binary(min_size=17, max_size=900), st.integers(1, 20), st.randoms())
def test_any_order_and_repetition(data: bytes, step: int, chance: object) -> None:
    size = step * 8
    parts = [(at, at + size < len(data), data[at : at + size]) for at in range(0, len(data), size)]
    order = parts[:-1] * 2 + parts[-1:]
    chance.shuffle(order)  # type: ignore[attr-defined]
    fragments = Fragments()
    whole = [result for part in order if (result := fragments.add(NAME, *part, 0.0)) is not None]
    assert whole[0] == data


@pytest.mark.parametrize(
    "second",
    [(8, True, 16), (0, True, 24), (8, False, 8), (8, False, 100), (0, False, 8)],
    ids=["end", "longer", "last inside", "last across", "last within the first"],
)
def test_an_overlap_condemns_on_arrival_and_for_good(second: tuple[int, bool, int]) -> None:
    fragments = Fragments()
    assert fragments.add(NAME, 0, True, bytes(16), 0.0) is None
    offset, more, size = second
    with pytest.raises(WireError):
        fragments.add(NAME, offset, more, bytes(size), 0.0)
    assert fragments.held == 0
    for late in ((0, True, 16), (16, False, 8)):  # what would have made it whole
        with pytest.raises(WireError):
            fragments.add(NAME, late[0], late[1], bytes(late[2]), 1.0)
    assert fragments.add(NAME, 0, True, bytes(16), 60.0) is None
    assert fragments.add(NAME, 16, False, b"again", 60.0) == bytes(16) + b"again"


def test_two_ends_condemn() -> None:
    for first, second in (
        ((16, False, 8), (24, True, 8)),
        ((16, False, 8), (32, False, 8)),
        ((32, True, 8), (8, False, 8)),
    ):
        fragments = Fragments()
        assert fragments.add(NAME, first[0], first[1], bytes(first[2]), 0.0) is None
        with pytest.raises(WireError):
            fragments.add(NAME, second[0], second[1], bytes(second[2]), 0.0)


@pytest.mark.parametrize(("offset", "more", "size"), [(0, True, 7), (0, True, 0), (65528, False, 100)])
def test_impossible_fragments(offset: int, more: bool, size: int) -> None:
    fragments = Fragments()
    with pytest.raises(WireError):
        fragments.add(NAME, offset, more, bytes(size), 0.0)
    fragments.add(NAME, 0, True, bytes(8), 0.0)
    with pytest.raises(WireError):
        fragments.add(NAME, offset, more, bytes(size), 0.0)
    assert fragments.held == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12), st.booleans(), st.integers(0, 40)), max_size=60))
def test_what_is_held_is_what_is_there(parts: list[tuple[int, int, bool, int]]) -> None:
    fragments = Fragments()
    for number, place, more, size in parts:
        try:
            whole = fragments.add((b"aaaa", b"bbbb", 17, number), place * 8, more, bytes(size), 0.0)
        except WireError:
            whole = None
        assert whole is None or len(whole) <= 12 * 8 + 40
        held = sum(len(piece) for partial in fragments._partial.values() for _, piece in partial.pieces)
        assert fragments.held == held


def test_memory_is_bounded_and_old_ones_go() -> None:
    fragments = Fragments()
    for number in range(1000):
        fragments.add((b"aaaa", b"bbbb", 17, number), 0, True, bytes(8), 0.0)
    assert len(fragments._partial) <= 64
    assert fragments.add(NAME, 0, True, bytes(8), 0.0) is None
    assert fragments.add(NAME, 8, False, b"late", 60.0) is None


def test_bytes_are_bounded_in_all() -> None:
    fragments = Fragments()
    for number in range(64):
        for offset in range(0, 62000, 1000):
            fragments.add((b"aaaa", b"bbbb", 17, number), offset, True, bytes(1000), 0.0)
            assert fragments.held <= LIMIT
    assert fragments.add((b"aaaa", b"bbbb", 17, 63), 62000, False, b"end", 0.0) == bytes(62000) + b"end"
