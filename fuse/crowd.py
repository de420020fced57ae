"""Names in directories that many layers share.

To look a name up is to ask every layer until one has it, and for a name that is missing, all of them. Where they are
many, the names of the directory are written down once, each with the topmost layer that says anything about it.
"""

from __future__ import annotations

from collections import OrderedDict

from fuse.layers import Place

MANY = 6
"""From so many layers on it is done."""
NAMES = 30_000
"""So many names are kept at most, of all directories together: five megabytes."""


class Crowds:
    """The directories that were asked about last. What a layer has does not change, so what is known stays right."""

    def __init__(self, limit: int = NAMES) -> None:
        self._limit = limit
        self._held = 0
        self._known: OrderedDict[int, tuple[tuple[Place, ...], dict[bytes, int] | None]] = OrderedDict()

    def narrowed(self, stack: tuple[Place, ...], name: bytes) -> tuple[Place, ...]:
        """The part of a stack that may have something to say about a name: from the topmost that has it."""
        found = self._known.get(id(stack))  # which holds the stack, so that it is this one
        depths = self._learn(stack) if found is None else found[1]
        if depths is None:
            return stack
        depth = depths.get(name)
        if depth is None:
            return ()
        return stack[depth:] if depth else stack

    def _learn(self, stack: tuple[Place, ...]) -> dict[bytes, int] | None:
        depths = self._depths(stack)
        self._known[id(stack)] = stack, depths
        self._held += len(depths or ()) + 1
        while self._held > self._limit and len(self._known) > 1:
            _, (_, dropped) = self._known.popitem(last=False)
            self._held -= len(dropped or ()) + 1
        return depths

    def _depths(self, stack: tuple[Place, ...]) -> dict[bytes, int] | None:
        """None if there are too many names."""
        depths: dict[bytes, int] = {}
        for depth, place in enumerate(stack):
            for name in place.layer.listed(place.ref):
                depths.setdefault(name, depth)
            if len(depths) > self._limit:
                return None
        return depths
