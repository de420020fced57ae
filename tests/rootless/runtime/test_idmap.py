"""Id maps: the arithmetic, and the split that nested namespaces need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.runtime.idmap import Extent, IdMap, IdMaps, default_maps, keep_id_maps, nomap_maps

E = IdMap.parse("0 1001 1\n1 100000 65536\n")
MAPS = IdMaps(E, E)


@st.composite
def id_maps(draw: st.DrawFn, outside_limit: int = 1 << 20) -> IdMap:
    """Maps whose lines overlap on neither side."""
    sizes = draw(st.lists(st.integers(1, 500), max_size=6))
    inside = outside = 0
    lines = []
    for size in sizes:
        inside += draw(st.integers(0, 50))
        outside += draw(st.integers(0, 50))
        lines.append((inside, outside, size))
        inside += size
        outside += size
    outsides = draw(st.permutations([line[1:] for line in lines]))
    # Shuffled outer ranges, the inner ones laid out anew.
    inside, shuffled = 0, []
    for outer, size in outsides:
        inside += draw(st.integers(0, 50))
        shuffled.append((inside, outer, size))
        inside += size
    return IdMap.of(*shuffled)


def test_parse_and_write() -> None:
    assert E.extents == (Extent(0, 1001, 1), Extent(1, 100000, 65536))
    assert E.to_bytes() == b"0 1001 1\n1 100000 65536\n"
    assert E.size == 65537
    assert E.triples() == ((0, 1001, 1), (1, 100000, 65536))
    assert IdMap.from_spec(E.to_spec()) == E
    with pytest.raises((ValueError, TypeError)):
        IdMap.parse("0 x 1")


def test_look_up() -> None:
    assert (E.outside(0), E.outside(5), E.outside(65537)) == (1001, 100004, None)
    assert (E.inside(1001), E.inside(100004), E.inside(5)) == (0, 5, None)
    assert 5 in E and 65537 not in E


def test_neighbours_are_joined_and_empty_lines_left_out() -> None:
    assert IdMap.of((10, 20, 5), (0, 10, 10), (30, 0, 0)).extents == (Extent(0, 10, 15),)


@pytest.mark.parametrize(
    "lines", [[(0, 0, 10), (5, 100, 1)], [(0, 0, 10), (100, 5, 1)], [(-1, 0, 1)], [(0, 1 << 32, 1)]]
)
def test_bad_maps(lines: list[tuple[int, int, int]]) -> None:
    with pytest.raises(UsageError):
        IdMap.of(*lines)


def test_default_map_is_split_at_the_parents_extents() -> None:
    assert default_maps(MAPS).uids.triples() == ((0, 0, 1), (1, 1, 65536))
    single = IdMaps(IdMap.of((0, 1001, 1)), IdMap.of((0, 1001, 1)))
    assert default_maps(single).uids.triples() == ((0, 0, 1),)


def test_keep_id_is_podmans() -> None:
    kept = keep_id_maps(MAPS, 1001, 1002)
    assert kept.uids.triples() == ((0, 1, 1001), (1001, 0, 1), (1002, 1002, 64535))
    assert kept.gids.outside(1002) == 0
    single = IdMaps(IdMap.of((0, 1001, 1)), IdMap.of((0, 1001, 1)))
    assert keep_id_maps(single, 1001, 1001).uids.triples() == ((1001, 0, 1),)
    assert keep_id_maps(MAPS, 100000, 0).uids.triples() == ((0, 1, 65536), (100000, 0, 1))


def test_nomap() -> None:
    assert nomap_maps(MAPS).uids.triples() == ((0, 1, 65536),)
    with pytest.raises(UsageError):
        nomap_maps(IdMaps(IdMap.of((0, 1001, 1)), IdMap.of((0, 1001, 1))))


def test_ids_that_the_parent_lacks() -> None:
    with pytest.raises(UsageError, match="needs id 65537"):
        IdMap.of((0, 0, 65538)).split_for(E)
    many = IdMap(tuple(Extent(n, n, 1) for n in range(500)))
    with pytest.raises(UsageError, match="340"):
        IdMap.of((0, 0, 500)).split_for(many)


@given(id_maps(), st.integers(0, 4000))
def test_outside_and_inside_are_inverse(ids: IdMap, number: int) -> None:
    outer = ids.outside(number)
    if outer is not None:
        assert ids.inside(outer) == number
    inner = ids.inside(number)
    if inner is not None:
        assert ids.outside(inner) == number


@given(id_maps(), id_maps())
def test_a_split_map_is_the_same_map_within_extents(ids: IdMap, parent: IdMap) -> None:
    try:
        split = ids.split_for(parent)
    except UsageError:
        outer = [n for line in ids.extents for n in range(line.outside, line.outside + line.size)]
        assert any(parent.outside(n) is None for n in outer)
        return
    assert IdMap.join(split.extents) == ids
    for line in split.extents:
        assert any(e.inside <= line.outside and line.outside + line.size <= e.inside + e.size for e in parent.extents)


@given(id_maps())
def test_text_form(ids: IdMap) -> None:
    assert IdMap.parse(ids.to_bytes().decode()) == ids


@given(st.integers(1, 70000), st.integers(0, 70000))
def test_keep_id_uses_every_id_once(count: int, kept: int) -> None:
    parent = IdMap.of((0, 1001, 1), (1, 100000, count))
    ids = keep_id_maps(IdMaps(parent, parent), kept, kept).uids
    assert ids.outside(kept) == 0
    assert ids.size == count + 1
