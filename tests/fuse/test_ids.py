from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuse.ids import OVERFLOW_ID, IdMap, owners


@given(st.integers(0, 3000))
def test_there_and_back(number: int) -> None:
    ids = IdMap(((0, 1000, 1), (1, 1, 999), (1000, 0, 1), (1001, 1001, 500)))
    shown = ids.shown(number)
    assert ids.stored(shown) == (number if number <= 1500 else None) or (number > 1500 and shown == 0)


def test_ids_outside_the_map() -> None:
    assert IdMap(((0, 0, 1),)).shown(33) == 0
    assert IdMap(((0, 0, 65536),)).shown(70000) == OVERFLOW_ID
    assert IdMap(((0, 5, 10),)).stored(4) is None


def test_identity_and_squash() -> None:
    assert owners(None, None).identity
    assert not owners(((0, 0, 1),), None).identity
    assert IdMap(squash=7).shown(123) == 7
    assert IdMap(squash=7).stored(123) == 123
