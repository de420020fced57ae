"""Receive buffers are used again, and given up when they are not."""

from __future__ import annotations

from netns.buffers import SIZE, Buffers


def test_the_last_returned_is_the_next_used() -> None:
    buffers = Buffers()
    first, second = buffers.take(), buffers.take()
    assert len(first) == SIZE and first is not second
    buffers.give(first)
    buffers.give(second)
    assert buffers.take() is second and buffers.take() is first
    assert not len(buffers)


def test_no_more_than_a_few_megabytes_are_kept() -> None:
    buffers = Buffers()
    for buffer in [buffers.take() for _ in range(100)]:
        buffers.give(buffer)
    assert len(buffers) * SIZE == 4 << 20


def test_what_is_not_used_is_given_up() -> None:
    buffers = Buffers()
    for buffer in [buffers.take() for _ in range(10)]:
        buffers.give(buffer)
    assert buffers.trim() and len(buffers) == 10
    used = [buffers.take() for _ in range(3)]
    for buffer in used:
        buffers.give(buffer)
    assert buffers.trim() and len(buffers) == 3
    buffer = buffers.take()
    assert buffers.trim() and not len(buffers)  # one is still to come back
    buffers.give(buffer)
    assert buffers.trim() and not buffers.trim()
