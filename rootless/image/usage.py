"""How much room the store takes. Sizes are bytes that are allocated on the disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rootless.image.model import Image
from rootless.image.store import Store

_UNIT = 512  # of st_blocks


@dataclass(frozen=True, slots=True)
class Usage:
    """What one image takes: with others, and alone."""

    shared: int
    unique: int

    @property
    def size(self) -> int:
        return self.shared + self.unique


def allocated(path: str) -> int:
    """A file, or a directory with all in it; files of several names count once. What cannot be read does not count."""
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = [path]
    while pending:
        here = pending.pop()
        try:
            status = os.lstat(here)
            if os.path.isdir(here) and not os.path.islink(here):
                pending += [f"{here}/{name}" for name in os.listdir(here)]
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            continue
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            if key in seen:
                continue
            seen.add(key)
        total += status.st_blocks * _UNIT
    return total


class StoreUsage:
    """The parts of a store with their sizes, as of one moment."""

    def __init__(self, store: Store, images: Sequence[Image]) -> None:
        self._parts = {image.id: _parts(store, image) for image in images}
        self._users = Counter(part for parts in self._parts.values() for part in parts)
        self._sizes = {part: allocated(part) for part in self._users}

    def of(self, image: Image) -> Usage:
        """What one of the images takes."""
        parts = self._parts[image.id]
        unique = sum(self._sizes[part] for part in parts if self._users[part] == 1)
        return Usage(sum(self._sizes[part] for part in parts) - unique, unique)

    def together(self, images: Iterable[Image]) -> int:
        """What several take, each part counted once."""
        parts = {part for image in images for part in self._parts[image.id]}
        return sum(self._sizes[part] for part in parts)


def _parts(store: Store, image: Image) -> set[str]:
    """Blobs, and directories of derived layers."""
    digests = {image.digest, image.manifest.config.digest, *(layer.blob for layer in image.layers)}
    return {store.blobs.path(digest) for digest in digests} | {store.layer_path(layer) for layer in image.layers}
