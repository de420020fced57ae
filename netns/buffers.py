"""Buffers that bytes from the host's sockets are received into, and that live until the guest has acknowledged them.

They are used again: to make 64 KiB anew for each read costs the kernel sixteen pages each time, which is a tenth of
what a gigabyte costs in all. The one returned last is the next to be used, being in the processor's cache.
"""

from __future__ import annotations

SIZE = 1 << 16
_MAX_FREE = 64


class Buffers:
    """A stack of free buffers of `SIZE` bytes, at most a few megabytes."""

    __slots__ = ("_away", "_free", "_idle")

    def __init__(self) -> None:
        self._free: list[bytearray] = []
        self._away = 0
        self._idle = 0  # how many were not used since the last call of `trim`

    def __len__(self) -> int:
        return len(self._free)

    def take(self) -> bytearray:
        """One with any content."""
        self._away += 1
        free = self._free
        if not free:
            return bytearray(SIZE)
        buffer = free.pop()
        if len(free) < self._idle:
            self._idle = len(free)
        return buffer

    def give(self, buffer: bytearray) -> None:
        """Take back a buffer that nobody looks at any more."""
        self._away -= 1
        if len(self._free) < _MAX_FREE:
            self._free.append(buffer)

    def trim(self) -> bool:
        """Let go of those that were not used since the last call; whether any are left, here or in use."""
        del self._free[: self._idle]
        self._idle = len(self._free)
        return bool(self._free or self._away)
