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
    for everything that was in it; in one that was replaced each name that is gone is DELETED.
    """
    root = upper.root()
    roots = tuple(layer.root() for layer in lowers)
    yield from _inside(b"", root, () if upper.opaque(root.ref) else roots, roots)


def _inside(path: bytes, directory: Place, below: tuple[Place, ...], hidden: tuple[Place, ...]) -> Iterator[Change]:
    """`below` is what is merged with the directory, `hidden` what was there before, visible or not."""
    before = merge_names(hidden)
    present = dict(directory.layer.entries(directory.ref))
    deleted = {name for name in before if (not present[name].mode if name in present else not below)}
    for name in sorted({name for name, place in present.items() if place.mode} | deleted):
        inner = path + b"/" + name if path else name
        if name in deleted:
            yield Change(ChangeKind.DELETED, inner, None)
            continue
        place = present[name]
        there = before.get(name, ())
        yield Change(ChangeKind.CHANGED if there else ChangeKind.ADDED, inner, place)
        if not stat.S_ISDIR(place.mode):
            continue
        was_directory = bool(there) and stat.S_ISDIR(there[0].mode)
        merged = () if place.layer.opaque(place.ref) or not below else merge_name(below, name)
        yield from _inside(
            inner,
            place,
            merged if merged and stat.S_ISDIR(merged[0].mode) else (),
            there if was_directory else (),
        )
