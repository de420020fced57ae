"""What layers change of those below them, and what one image has that another has not: read from the layers' indexes.

Nothing is mounted and no file's content is read: files are the same if they are one file of one layer, or agree in
type, mode, owner, size, time, target and device. Paths are relative to the root, `b"etc/motd"`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fuse.changes import ChangeKind
from fuse.layers import Layer as Tree
from fuse.layers import Place
from fuse.merge import merge_name, merge_names

Places = tuple[Place, ...]
_LINKS_MAX = 40


class Difference(NamedTuple):
    """One path that differs."""

    kind: ChangeKind
    path: bytes
    before: Place | None
    after: Place | None
    leads: bool = False
    """A directory that is the same itself: there are differences in it."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How many files and directories a layer adds, changes and deletes; the bytes of the files that it brings."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    size: int = 0


def differences(after: Sequence[Tree], before: Sequence[Tree]) -> Iterator[Difference]:
    """What `after` shows and `before` does not, and the reverse: layers, topmost first.

    A directory comes before what is in it, siblings by name. A directory that is gone stands for all that was in it.
    Directories in which nothing differs are not looked into where both sides have them of the same layers.
    """
    return _inside(b"", _roots(before), _roots(after))


def layer_changes(trees: Sequence[Tree]) -> Iterator[Difference]:
    """What the topmost layer changes of those below it."""
    return differences(trees, trees[1:])


def summarize(trees: Sequence[Tree]) -> Summary:
    """What the topmost layer does. Its size counts a file of several names once."""
    added = changed = deleted = size = 0
    seen: set[int] = set()
    for change in layer_changes(trees):
        if change.kind is ChangeKind.DELETED:
            deleted += 1
        elif change.kind is ChangeKind.ADDED:
            added += 1
        elif not change.leads:
            changed += 1
        place = change.after
        if place is not None and stat.S_ISREG(place.mode) and place.ident not in seen and place.layer is trees[0]:
            seen.add(place.ident)
            size += place.layer.attributes(place.ref).size
    return Summary(added, changed, deleted, size)


def find(trees: Sequence[Tree], path: bytes) -> Places:
    """The places of a path, topmost first; none if it is not there. Symbolic links are not followed."""
    places = _roots(trees)
    for name in path.split(b"/") if path else ():
        if not places or not stat.S_ISDIR(places[0].mode):
            return ()
        places = merge_name(places, name)
    return places


def blame(trees: Sequence[Tree], path: bytes) -> list[tuple[int, Difference]]:
    """The layers that add, change or delete a path, the latest first, as positions in `trees`."""
    found = []
    for position in range(len(trees)):
        now, was = find(trees[position:], path), find(trees[position + 1 :], path)
        if _key(now) == _key(was):
            continue
        if not now:
            found.append((position, Difference(ChangeKind.DELETED, path, was[0], None)))
        elif not was:
            found.append((position, Difference(ChangeKind.ADDED, path, None, now[0])))
        elif not _same(was, now):
            found.append((position, Difference(ChangeKind.CHANGED, path, was[0], now[0])))
    return found


def resolve(trees: Sequence[Tree], path: bytes) -> bytes:
    """The path without symbolic links on the way; the last name is not followed. What is not there stays as it is."""
    done: list[bytes] = []
    todo = [name for name in path.split(b"/") if name not in (b"", b".")]
    links = 0
    while todo:
        name = todo.pop(0)
        if name == b"..":
            del done[-1:]
            continue
        places = find(trees, b"/".join([*done, name])) if todo else ()
        if places and stat.S_ISLNK(places[0].mode) and links < _LINKS_MAX:
            links += 1
            target = places[0].layer.readlink(places[0].ref)
            if target.startswith(b"/"):
                done = []
            todo[:0] = [part for part in target.split(b"/") if part not in (b"", b".")]
            continue
        done.append(name)
    return b"/".join(done)


def _same(was: Places, now: Places) -> bool:
    if stat.S_ISDIR(was[0].mode) and stat.S_ISDIR(now[0].mode):
        return _same_directory(was, now)
    return _same_file(was[0], now[0])


def _roots(trees: Sequence[Tree]) -> Places:
    roots = []
    for tree in trees:
        place = tree.root()
        roots.append(place)
        if tree.opaque(place.ref):
            break
    return tuple(roots)


def _key(places: Places) -> tuple[tuple[int, object], ...]:
    return tuple((id(place.layer), place.ref) for place in places)


def _inside(path: bytes, before: Places, after: Places) -> Iterator[Difference]:
    if _key(before) == _key(after):
        return
    old = merge_names(before) if before else {}
    new = merge_names(after) if after else {}
    for name in sorted(old.keys() | new.keys()):
        inner = path + b"/" + name if path else name
        was, now = old.get(name, ()), new.get(name, ())
        if not now:
            yield Difference(ChangeKind.DELETED, inner, was[0], None)
            continue
        if not stat.S_ISDIR(now[0].mode):
            if not was:
                yield Difference(ChangeKind.ADDED, inner, None, now[0])
            elif not _same_file(was[0], now[0]):
                yield Difference(ChangeKind.CHANGED, inner, was[0], now[0])
            continue
        was_directory = bool(was) and stat.S_ISDIR(was[0].mode)
        rest = _inside(inner, was if was_directory else (), now)
        if not was:
            yield Difference(ChangeKind.ADDED, inner, None, now[0])
        elif not was_directory or not _same_directory(was, now):
            yield Difference(ChangeKind.CHANGED, inner, was[0], now[0])
        else:
            first = next(rest, None)
            if first is None:
                continue
            yield Difference(ChangeKind.CHANGED, inner, was[0], now[0], leads=True)
            yield first
        yield from rest


def _same_directory(was: Places, now: Places) -> bool:
    """By mode and owner: adding a file to a directory changes its time."""
    old, new = (_effective(places) for places in (was, now))
    one, other = old.layer.attributes(old.ref), new.layer.attributes(new.ref)
    return (one.mode, one.uid, one.gid) == (other.mode, other.uid, other.gid)


def _effective(places: Places) -> Place:
    """Whose attributes hold: not those of a layer that only implies the directory."""
    return next((place for place in places if not place.layer.implicit(place.ref)), places[-1])


def _same_file(was: Place, now: Place) -> bool:
    if was.layer is now.layer and was.ident == now.ident:
        return True
    if was.mode != now.mode:
        return False
    one, other = was.layer.attributes(was.ref), now.layer.attributes(now.ref)
    if (one.uid, one.gid, one.rdev, one.mtime_ns) != (other.uid, other.gid, other.rdev, other.mtime_ns):
        return False
    if stat.S_ISREG(was.mode) and one.size != other.size:
        return False
    if stat.S_ISLNK(was.mode) and was.layer.readlink(was.ref) != now.layer.readlink(now.ref):
        return False
    return was.layer.xattrs(was.ref) == now.layer.xattrs(now.ref)
