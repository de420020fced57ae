"""The files that the kernel knows, and their numbers.

A number is also the `st_ino` that programs see, so it stays the same for as long as the mount lives, and for files of
archive layers from mount to mount of the same stack:

    1                 the root directory
    2 ...             files of archive layers: the sum of the sizes of the layers under it in the list, plus its ident
    k << 48 | ident   files of directory layers, k from 1 for the upper directory
    1 << 62 ...       where the above is taken or does not fit, in order of appearance

A file that is copied up keeps its number.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Sequence
from typing import Any

from fuse.attributes import Attributes
from fuse.layers import Layer, LayerFile, Place

ROOT_NUMBER = 1

_IDENT_BITS = 48

NAMES_KEPT = 5000
"""Of a directory with more names in the upper, they are not remembered."""


class Inode:
    """A file: in a layer (`place`), or in the upper directory (`upper`) at `name` in `parent`."""

    __slots__ = ("anchor", "bare", "file", "found", "lookups", "mode", "name", "number", "opens", "others", "parent",
                 "place", "removed", "reply", "set_id", "upper", "writable")  # fmt: skip

    def __init__(self, number: int, mode: int, parent: Directory | None, name: bytes, place: Place | None) -> None:
        self.number = number
        self.mode = stat.S_IFMT(mode)
        self.parent = parent
        self.name = name
        self.place = place
        self.upper = place is None
        self.lookups = 0  # how often the kernel was told of it and has not forgotten
        self.opens = 0
        self.file: LayerFile | None = None  # while it is open
        self.writable = False  # whether `file` is
        self.anchor = -1  # a descriptor that stands for a file whose name is gone
        self.others: set[tuple[Directory, bytes]] | None = None  # further names that were looked up
        self.removed = 0  # how many of its names were removed while it is in a layer
        self.reply: Any = None  # the adapter's rendering of the attributes, dropped when they change
        self.bare = False  # whether it was made here, and has no attributes but those that the kernel gives
        self.set_id = 0  # the permissions of a regular file with set-id bits, while it is open for writing
        self.found: Attributes | None = None  # what looking for it told; whoever asks for it takes it

    @property
    def nameless(self) -> bool:
        """Whether no name is known any more: the file was removed, or lives on under names not looked up yet."""
        return self.parent is None and self.number != ROOT_NUMBER

    def changed(self) -> None:
        """What is known of the attributes holds no longer."""
        self.reply = self.found = None

    def add_name(self, parent: Directory, name: bytes) -> None:
        if self.parent is None and self.number != ROOT_NUMBER:
            self.parent, self.name = parent, name
        elif (self.parent, self.name) != (parent, name):
            if self.others is None:
                self.others = set()
            self.others.add((parent, name))
        parent.children[name] = self

    def drop_name(self, parent: Directory, name: bytes) -> None:
        parent.children.pop(name, None)
        if (self.parent, self.name) == (parent, name):
            if self.others:
                self.parent, self.name = self.others.pop()
            else:
                self.parent = None
        elif self.others:
            self.others.discard((parent, name))

    def names(self) -> list[tuple[Directory, bytes]]:
        """The names that are known."""
        known = list(self.others or ())
        if self.parent is not None:
            known.insert(0, (self.parent, self.name))
        return known

    def __repr__(self) -> str:
        where = "upper" if self.upper else repr(self.place)
        return f"<{type(self).__name__} {self.number} {self.name!r} {where} lookups={self.lookups} opens={self.opens}>"


class Directory(Inode):
    """A directory: `lowers` are its places in the layers, topmost first; `upper` says whether the upper has it too."""

    __slots__ = (
        "at",
        "children",
        "default_acl",
        "listed",
        "lowers",
        "moves",
        "names_above",
        "path",
        "unsynced",
        "version",
    )

    def __init__(
        self, number: int, parent: Directory | None, name: bytes, lowers: tuple[Place, ...], *, upper: bool
    ) -> None:
        super().__init__(number, stat.S_IFDIR, parent, name, None)
        self.upper = upper
        self.lowers = lowers
        self.children: dict[bytes, Inode] = {}  # those that are known
        self.version = 0  # grows whenever a name comes or goes
        self.names_above: set[bytes] | None = None  # at least what the upper has in it, whiteouts too; None: not known
        self.listed = False  # whether it was tried to know them
        self.unsynced = False  # whether copy-up put names into it that no fsync has seen
        self.default_acl: bytes | None = None  # its default access control list; b"" without one, None: not known
        self.at = -1  # a descriptor of it in the upper, while files are made in it
        self.path = b""  # its path in the upper, as of the tree's move number `moves`
        self.moves = -1

    def drop_name(self, parent: Directory, name: bytes) -> None:
        super().drop_name(parent, name)
        self.moves = -1

    def renamed(self, name: bytes) -> None:
        """A name has come or gone, by a change in the upper."""
        self.hold(name)
        self.changed()
        self.version += 1

    def hold(self, name: bytes) -> None:
        """The upper has something at a name, or may have."""
        if self.names_above is not None:
            self.names_above.add(name)
            if len(self.names_above) > NAMES_KEPT:
                self.names_above = None


class Numbers:
    """Gives files their numbers."""

    def __init__(self, upper: Layer | None, layers: Sequence[Layer]) -> None:
        self._bases: dict[int, int] = {}
        base = ROOT_NUMBER + 1
        directories = itertools.count(2)
        for layer in reversed(layers):
            if layer.span is None:
                self._bases[id(layer)] = next(directories) << _IDENT_BITS
            else:
                self._bases[id(layer)] = base
                base += layer.span
        if upper is not None:
            self._bases[id(upper)] = 1 << _IDENT_BITS
        self.archives = sorted(
            ((self._bases[id(layer)], layer) for layer in layers if layer.span is not None), key=lambda pair: pair[0]
        )
        """Those layers, each with its first number, ascending."""
        self.archives_end = base
        """The first number that is none of theirs."""
        self._upper = upper
        self._fresh = itertools.count(1 << 62)
        self._assigned: dict[tuple[int, int], int] = {}

    def of(self, place: Place) -> int:
        """The number of the file at a place."""
        layer = id(place.layer)
        if self._assigned:
            number = self._assigned.get((layer, place.ident))
            if number is not None:
                return number
        if place.ident >> _IDENT_BITS and place.layer.span is None:
            return self.renew(place)
        return self._bases[layer] + place.ident

    def base(self, layer: Layer) -> int:
        """What is added to the idents of a layer."""
        return self._bases[id(layer)]

    def kept(self, place: Place, default: int) -> int:
        """The number that the file at a place was given by `keep` or `renew`, if it was."""
        return self._assigned.get((id(place.layer), place.ident), default)

    @staticmethod
    def is_kept(number: int) -> bool:
        """Whether a file of the upper has a number that does not follow from its inode number there."""
        return number >> _IDENT_BITS != 1

    def renew(self, place: Place) -> int:
        """A number never used before, kept for that place from now on."""
        number = next(self._fresh)
        self._assigned[id(place.layer), place.ident] = number
        return number

    def keep(self, ident: int, number: int) -> None:
        """A file came into the upper as `ident` and keeps the number that it had below."""
        self._assigned[id(self._upper), ident] = number

    def release(self, ident: int) -> None:
        """A file of the upper is gone; its file system may use `ident` again."""
        self._assigned.pop((id(self._upper), ident), None)
