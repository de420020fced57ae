"""Trees as the entries of an archive: what a container changed, or everything it shows.

Layers and the upper directory are read as they lie on the disk, by `fuse`; nothing is mounted. What overlays note for
themselves in attributes stays out, and so do sockets, which tar has no form for. A container may run meanwhile: what
goes while it is read is left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence

from fuse.changes import ChangeKind, changes
from fuse.layers import Layer as Tree
from fuse.layers import Place
from fuse.merge import merge_name, merge_names
from fuse.upper import CAPABILITY_XATTR
from fuse.whiteout import OPAQUE_MARKER, WHITEOUT_PREFIX, shown_xattr
from rootless.image.changed import GONE, Changed, without_namespace
from rootless.oci.tar import TarEntry
from rootless.oci.tarwriter import END, header, padding

_CHUNK = 1 << 20
_EMPTY = TarEntry(b"", stat.S_IFREG, 0, 0, 0, 0, 0, 0, b"", None, (), ())
_NOT_THE_IMAGES = (b"trusted.", b"security.selinux", b"security.ima", b"security.evm")
"""Attributes that this machine gives to files."""


class TreeArchive:
    """Writes an archive of trees to `write`, entry by entry. `notes` says what could not be in it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.notes: list[str] = []
        self._write = write
        self._names: dict[tuple[int, int], bytes] = {}

    def add_changes(self, upper: Tree, lowers: Sequence[Tree], *, left_out: Collection[bytes] = ()) -> None:
        """What `upper` changes of `lowers`, topmost first: the content of a layer.

        A directory that was replaced is marked opaque. The root is there if its owner or mode is another.
        """
        if _seen(upper.root()) != _root_of(lowers):
            self._add(b"", (upper.root(),))
        replaced: bytes | None = None
        for change in changes(upper, lowers):
            if change.path in left_out:
                continue
            inside = replaced is not None and change.path.startswith(replaced)
            place = change.place
            if place is None:
                if not inside:
                    above, slash, name = change.path.rpartition(b"/")
                    self._write(header(_EMPTY._replace(path=above + slash + WHITEOUT_PREFIX + name)))
                continue
            if not self._add(change.path, (place,)) or inside or change.kind is not ChangeKind.CHANGED:
                continue
            if stat.S_ISDIR(place.mode) and place.layer.opaque(place.ref):
                replaced = change.path + b"/"
                self._write(header(_EMPTY._replace(path=replaced + OPAQUE_MARKER)))

    def add_tree(self, stack: Sequence[Tree], *, left_out: Collection[bytes] = ()) -> None:
        """Everything that the stack shows, topmost first. What is `left_out` is so where only the topmost has it."""
        roots = []
        for tree in stack:
            roots.append(tree.root())
            if tree.opaque(roots[-1].ref):
                break
        self._add(b"", tuple(roots))
        self._add_inside(b"", tuple(roots), left_out)

    def finish(self) -> None:
        """Write the end of the archive."""
        self._write(END)

    def _add_inside(self, path: bytes, directory: tuple[Place, ...], left_out: Collection[bytes]) -> None:
        for name, places in sorted(merge_names(directory).items()):
            inner = path + b"/" + name if path else name
            if inner in left_out and len(places) == 1:
                continue
            if self._add(inner, places) and stat.S_ISDIR(places[0].mode):
                self._add_inside(inner, places, left_out)

    def _add(self, path: bytes, places: tuple[Place, ...]) -> bool:
        """Write the entry of a file. False if it is not in the archive: it has gone, or it is a socket."""
        place = next((each for each in places if not each.layer.implicit(each.ref)), places[0])
        try:
            found = place.layer.attributes(place.ref)
            if stat.S_ISSOCK(found.mode):
                self.notes.append(f"{_shown(path)} is a socket, which an archive cannot have")
                return False
            entry = _EMPTY._replace(
                path=path,
                mode=found.mode,
                uid=found.uid,
                gid=found.gid,
                mtime_ns=found.mtime_ns,
            )
            if found.nlink > 1 and not stat.S_ISDIR(found.mode):
                key = id(place.layer), place.ident
                first = self._names.setdefault(key, path)
                if first != path:
                    self._write(header(entry._replace(hardlink=first)))
                    return True
            entry = entry._replace(xattrs=self._xattrs(place))
            if stat.S_ISREG(found.mode):
                self._add_file(entry._replace(size=found.size), place)
                return True
            if stat.S_ISLNK(found.mode):
                entry = entry._replace(target=place.layer.readlink(place.ref))
            elif stat.S_ISCHR(found.mode) or stat.S_ISBLK(found.mode):
                entry = entry._replace(major=os.major(found.rdev), minor=os.minor(found.rdev))
        except OSError as error:
            if error.errno not in GONE or not isinstance(place.layer, Changed):
                raise
            self._names = {key: first for key, first in self._names.items() if first != path}
            return False
        self._write(header(entry))
        return True

    def _add_file(self, entry: TarEntry, place: Place) -> None:
        """As many bytes as the header says, whatever becomes of the file meanwhile."""
        file = place.layer.open(place.ref)
        try:
            self._write(header(entry))
            at = 0
            while at < entry.size:
                parts = file.pread_parts(at, min(_CHUNK, entry.size - at))
                count = sum(map(len, parts))
                if not count:
                    break
                for part in parts:
                    self._write(bytes(part))
                at += count
        finally:
            file.close()
        if at < entry.size:
            self.notes.append(f"{_shown(entry.path)} became shorter while it was read; the rest is zeros")
            while at < entry.size:
                count = min(_CHUNK, entry.size - at)
                self._write(bytes(count))
                at += count
        self._write(padding(entry.size))

    def _xattrs(self, place: Place) -> tuple[tuple[bytes, bytes], ...]:
        if not place.layer.may_have_xattrs:
            return ()
        found = []
        for stored, value in place.layer.xattrs(place.ref).items():
            name = shown_xattr(stored)
            if name is not None and not name.startswith(_NOT_THE_IMAGES):
                found.append((name, without_namespace(value) if name == CAPABILITY_XATTR else value))
        return tuple(sorted(found))


