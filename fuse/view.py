"""A stack of layers under an optional upper directory, seen as one tree.

`View` finds files, keeps track of those that are known, and reads. What changes the tree is in `fuse.tree`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import NoReturn

from fuse.attributes import Attributes, from_stat
from fuse.crowd import MANY, Crowds
from fuse.glimpses import Glimpses, ShownIds
from fuse.ids import Owners
from fuse.inodes import NAMES_KEPT, ROOT_NUMBER, Directory, Inode, Numbers
from fuse.layers import Buffer, Layer, LayerFile, Place
from fuse.layers.archive import ArchiveLayer
from fuse.layers.directory import DirectoryFile
from fuse.merge import merge_name, merge_names
from fuse.ownership import Ownership
from fuse.upper import CAPABILITY_XATTR, UpperDirectory, is_open_file
from fuse.whiteout import is_reserved_name, shown_xattr, stored_xattr

NAME_MAX = 255

LONG_PATH = 1500
"""Bytes; half of the kernel's limit is left for a name and for /proc/self/fd/N before it."""

OPEN_FILES = 256
"""How many files that nobody opened are kept open after they were read or written."""

RECALLED = 1024
"""How many files of archive layers stay objects after the kernel asked for something about them."""

Listing = list[tuple[bytes, tuple[Place, ...]]]

Row = tuple[bytes, Inode | None, int, Attributes]
"""Name, file, number, attributes."""

Glimpse = tuple[int, Attributes]
"""A file that needs no `Inode`: its number, and what stat(2) shows. See `fuse.glimpses`."""


_NOTHING = Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def fail(number: int) -> NoReturn:
    """Raise OSError of that errno."""
    raise OSError(number, os.strerror(number))


