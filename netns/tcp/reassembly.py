"""Segments that arrived ahead of their turn."""

from __future__ import annotations

from bisect import bisect_left

from netns.wire.error import Buffer

# More gaps than this at once is no network's doing; what does not fit is sent again by the peer.
_MAX_PIECES = 64


class Reassembly:
    """Disjoint pieces of the stream, sorted by (unwrapped) sequence number.

    The caller only offers bytes inside its receive window, which bounds the memory.
    """

    __slots__ = ("_data", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._data: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, payload: Buffer) -> None:
        """Keep a copy of `payload`, which begins at `start`; where pieces overlap, the first to come stays."""
        data = bytes(payload)
        place = bisect_left(self._starts, start)
        if place and (over := self._starts[place - 1] + len(self._data[place - 1]) - start) > 0:
            data = data[over:]
            start += over
        while data and place < len(self._starts) and (limit := self._starts[place]) < start + len(data):
            if limit > start:
                if len(self._starts) >= _MAX_PIECES:
                    return
                self._starts.insert(place, start)
                self._data.insert(place, data[: limit - start])
                place += 1
            after = limit + len(self._data[place])
            data = data[max(0, after - start) :]
            start = after
            place += 1
        if data and len(self._starts) < _MAX_PIECES:
            self._starts.insert(place, start)
            self._data.insert(place, data)

    def take(self, position: int) -> bytes | None:
        """The piece that continues the stream at `position`, or None; call again with the advanced position."""
        while self._starts and self._starts[0] <= position:
            start = self._starts.pop(0)
            data = self._data.pop(0)
            if start + len(data) > position:
                return data[position - start :]
        return None

    def clear(self) -> None:
        self._starts.clear()
        self._data.clear()
