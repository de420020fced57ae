"""Reassembly of fragments: order does not matter, overlaps and excess do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.fragments import Fragments, Name
from netns.wire.error import WireError

NAME: Name = (b"aaaa", b"bbbb", 17, 1)


@given(st.binary(min_size=17, max_size=900), st.integers(1, 20), st.randoms())
def test_any_order_and_repetition(data: bytes, step: int, chance: object) -> None:
    size = step * 8
    parts = [(at, at + size < len(data), data[at : at + size]) for at in range(0, len(data), size)]
    order = parts[:-1] * 2 + parts[-1:]
    chance.shuffle(order)  # type: ignore[attr-defined]
    fragments = Fragments()
    whole = [result for part in order if (result := fragments.add(NAME, *part, 0.0)) is not None]
    assert whole[0] == data


def test_overlaps_condemn() -> None:
    fragments = Fragments()
    assert fragments.add(NAME, 0, True, bytes(16), 0.0) is None
    assert fragments.add(NAME, 8, True, bytes(16), 0.0) is None
    with pytest.raises(WireError):
        fragments.add(NAME, 24, False, b"", 0.0)
        fragments.add(NAME, 32, False, bytes(1), 0.0)


@pytest.mark.parametrize(("offset", "more", "size"), [(0, True, 7), (0, True, 0), (65528, False, 100)])
def test_impossible_fragments(offset: int, more: bool, size: int) -> None:
    with pytest.raises(WireError):
        Fragments().add(NAME, offset, more, bytes(size), 0.0)


def test_memory_is_bounded_and_old_ones_go() -> None:
    fragments = Fragments()
    for number in range(1000):
        fragments.add((b"aaaa", b"bbbb", 17, number), 0, True, bytes(8), 0.0)
    assert len(fragments._partial) <= 32
    assert fragments.add(NAME, 0, True, bytes(8), 0.0) is None
    assert fragments.add(NAME, 8, False, b"late", 60.0) is None
