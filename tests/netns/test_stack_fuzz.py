"""The stack under frames whose every field is drawn: it raises nothing, and what it sends is well-formed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.netns import ordeal
from tests.netns.hostile import Octets

SIZE = 2000  # bytes to draw from
THOROUGH = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@THOROUGH
@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_a_stack_takes_any_frames(data: bytes) -> None:
    ordeal.stack(Octets(data), 15)


@pytest.mark.parametrize("seed", range(40))
def test_a_stack_lives_long_among_them(seed: int) -> None:
    ordeal.stack(ordeal.Chance(seed), 600)
