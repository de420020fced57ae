"""The merge: what a stack of layers shows at a name, and in a directory.

A name is taken from the topmost layer that has it. Directories of the same name are merged downwards until a layer has
something else there, a whiteout, or an opaque directory.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from fuse.layers import Place


def merge_name(stack: Sequence[Place], name: bytes) -> tuple[Place, ...]:
    """Where a name is found below a directory's places, topmost first: one file, or directories; empty if nowhere."""
    merged: list[Place] = []
    last = len(stack) - 1
    for depth, directory in enumerate(stack):
        place = directory.layer.find(directory.ref, name)
        if place is None:
            continue
        if not stat.S_ISDIR(place.mode):
            return (place,) if place.mode and not merged else tuple(merged)
        merged.append(place)
        if depth != last and place.layer.opaque(place.ref):
            break
    return tuple(merged)


def merge_names(stack: Sequence[Place]) -> dict[bytes, tuple[Place, ...]]:
    """Every name that is visible in a directory, with its places."""
    if len(stack) == 1:
        directory = stack[0]
        return {name: (place,) for name, place in directory.layer.entries(directory.ref) if place.mode}
    merged: dict[bytes, tuple[Place, ...]] = {}
    settled: set[bytes] = set()
    last = len(stack) - 1
    for depth, directory in enumerate(stack):
        for name, place in directory.layer.entries(directory.ref):
            if name in settled:
                continue
            if not stat.S_ISDIR(place.mode):
                if place.mode and name not in merged:
                    merged[name] = (place,)
                settled.add(name)
                continue
            merged[name] = (*merged.get(name, ()), place)
            if depth != last and place.layer.opaque(place.ref):
                settled.add(name)
    return merged