def _seen(place: Place) -> tuple[int, int, int]:
    """Mode and owner."""
    found = place.layer.attributes(place.ref)
    return found.mode, found.uid, found.gid


def _root_of(lowers: Sequence[Tree]) -> tuple[int, int, int]:
    """Mode and owner of the root directory, as an overlay shows it that nobody has written to."""
    for tree in lowers:
        root = tree.root()
        if not tree.implicit(root.ref):
            return _seen(root)
    return stat.S_IFDIR | 0o755, 0, 0


def mount_points(upper: Tree, lowers: Sequence[Tree], destinations: Sequence[str]) -> frozenset[bytes]:
    """Which paths of an upper directory are there for nothing but mounts at `destinations`.

    That is an empty file or directory that no layer has, and directories on the way to it with nothing else in them;
    one that a layer has as well counts if owner and mode are as there.
    """
    found: set[bytes] = set()
    paths = {destination.strip("/").encode("utf-8", "surrogateescape") for destination in destinations} - {b""}
    for path in sorted(paths, key=lambda path: path.count(b"/"), reverse=True):
        while path:
            if path not in found:
                if not _is_only_a_place(path, upper, lowers, found):
                    break
                found.add(path)
            path = path.rpartition(b"/")[0]
    return frozenset(found)


def _is_only_a_place(path: bytes, upper: Tree, lowers: Sequence[Tree], found: Collection[bytes]) -> bool:
    ours = _find([upper], path)
    if ours is None or not ours.mode:
        return False
    below = _find(lowers, path)
    if stat.S_ISDIR(ours.mode):
        if upper.opaque(ours.ref) and below is not None:
            return False
        names = [path + b"/" + name for name, _ in upper.entries(ours.ref)]
        if any(name not in found for name in names):
            return False
        if below is None:
            return True
        return bool(names) and _seen(ours) == _seen(below)
    return below is None and stat.S_ISREG(ours.mode) and not upper.attributes(ours.ref).size


def _find(trees: Sequence[Tree], path: bytes) -> Place | None:
    """What the stack shows at a path."""
    stack: tuple[Place, ...] = tuple(tree.root() for tree in trees)
    for name in path.split(b"/"):
        stack = merge_name(stack, name)
        if not stack:
            return None
    return next((each for each in stack if not each.layer.implicit(each.ref)), stack[0])


def _shown(path: bytes) -> str:
    return "/" + path.decode(errors="backslashreplace")