class View:
    """Files are `Inode`s; whoever holds one across calls counts it in `lookups` and gives it back with `forget`.

    `layers` are topmost first and belong to the view, as the upper does. Owners are those that the mount shows.
    Errors are OSError with the errno that the caller of the system call sees, or LayerError where a layer is damaged.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        upper: UpperDirectory | None = None,
        *,
        layer_owners: Owners | None = None,
        upper_owners: Owners | None = None,
    ) -> None:
        self._layers = tuple(layers)
        for layer in self._layers:
            layer.prepare()
        self._upper = upper
        self._layer_owners = layer_owners or Owners()
        if upper_owners is None and upper is not None and upper.ownership is not Ownership.REAL:
            upper_owners = self._layer_owners
        self._upper_owners = upper_owners or Owners()
        self._numbers = Numbers(upper, self._layers)
        lowers: list[Place] = []
        if upper is None or not upper.opaque(b"."):
            for layer in self._layers:
                place = layer.root()
                lowers.append(place)
                if layer.opaque(place.ref):
                    break
        self.root = Directory(ROOT_NUMBER, None, b"", tuple(lowers), upper=upper is not None)
        self.root.lookups = 1
        self.inodes: dict[int, Inode] = {ROOT_NUMBER: self.root}
        self._crowds = Crowds()
        self.glimpses = Glimpses(self._numbers.archives, self._numbers.archives_end)
        self._recalled: deque[Inode] = deque()
        self._glimpsed: tuple[int, LayerFile] | None = None  # what `glimpsed_parts` read last
        self._shown = ShownIds(self._layer_owners.uids), ShownIds(self._layer_owners.gids)
        self._moves = 0  # how often directories got another path, by which the paths kept are known to hold
        self._unasked: OrderedDict[Inode, None] = OrderedDict()  # those open because of a read or write, oldest first

    def close(self) -> None:
        """Close every file and layer."""
        for inode in self.inodes.values():
            self._close_files(inode)
        self.inodes.clear()
        for layer in self._layers:
            layer.close()
        if self._upper is not None:
            self._upper.close()
        self.glimpses.close()

    # Looking.

    def inode(self, number: int) -> Inode:
        """The file of that number; ESTALE if nobody holds it."""
        return self.inodes.get(number) or self.recall(number)

    def directory(self, number: int) -> Directory:
        inode = self.inode(number)
        if not isinstance(inode, Directory):
            fail(errno.ENOTDIR)
        return inode

    def lookup(self, directory: Directory, name: bytes) -> Inode:
        """The file of that name; ENOENT."""
        child = directory.children.get(name)
        if child is not None:
            return child
        if len(name) > NAME_MAX:
            fail(errno.ENAMETOOLONG)
        places, found = self._find(directory, name)
        inode = self.adopt(directory, name, places)
        if found is not None:
            inode.found = found
        return inode

    def _find(self, directory: Directory, name: bytes) -> tuple[tuple[Place, ...], Attributes | None]:
        """The places of a name, and the attributes where they were found with it; ENOENT."""
        if not directory.upper:
            places = self._lower_places(directory, name)
        elif directory.nameless or is_reserved_name(name):
            fail(errno.ENOENT)
        elif not self._above(directory, name):
            places = self._lower_places(directory, name)
        elif directory.lowers:
            above = Place(self._writable(), self._path(directory), stat.S_IFDIR, 0)
            places = merge_name((above, *self._lower_stack(directory, name)), name)
        else:
            upper = self._writable()
            path = self._path_of(directory, name)
            found = upper.look(path)
            if found is None:
                fail(errno.ENOENT)
            ident, attributes = found
            return (Place(upper, path, attributes.mode, ident),), attributes
        if not places:
            fail(errno.ENOENT)
        return places, None

    def _lower_places(self, directory: Directory, name: bytes) -> tuple[Place, ...]:
        """Where a name is in the layers."""
        return merge_name(self._lower_stack(directory, name), name)

    def _lower_stack(self, directory: Directory, name: bytes) -> tuple[Place, ...]:
        """The layers of a directory that may have a name."""
        lowers = directory.lowers
        return lowers if len(lowers) < MANY else self._crowds.narrowed(lowers, name)

    def _above(self, directory: Directory, name: bytes) -> bool:
        """Whether the upper may have something at a name in a directory that it has."""
        names = directory.names_above
        if names is None:
            if directory.listed or not directory.lowers:
                return True
            directory.listed = True
            names = self._writable().names_in(self._path(directory))
            if len(names) <= NAMES_KEPT:
                directory.names_above = names
        return name in names

    def glimpse(self, directory: Directory, name: bytes) -> Inode | Glimpse:
        """As `lookup`, for telling the kernel: what needs no `Inode` gets none; `glimpses.lookups` counts it."""
        child = directory.children.get(name)
        if child is not None:
            return child
        if len(name) > NAME_MAX:
            fail(errno.ENAMETOOLONG)
        places, found = self._find(directory, name)
        if found is None:
            return self.glimpse_at(directory, name, places)
        inode = self.adopt(directory, name, places)
        inode.found = found
        return inode

    def glimpse_at(self, directory: Directory, name: bytes, places: tuple[Place, ...]) -> Inode | Glimpse:
        """As `adopt`, in the manner of `glimpse`."""
        layer, ref, mode, _ = places[0]
        if layer.span is not None and not stat.S_ISDIR(mode) and name not in directory.children:
            found = layer.attributes(ref)
            number = self._numbers.of(places[0])
            if found.nlink == 1 and number < self.glimpses.end and number not in self.inodes:
                uids, gids = self._shown
                uid, gid = uids[found.uid], gids[found.gid]
                if uid != found.uid or gid != found.gid:
                    found = found._replace(uid=uid, gid=gid)
                return number, found
        return self.adopt(directory, name, places)

    def whole(self, directory: Directory) -> Place | None:
        """Where all of a directory is, if that is one archive layer: then `rows` says what is in it."""
        if directory.upper or len(directory.lowers) != 1 or directory.nameless:
            return None
        place = directory.lowers[0]
        return place if place.layer.span is not None else None

    def rows(self, directory: Directory, whole: Place, skip: int) -> Iterator[Row]:
        """What is in such a directory, without its first `skip` names, for telling the kernel.

        Either there is an `Inode`, or the rest is right and `glimpses.lookups` counts. With number 0 it is nothing.
        """
        layer = whole.layer
        assert isinstance(layer, ArchiveLayer)
        base = self._numbers.base(layer)
        children = directory.children
        for node, name, fields in layer.rows(whole.ref, skip, *self._shown):
            known = children.get(name)
            if known is None:
                if fields is not None and base + node not in self.inodes:
                    yield name, None, base + node, fields
                    continue
                place = layer.place(node)
                if not place.mode:
                    yield name, None, 0, _NOTHING
                    continue
                known = self.adopt(directory, name, (place,))
            yield name, known, known.number, _NOTHING

    def row_names(self, directory: Directory, whole: Place, skip: int) -> Iterator[tuple[bytes, int, int]]:
        """Name, number and mode of what is in such a directory; with number 0 it is nothing."""
        layer = whole.layer
        assert isinstance(layer, ArchiveLayer)
        base = self._numbers.base(layer)
        children = directory.children
        for node, name, fields in layer.rows(whole.ref, skip, *self._shown):
            known = children.get(name)
            if known is not None:
                yield name, known.number, known.mode
            elif fields is not None:
                yield name, base + node, fields.mode
            else:
                place = layer.place(node)
                yield name, self._numbers.of(place) if place.mode else 0, place.mode

    def recall(self, number: int) -> Inode:
        """The file of which the kernel had a glimpse; ESTALE."""
        found = self.glimpses.where(number)
        if found is None:
            fail(errno.ESTALE)
        layer, node = found
        assert isinstance(layer, ArchiveLayer)
        inode: Inode = self.root
        for name in layer.path(node).split(b"/"):
            if not isinstance(inode, Directory):
                fail(errno.ESTALE)
            inode = self.lookup(inode, name)
        if inode.number != number:
            fail(errno.ESTALE)
        self._recalled.append(inode)
        if len(self._recalled) > RECALLED:
            self._fade(self._recalled.popleft())
        return inode

    def peek(self, number: int) -> Inode:
        """The file of that number, to ask something about it: an `Inode` that is held by nobody will do. ESTALE."""
        inode = self.inodes.get(number)
        if inode is None:
            found = self.glimpses.where(number)
            if found is None:
                fail(errno.ESTALE)
            layer, node = found
            assert isinstance(layer, ArchiveLayer)
            place = layer.place(node)
            inode = Inode(number, place.mode, None, b"", place)
        return inode

    def _fade(self, inode: Inode) -> None:
        """A file that was recalled need not stay an object, if nothing has happened to it."""
        parent = inode.parent
        if (
            inode.upper
            or inode.opens
            or inode.others
            or inode.removed
            or parent is None
            or self.inodes.get(inode.number) is not inode
        ):
            return
        self._close_files(inode)
        self.glimpses.lookups[inode.number] += inode.lookups
        del self.inodes[inode.number]
        del parent.children[inode.name]

    def listing(self, directory: Directory) -> Listing:
        """What is in a directory now, for `adopt`; without "." and ".."."""
        if directory.nameless:
            return []
        return list(merge_names(self._stack(directory)).items())

    def order_below(self, directory: Directory) -> Listing | None:
        """The names in the order that a directory has as long as it is one archive layer's alone, if it ever was."""
        if len(directory.lowers) != 1 or not directory.upper or directory.nameless:
            return None
        place = directory.lowers[0]
        if place.layer.span is None:
            return None
        return [(name, (found,)) for name, found in place.layer.entries(place.ref)]

    def adopt(self, directory: Directory, name: bytes, places: tuple[Place, ...]) -> Inode:
        """The file at places that `listing` or a merge found."""
        child = directory.children.get(name)
        if child is not None:
            return child
        top = places[0]
        in_upper = top.layer is self._upper
        if stat.S_ISDIR(top.mode):
            lowers = places[1:] if in_upper else places
            number = self._numbers.of(lowers[0] if lowers else top)
            if in_upper and lowers:
                number = self._numbers.kept(top, number)
            known = self.inodes.get(number)
            if known is not None:  # removed or moved away, and not forgotten yet
                number = self._numbers.renew(top)
            inode: Inode = Directory(number, directory, name, lowers, upper=in_upper)
            self.inodes[number] = inode
        else:
            number = self._numbers.of(top)
            known = self.inodes.get(number)
            if known is not None and in_upper and known.nameless and known.anchor < 0 and known.file is None:
                known = None
                number = self._numbers.renew(top)
            if known is None:
                inode = Inode(number, top.mode, directory, name, None if in_upper else top)
                inode.lookups = self.glimpses.take(number)
                self.inodes[number] = inode
            else:
                inode = known
                if inode.upper and not in_upper and not self._further_name(inode, directory, name):
                    inode = Inode(self._numbers.renew(top), top.mode, None, name, top)
                    self.inodes[inode.number] = inode
                inode.add_name(directory, name)
        directory.children[name] = inode
        return inode

    def number(self, places: tuple[Place, ...]) -> int:
        """The number that `adopt` would most likely give; it makes no promise and keeps nothing."""
        top = places[0]
        if len(places) == 1 or top.layer is not self._upper:
            return self._numbers.of(top)
        return self._numbers.kept(top, self._numbers.of(places[1]))

    def attributes(self, inode: Inode) -> Attributes:
        """What stat(2) shows."""
        known, inode.found = inode.found, None
        if inode.upper:
            file = inode.file
            if known is not None:
                found = known
            elif isinstance(file, DirectoryFile) and not self._writable().has_overrides:
                found = from_stat(os.fstat(file.fd))  # needs no path
            else:
                found = self._writable().attributes(self._where(inode))
            owners = self._upper_owners
        else:
            place = self._effective(inode)
            found = place.layer.attributes(place.ref)
            owners = self._layer_owners
            if inode.removed:
                found = found._replace(nlink=max(0, found.nlink - inode.removed))
        if isinstance(inode, Directory) and inode.lowers:
            found = found._replace(nlink=1)
        if not owners.identity:
            found = found._replace(uid=owners.uids.shown(found.uid), gid=owners.gids.shown(found.gid))
        return found

    def forget(self, inode: Inode, lookups: int) -> None:
        """Give back what was counted; a file that nobody holds is dropped."""
        inode.lookups -= lookups
        self._drop_unused(inode)

    def readlink(self, inode: Inode) -> bytes:
        if inode.upper:
            if inode.anchor >= 0 and inode.nameless:
                return os.readlink(b"", dir_fd=inode.anchor)
            return os.readlink(self._where(inode), dir_fd=self._writable().fd)
        place = self._effective(inode)
        return place.layer.readlink(place.ref)

    def xattr(self, inode: Inode, name: bytes) -> bytes:
        """ENODATA where there is none of that name."""
        stored = stored_xattr(name)
        if stored is None:
            fail(errno.ENODATA)
        if inode.upper:
            if inode.bare and name == CAPABILITY_XATTR:
                fail(errno.ENODATA)
            path = self._where(inode)
            upper = self._writable()
            return os.getxattr(upper.for_xattrs(path), upper.xattr_key(stored), follow_symlinks=is_open_file(path))
        place = self._effective(inode)
        return place.layer.xattr(place.ref, stored)

    def xattr_names(self, inode: Inode) -> list[bytes]:
        if inode.upper:
            path = self._where(inode)
            upper = self._writable()
            try:
                names = os.listxattr(upper.for_xattrs(path), follow_symlinks=is_open_file(path))
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                names = []
            found = (upper.xattr_of_key(os.fsencode(name)) for name in names)
            stored = [name for name in found if name is not None]
        else:
            place = self._effective(inode)
            stored = list(place.layer.xattrs(place.ref))
        return [name for name in map(shown_xattr, stored) if name is not None]

    def statfs(self) -> os.statvfs_result:
        """Of the upper's file system, or of that of the topmost directory layer, or of the root's."""
        if self._upper is not None:
            return os.statvfs(b"/proc/self/fd/%d" % self._upper.fd)
        for layer in self._layers:
            path = getattr(layer, "path", None)
            if path is not None:
                return os.statvfs(path)
        return os.statvfs(b"/")

    # Reading.

    def open(self, inode: Inode, flags: int) -> None:
        """Open a regular file; what follows names it by the inode. Each success needs a `release`."""
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            fail(errno.EROFS)
        if inode.file is None:
            if inode.upper:
                self._open_upper(inode, write=False)
            else:
                place = self._effective(inode)
                inode.file = place.layer.open(place.ref)
        inode.opens += 1

    def read(self, inode: Inode, offset: int, length: int) -> bytes:
        """Up to `length` bytes of a regular file, opened or not; fewer only at the end."""
        return (inode.file or self._open_unasked(inode)).pread(offset, length)

    def glimpsed_parts(self, number: int, offset: int, length: int) -> list[Buffer]:
        """The same of a file that the kernel had a glimpse of, which needs no `Inode` for that either; ESTALE."""
        found = self.glimpses.where(number)
        if found is None:
            fail(errno.ESTALE)
        last = self._glimpsed
        if last is None or last[0] != number:
            layer, node = found
            last = self._glimpsed = number, layer.open(node)
        return last[1].pread_parts(offset, length)

    def read_parts(self, inode: Inode, offset: int, length: int) -> list[Buffer]:
        """The same in pieces that are not copied."""
        return (inode.file or self._open_unasked(inode)).pread_parts(offset, length)

    def release(self, inode: Inode) -> None:
        inode.opens -= 1
        if inode.opens == 0 and not inode.nameless:
            self._close_files(inode)
        self._drop_unused(inode)

    # Where a file is.

    def _writable(self) -> UpperDirectory:
        if self._upper is None:
            fail(errno.EROFS)
        return self._upper

    def _stack(self, directory: Directory) -> tuple[Place, ...]:
        """A directory's places, topmost first."""
        if directory.nameless:
            return ()
        if directory.upper:
            return (Place(self._writable(), self._path(directory), stat.S_IFDIR, 0), *directory.lowers)
        return directory.lowers

    def _effective(self, inode: Inode) -> Place:
        """The place whose attributes a file of the layers has."""
        if isinstance(inode, Directory):
            return self._effective_lower(inode)
        if inode.place is None:
            fail(errno.ESTALE)
        return inode.place

    @staticmethod
    def _effective_lower(directory: Directory) -> Place:
        for place in directory.lowers:
            if not place.layer.implicit(place.ref):
                return place
        return directory.lowers[-1]

    def _path(self, directory: Directory) -> bytes:
        """The path of a directory in the upper; b"." is the root. ENOENT if it was removed.

        One that is too long starts at a descriptor of a directory on the way, so there is no limit to the depth.
        """
        names = []
        here = directory
        while here.moves != self._moves:
            if here.parent is None:
                if here is not self.root:
                    fail(errno.ENOENT)
                break
            if here.path.startswith(b"/"):
                here.moves = self._moves  # the descriptor has followed it
                break
            names.append(here.name)
            here = here.parent
        if here.path:
            names.append(here.path)
        names.reverse()
        path = b"/".join(names)
        if len(path) > LONG_PATH:
            directory.anchor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._writable().fd)
            path = b"/proc/self/fd/%d/." % directory.anchor
        directory.path, directory.moves = path, self._moves
        return path or b"."

    def _path_of(self, directory: Directory, name: bytes) -> bytes:
        path = directory.path if directory.moves == self._moves else self._path(directory)
        return path + b"/" + name if path and path != b"." else name

    def _where(self, inode: Inode) -> bytes:
        """A path for a file of the upper: its name there, or /proc/self/fd/N for what has no name any more; ESTALE."""
        if inode is self.root:
            return b"."
        if inode.parent is not None:
            return self._path_of(inode.parent, inode.name)
        if isinstance(inode.file, DirectoryFile):
            return b"/proc/self/fd/%d" % inode.file.fd
        if inode.anchor >= 0:
            return b"/proc/self/fd/%d" % inode.anchor
        fail(errno.ESTALE)

    def _open_upper(self, inode: Inode, *, write: bool) -> DirectoryFile:
        """The open file of an inode of the upper, reopened if it has to be writable and is not.

        It is readable even where the program only writes: the kernel reads what a partly written page lacks.
        """
        file = inode.file
        if isinstance(file, DirectoryFile) and (inode.writable or not write):
            return file
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC
        opened = DirectoryFile(os.open(self._where(inode), flags, dir_fd=self._writable().fd))
        if file is not None:
            file.close()
        inode.file = opened
        inode.writable = write
        return opened

    def _open_unasked(self, inode: Inode) -> LayerFile:
        """Open a file that is to be read though nobody opened it, and keep it open for a while."""
        if inode.mode != stat.S_IFREG:
            fail(errno.EISDIR if inode.mode == stat.S_IFDIR else errno.EINVAL)
        if inode.upper:
            file: LayerFile = self._open_upper(inode, write=False)
        else:
            place = self._effective(inode)
            file = inode.file = place.layer.open(place.ref)
        self._keep_open(inode)
        return file

    def _keep_open(self, inode: Inode) -> None:
        """Close the one that was opened first instead, where there are too many."""
        unasked = self._unasked
        unasked[inode] = None
        if len(unasked) > OPEN_FILES:
            oldest, _ = unasked.popitem(last=False)
            if oldest.opens == 0 and (oldest.anchor >= 0 or not oldest.nameless) and oldest.file is not None:
                oldest.file.close()
                oldest.file = None
                oldest.writable = False

    def _further_name(self, inode: Inode, directory: Directory, name: bytes) -> bool:
        """A name in a layer belongs to a file that was copied up: give the copy that name. False if it is gone."""
        if inode.nameless:
            return False
        upper = self._writable()
        os.link(
            self._where(inode),
            self._path_of(directory, name),
            src_dir_fd=upper.fd,
            dst_dir_fd=upper.fd,
            follow_symlinks=False,
        )
        directory.hold(name)
        return True

    # Letting go.

    def _drop_unused(self, inode: Inode) -> None:
        """Drop a file that nobody holds, and the directories that were only known on its behalf."""
        here: Inode | None = inode
        while here is not None and here.lookups <= 0 and here.opens == 0 and here is not self.root:
            if isinstance(here, Directory) and here.children:
                return
            parents = here.names()
            for parent, name in parents:
                parent.children.pop(name, None)
            self._close_files(here)
            if self.inodes.get(here.number) is here:
                del self.inodes[here.number]
            for parent, _ in parents[1:]:
                self._drop_unused(parent)
            here = parents[0][0] if parents else None

    def _close_files(self, inode: Inode) -> None:
        if inode.file is not None:
            self._unasked.pop(inode, None)
            inode.file.close()
            inode.file = None
            inode.writable = False
        if inode.anchor >= 0:
            os.close(inode.anchor)
            inode.anchor = -1
