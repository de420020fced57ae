"""Removing blobs and derived layers: out of everybody's sight at once, from the disk when there is time.

What goes is renamed into a workspace of its own in `tmp`, which is then removed, or by a later command if this one is
killed first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from rootless.errors import HostError
from rootless.image.blobs import Blobs
from rootless.image.removal import remove_tree
from rootless.image.workspace import Workspace
from rootless.oci.digest import Digest

Later = Callable[[Callable[[], None]], None]
"""Takes a task that can wait until the command has answered."""


class Garbage:
    """Removes from one store."""

    def __init__(self, path: str, tmp: str, blobs: Blobs) -> None:
        self._layers = os.path.join(path, "layers")
        self._tmp = tmp
        self._blobs = blobs

    def discard(self, blobs: Iterable[Digest], layers: Iterable[str], later: Later | None = None) -> int:
        """Remove blobs, and derived layers by the digits of their diffIDs; returns the bytes that the blobs had.

        With `later` only the renames are done here. Works on a full disk. Raises HostError.
        """
        paths = [f"{self._layers}/{name}" for name in layers]
        sizes = {digest: size for digest in blobs if (size := self._blobs.size(digest)) is not None}
        paths += [self._blobs.path(digest) for digest in sizes]
        if not paths:
            return 0
        space = Workspace(self._tmp)
        try:
            space.__enter__()
        except HostError:  # no room for a workspace: removed where they are
            remove_tree(space.path)
            for path in paths:
                remove_tree(path)
            return sum(sizes.values())
        for number, path in enumerate(paths):
            try:
                os.rename(path, space.file(str(number)))
            except FileNotFoundError:
                continue
            except OSError:  # no room for a longer directory
                remove_tree(path)
        if later is None:
            space.__exit__()
        else:
            later(space.__exit__)
        return sum(sizes.values())
