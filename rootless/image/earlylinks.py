"""Hard links that stand before the file they lead to, as some writers sort their archives."""

from __future__ import annotations

from collections.abc import Callable

from rootless.errors import ImageError
from rootless.oci.tar import TarEntry

EARLY_MAX = 100_000
"""Links of one layer that may wait at once: each is kept in memory."""


class LinkToNothing(ImageError):
    """A hard link whose target is not in the layer, or not yet."""


class EarlyLinks:
    """Hands entries on to `add`, which raises LinkToNothing for links that come too early; they come again in `finish`.

    A later entry of the same path takes a waiting link's place, as it would have taken the link's. Raises ImageError
    for too many, and LinkToNothing for those whose target never came.
    """

    def __init__(self, add: Callable[[TarEntry], None]) -> None:
        self._add = add
        self._waiting: dict[bytes, TarEntry] = {}

    def add(self, entry: TarEntry) -> None:
        """The next entry of the archive."""
        if self._waiting:
            self._waiting.pop(entry.path, None)
        try:
            self._add(entry)
        except LinkToNothing:
            self._waiting[entry.path] = entry
            if len(self._waiting) > EARLY_MAX:
                raise

    def finish(self) -> None:
        """All entries were added: make the links that waited, in their order, for as long as one can be made."""
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            missing: LinkToNothing | None = None
            for entry in waiting.values():
                try:
                    self._add(entry)
                except LinkToNothing as error:
                    missing = missing or error
                    self._waiting[entry.path] = entry
            if missing is not None and len(self._waiting) == len(waiting):
                raise missing
