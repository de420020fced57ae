"""Answers to READDIR and READDIRPLUS.

The kernel says by a position where a program is in a directory, and nothing else: there is no OPENDIR here. Positions
0 and 1 are "." and "..", then come those of a `Snapshot` plus 2. A directory that is one archive layer's alone needs no
snapshot, for its names have an order of their own and are found by their place in it.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Callable

from fuse import protocol
from fuse.errors import LayerError
from fuse.inodes import Directory, Inode
from fuse.layers import Place
from fuse.snapshot import Snapshot
from fuse.tree import Tree

MOST_NAMES = 20_000
"""How many names the snapshots that are kept may have together; the newest is always kept."""

_PADDING = tuple(bytes(-length & 7) for length in range(8))
_DIRECTORY = stat.S_IFDIR >> 12


class Listings:
    """What programs see who read directories of a tree. `render` gives the rest of an answer about an inode."""

    def __init__(self, tree: Tree, valid: tuple[int, int], render: Callable[[Inode], bytes]) -> None:
        self._tree = tree
        self._valid = valid
        self._render = render
        self._glimpsed = tree.glimpses.lookups
        self._snapshots: OrderedDict[Directory, Snapshot] = OrderedDict()
        self._names = 0

    def read(self, directory: Directory, position: int, size: int, *, plus: bool) -> bytes:
        """At most `size` bytes from a position on: none at the end."""
        parts: list[bytes] = []
        for at in range(position, 2):
            inode: Inode = directory.parent or self._tree.root if at else directory
            if plus:
                parts.append(inode.reply or self._render(inode))
            parts.append(protocol.dirent(inode.number, at + 1, b".." if at else b".", _DIRECTORY))
        room = size - sum(map(len, parts))
        position = max(position, 2)
        try:
            whole = self._tree.whole(directory) if plus and directory not in self._snapshots else None
            if whole is not None:
                self._read_whole(parts, directory, whole, position, room)
            else:
                self._read_files(parts, directory, position, room, plus=plus)
        except (OSError, LayerError):
            if not parts:
                raise  # else the next request will meet it; what is in `parts` has been counted
        return b"".join(parts)

    def forget(self, directory: Directory) -> None:
        """Nobody reads it any more."""
        snapshot = self._snapshots.pop(directory, None)
        if snapshot is not None:
            self._names -= len(snapshot.entries)

    def rest(self) -> None:
        """Give back what can be had again."""
        for directory, snapshot in list(self._snapshots.items()):
            if snapshot.version == directory.version:
                self.forget(directory)

    def _read_whole(self, parts: list[bytes], directory: Directory, whole: Place, position: int, room: int) -> None:
        """A directory of one archive layer, with attributes."""
        tree, glimpsed, valid = self._tree, self._glimpsed, self._valid
        pack, entry = protocol.DIRENT.pack, protocol.entry
        fixed = protocol.DIRENT.size + 7 + protocol.ENTRY_OUT.size
        for name, known, number, attributes in tree.rows(directory, whole, position - 2):
            position += 1
            if not number:
                continue
            length = len(name)
            room -= fixed + length & ~7
            if room < 0:
                if known is not None:
                    tree.forget(known, 0)
                return
            if known is None:
                parts.append(entry(number, valid, attributes))
                glimpsed[number] += 1
                kind = attributes[0] >> 12
            else:
                parts.append(known.reply or self._render(known))
                known.lookups += 1
                kind = known.mode >> 12
            parts.append(pack(number, position, length, kind))
            parts.append(name + _PADDING[length & 7])

    def _read_files(self, parts: list[bytes], directory: Directory, position: int, room: int, *, plus: bool) -> None:
        """Any directory. Without `plus` it is names alone, which no kernel asks for that knows READDIRPLUS (3.9)."""
        tree, children = self._tree, directory.children
        snapshot = self._snapshot(directory, position)
        entries = snapshot.entries
        unchanged = snapshot.version == directory.version
        pack = protocol.DIRENT.pack
        fixed = protocol.DIRENT.size + 7 + (protocol.ENTRY_OUT.size if plus else 0)
        for at in range(position, len(entries) + 2):
            found = entries[at - 2]
            if found is None:
                continue
            name, places = found
            length = len(name)
            room -= fixed + length & ~7
            if room < 0:
                return
            known = children.get(name)
            if known is None:
                try:
                    glimpse = tree.glimpse_at(directory, name, places) if unchanged else tree.glimpse(directory, name)
                except FileNotFoundError:
                    room += fixed + length & ~7
                    continue
                if isinstance(glimpse, tuple):
                    number, attributes = glimpse
                    if plus:
                        self._glimpsed[number] += 1
                        parts.append(protocol.entry(number, self._valid, attributes))
                    parts.append(pack(number, at + 1, length, attributes[0] >> 12))
                    parts.append(name + _PADDING[length & 7])
                    continue
                known = glimpse
            if plus:
                try:
                    parts.append(known.reply or self._render(known))
                except (OSError, LayerError):
                    tree.forget(known, 0)
                    raise
                known.lookups += 1
            parts.append(pack(known.number, at + 1, length, known.mode >> 12))
            parts.append(name + _PADDING[length & 7])
            if not plus:
                tree.forget(known, 0)  # nobody was told of it

    def _snapshot(self, directory: Directory, position: int) -> Snapshot:
        """What the program at a position sees; one at the beginning sees what is there now."""
        snapshots = self._snapshots
        snapshot = snapshots.get(directory)
        if snapshot is not None:
            if position > 2 or snapshot.version == directory.version:
                return snapshot
            self._names -= len(snapshot.entries)
            snapshot.refresh(self._tree.listing(directory), directory.version)
        else:
            listing = self._tree.listing(directory)
            before = self._tree.order_below(directory)
            if before is None:
                snapshot = Snapshot(listing, directory.version)
            else:
                snapshot = Snapshot.continued(before, listing, directory.version)
            snapshots[directory] = snapshot
        self._names += len(snapshot.entries)
        while self._names > MOST_NAMES and len(snapshots) > 1:
            oldest = next(iter(snapshots))
            if oldest is directory:
                snapshots.move_to_end(directory)
                continue
            self.forget(oldest)
        return snapshot
