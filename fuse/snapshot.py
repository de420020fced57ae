"""What was in a directory when a program began to read it, at positions that stay."""

from __future__ import annotations

from fuse.layers import Place
from fuse.stack import Listing

_WASTE = 4
"""As many positions for each name that is left, and most of them are gaps."""


class Snapshot:
    """A program reads a directory in steps, and removes or makes files meanwhile; another reads it at the same time.

    Each says where it is by a position: an index in `entries`. So a name keeps its position for as long as it is there;
    what goes leaves a gap (None), and what comes is added at the end. Only where nearly all are gaps is it all new.
    """

    __slots__ = ("entries", "version")

    def __init__(self, listing: Listing, version: int) -> None:
        self.entries: list[tuple[bytes, tuple[Place, ...]] | None] = list(listing)
        self.version = version
        """That of the directory when this was right."""

    @classmethod
    def continued(cls, entries: Listing, listing: Listing, version: int) -> Snapshot:
        """For programs that may have read some of `entries`; by now the directory is what `listing` says."""
        snapshot = cls(entries, version)
        snapshot._update(listing)
        return snapshot

    def refresh(self, listing: Listing, version: int) -> None:
        """The directory has changed."""
        self.version = version
        if len(self.entries) > _WASTE * (len(listing) + 1):
            self.entries = list(listing)
            return
        self._update(listing)

    def _update(self, listing: Listing) -> None:
        present = dict(listing)
        entries = self.entries
        for position, entry in enumerate(entries):
            if entry is not None:
                name = entry[0]
                places = present.pop(name, None)
                entries[position] = None if places is None else (name, places)
        entries.extend(present.items())

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self.entries)} positions, version {self.version}>"
