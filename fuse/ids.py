"""Owners: the ids a layer stores against the ids that a mount shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Range = tuple[int, int, int]
"""(first stored id, first shown id, how many)."""

OVERFLOW_ID = 65534
"""What the kernel shows for an id that a namespace does not map (/proc/sys/kernel/overflowuid)."""

EVERY_ID: tuple[Range, ...] = ((0, 0, 2**32 - 1),)


@dataclass(frozen=True, slots=True)
class IdMap:
    """Stored ids to shown ids and back, by ranges, or everything squashed to one id."""

    ranges: tuple[Range, ...] = EVERY_ID
    squash: int | None = None
    """The id that every file shows, whatever is stored."""
    overflow: int | None = None
    """What an id outside the ranges shows, and is stored as, where that is settled."""

    @property
    def identity(self) -> bool:
        return self.squash is None and self.ranges == EVERY_ID

    def shown(self, stored: int) -> int:
        """What the mount shows for a stored id; one outside the map shows as the overflow id, or as 0 without that."""
        if self.squash is not None:
            return self.squash
        for first, show, size in self.ranges:
            if first <= stored < first + size:
                return stored - first + show
        if self.overflow is not None:
            return self.overflow
        for _, show, size in self.ranges:
            if show <= OVERFLOW_ID < show + size:
                return OVERFLOW_ID
        return 0

    def stored(self, shown: int) -> int | None:
        """What to store for an id that the kernel names; None outside the map, unless that is settled."""
        for first, show, size in self.ranges:
            if show <= shown < show + size:
                return shown - show + first
        return self.overflow


@dataclass(frozen=True, slots=True)
class Owners:
    """A map of uids and one of gids."""

    uids: IdMap = IdMap()
    gids: IdMap = IdMap()

    @property
    def identity(self) -> bool:
        return self.uids.identity and self.gids.identity

    @property
    def squashed(self) -> bool:
        return self.uids.squash is not None or self.gids.squash is not None


def owners(uidmap: Sequence[Range] | None, gidmap: Sequence[Range] | None) -> Owners:
    """Owners from triples; None keeps the ids as they are."""
    return Owners(
        IdMap() if uidmap is None else IdMap(tuple(uidmap)),
        IdMap() if gidmap is None else IdMap(tuple(gidmap)),
    )
