"""Files that the kernel knows and that are no objects here: those of archive layers that nothing has happened to.

Their number says in which layer they are and where (`fuse.inodes`), the layer says the rest. What remains is how often
the kernel was told of each, in four bytes. An `Inode` costs a hundred times as much, so it is made when it is needed.
"""

from __future__ import annotations

import bisect
import mmap
from collections.abc import Sequence

from fuse.ids import IdMap
from fuse.layers import Layer


class Glimpses:
    """`layers` are those with a `span`, each with its first number, ascending."""

    def __init__(self, layers: Sequence[tuple[int, Layer]], end: int) -> None:
        self._firsts = [first for first, _ in layers]
        self._layers = [layer for _, layer in layers]
        self.end = end
        """Numbers from here on are of other files."""
        self._memory = mmap.mmap(-1, max(1, end) * 4)  # pages that are never touched take no memory
        self.lookups = memoryview(self._memory).cast("I")
        """By number: how often the kernel was told of a file that is no object."""

    def where(self, number: int) -> tuple[Layer, int] | None:
        """The layer of a file, and its ident there; None if the kernel does not know it."""
        if not 2 <= number < self.end or not self.lookups[number]:
            return None
        at = bisect.bisect_right(self._firsts, number) - 1
        return self._layers[at], number - self._firsts[at]

    def take(self, number: int) -> int:
        """The lookups of a file that becomes an object, which counts them from now on."""
        if number >= self.end:
            return 0
        lookups = self.lookups[number]
        if lookups:
            self.lookups[number] = 0
        return lookups

    def forget(self, number: int, lookups: int) -> None:
        if 2 <= number < self.end:
            self.lookups[number] = max(0, self.lookups[number] - lookups)

    def close(self) -> None:
        self.lookups.release()
        self._memory.close()


class ShownIds(dict[int, int]):
    """What a mount shows for the ids that were asked for so far."""

    def __init__(self, ids: IdMap) -> None:
        self._ids = ids

    def __missing__(self, stored: int) -> int:
        shown = self[stored] = self._ids.shown(stored)
        return shown
