"""What an upper directory changes of the layers below: the content of `diff`, and of a new layer."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from fuse.layers import Layer, Place
from fuse.merge import merge_name, merge_names


class ChangeKind(Enum):
    """The letters of `docker diff`."""

    ADDED = "A"
    CHANGED = "C"
    DELETED = "D"


class Change(NamedTuple):
    kind: ChangeKind
    path: bytes
    """Relative to the root of the tree; b"" is the root itself."""
    place: Place | None
    """The file in the upper directory; None for what is deleted."""


def changes(upper: Layer, lowers: Sequence[Layer]) -> Iterator[Change]:
    """Every path that differs, a directory before what is in it, siblings by name; `lowers` are topmost first.

    A directory that only leads to changes is itself CHANGED, as Docker and Podman have it. A deleted directory stands
    for everything that was in it; in one that was replaced (it is opaque in the upper directory) each name that is gone
    is DELETED. Only such directories are listed in the lowers; for the rest, names of the upper are looked up there.
    """
    root = upper.root()
    lower_roots = []
    for layer in lowers:
        place = layer.root()
        lower_roots.append(place)
        if layer.opaque(place.ref):
            break
    yield from _inside(b"", root, tuple(lower_roots), replaced=upper.opaque(root.ref))


def _inside(path: bytes, directory: Place, before: tuple[Place, ...], *, replaced: bool) -> Iterator[Change]:
    """`before` is the directory without the upper; `replaced` says that nothing of it is to be seen any more."""
    present = dict(directory.layer.entries(directory.ref))
    if not before:
        there = {}
    elif replaced:
        there = merge_names(before)
    else:
        there = {name: places for name in present if (places := merge_name(before, name))}
    for name in sorted(present.keys() | there.keys()):
        inner = path + b"/" + name if path else name
        place = present.get(name)
        places = there.get(name, ())
        if place is None or not place.mode:
            if places:
                yield Change(ChangeKind.DELETED, inner, None)
            continue
        yield Change(ChangeKind.CHANGED if places else ChangeKind.ADDED, inner, place)
        if not stat.S_ISDIR(place.mode):
            continue
        was_directory = bool(places) and stat.S_ISDIR(places[0].mode)
        yield from _inside(
            inner, place, places if was_directory else (), replaced=replaced or place.layer.opaque(place.ref)
        )
