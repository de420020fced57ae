"""The thread beside the parser."""

from __future__ import annotations

import threading

import pytest

from rootless.image.lane import Lane


def test_order() -> None:
    seen: list[bytes] = []
    with Lane(seen.append) as lane:
        for number in range(100):
            lane.put(b"%d" % number)
        lane.drain()
    assert seen == [b"%d" % number for number in range(100)]


def test_an_error_comes_back() -> None:
    def step(chunk: bytes) -> None:
        raise OSError("full")

    with Lane(step) as lane, pytest.raises(OSError, match="full"):
        for _ in range(100):
            lane.put(b"x")
        lane.drain()


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), Lane(lambda chunk: None) as lane:
        lane.put(b"x")
        raise KeyError
    assert threading.active_count() == before
