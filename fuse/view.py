"""Looking at the files of a stack, and reading them: what needs no change."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence

from fuse.acl import ACL_XATTRS, Acl
from fuse.attributes import Attributes, from_stat
from fuse.glimpses import ShownIds
from fuse.ids import Owners
from fuse.inodes import Directory, Inode
from fuse.layers import Buffer, Layer, LayerFile, Place
from fuse.layers.archive import ArchiveLayer
from fuse.layers.directory import DirectoryFile, DirectoryLayer
from fuse.stack import NAME_MAX, Stack, fail
from fuse.upper import CAPABILITY_XATTR, UpperDirectory
from fuse.whiteout import is_overlay_xattr, shown_xattr, stored_xattr
from fuse.workdir import is_open_file

OPEN_FILES = 256
"""How many files that nobody opened are kept open after they were read or written, if that is no more than a quarter of
all descriptors."""

RECALLED = 1024
"""How many files of archive layers stay objects after the kernel asked for something about them."""

Row = tuple[bytes, Inode | None, int, Attributes]
"""Name, file, number, attributes."""

Glimpse = tuple[int, Attributes]
"""A file that needs no `Inode`: its number, and what stat(2) shows. See `fuse.glimpses`."""

_NOT_OF_BARE = ACL_XATTRS | {CAPABILITY_XATTR}
"""Attributes that the kernel asks for by itself."""

_NOTHING = Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class View(Stack):
    """What `Stack` can do, and reading. Owners are those that the mount shows."""

    def __init__(
        self,
        layers: Sequence[Layer],
        upper: UpperDirectory | None = None,
        *,
        layer_owners: Owners | None = None,
        upper_owners: Owners | None = None,
    ) -> None:
        super().__init__(layers, upper, layer_owners=layer_owners, upper_owners=upper_owners)
        self._most_open = min(OPEN_FILES, self._descriptors // 4)
        self._recalled: deque[Inode] = deque()
        self._glimpsed: tuple[int, LayerFile] | None = None  # what `glimpsed_parts` read last
        self._shown = ShownIds(self._layer_owners.uids), ShownIds(self._layer_owners.gids)

    # What the kernel is told, for which an `Inode` is made only where it has to be.

    def inode(self, number: int) -> Inode:
        """The file of that number; ESTALE if nobody holds it."""
        return self.inodes.get(number) or self.recall(number)

    def directory(self, number: int) -> Directory:
        inode = self.inode(number)
        if not isinstance(inode, Directory):
            fail(errno.ENOTDIR)
        return inode

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

    def recall(self, number: int) -> Inode:
        """The file of which the kernel had a glimpse; ESTALE."""
        layer, node = self._glimpsed_at(number)
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
            layer, node = self._glimpsed_at(number)
            place = layer.place(node)
            inode = Inode(number, place.mode, None, b"", place)
        return inode

    def _glimpsed_at(self, number: int) -> tuple[ArchiveLayer, int]:
        """The layer of a file of which the kernel had a glimpse, and the node there; ESTALE."""
        found = self.glimpses.where(number)
        if found is None:
            fail(errno.ESTALE)
        layer, node = found
        assert isinstance(layer, ArchiveLayer)
        return layer, node

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

    # Attributes.

    def attributes(self, inode: Inode) -> Attributes:
        """What stat(2) shows."""
        known, inode.found = inode.found, None
        if inode.upper:
            file = inode.file
            if known is not None:
                found = known
            elif isinstance(file, DirectoryFile) and not self._writable().has_overrides:
                found = from_stat(os.fstat(file.fd))  # needs no path
            elif isinstance(inode, Directory) and inode.at >= 0 and not self._writable().has_overrides:
                found = from_stat(os.fstat(inode.at))
            else:
                found = self._writable().attributes(self._where(inode))
            owners = None if self._as_stored else self._upper_owners
        else:
            place = self._effective(inode)
            found = place.layer.attributes(place.ref)
            owners = None if self._layer_owners.identity else self._layer_owners
            if inode.removed:
                found = found._replace(nlink=max(0, found.nlink - inode.removed))
        if isinstance(inode, Directory) and inode.lowers:
            found = found._replace(nlink=1)
        if owners is not None:
            found = found._replace(uid=owners.uids.shown(found.uid), gid=owners.gids.shown(found.gid))
        return found

    def readlink(self, inode: Inode) -> bytes:
        if inode.upper:
            if inode.anchor >= 0 and inode.nameless:
                return os.readlink(b"", dir_fd=inode.anchor)
            return os.readlink(self._where(inode), dir_fd=self._writable().fd)
        place = self._effective(inode)
        return place.layer.readlink(place.ref)

    def xattr(self, inode: Inode, name: bytes) -> bytes:
        """ENODATA where there is none of that name."""
        if inode.bare and name in _NOT_OF_BARE:
            fail(errno.ENODATA)
        if name in ACL_XATTRS:
            return self._acl(inode, name)
        stored = None if self.beneath and is_overlay_xattr(name) else stored_xattr(name)
        if stored is None:
            fail(errno.ENODATA)
        if inode.upper:
            path = self._where(inode)
            upper = self._writable()
            return os.getxattr(upper.for_xattrs(path), upper.xattr_key(stored), follow_symlinks=is_open_file(path))
        place = self._effective(inode)
        return place.layer.xattr(place.ref, stored)

    def _acl(self, inode: Inode, name: bytes) -> bytes:
        """The same for an access control list, with the ids that the mount shows."""
        if not self.acls:
            fail(errno.EOPNOTSUPP)
        if inode.upper:
            path = self._where(inode)
            return os.getxattr(self._writable().for_xattrs(path), name, follow_symlinks=is_open_file(path))
        place = self._effective(inode)
        try:
            value = place.layer.xattr(place.ref, name)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                fail(errno.ENODATA)
            raise
        found = Acl.parse(value)
        owners = self._layer_owners
        return (found if owners.identity else found.mapped(owners.uids.shown, owners.gids.shown)).to_bytes()

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
        shown = [name for name in map(shown_xattr, stored) if name is not None]
        if self.beneath:
            shown = [name for name in shown if not is_overlay_xattr(name)]
        return shown if self.acls else [name for name in shown if name not in ACL_XATTRS]

    def statfs(self) -> os.statvfs_result:
        """Of the upper's file system, or of that of the topmost directory layer, or of the root's."""
        if self._upper is not None:
            return os.statvfs(b"/proc/self/fd/%d" % self._upper.fd)
        for layer in self._layers:
            if isinstance(layer, DirectoryLayer):
                return os.statvfs(layer.path)
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
        layer, node = self._glimpsed_at(number)
        last = self._glimpsed
        if last is None or last[0] != number:
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
        """Have a file open that nobody opened; where there are too many, the first of them is closed."""
        unasked = self._unasked
        unasked[inode] = None
        if len(unasked) > self._most_open:
            oldest, _ = unasked.popitem(last=False)
            if oldest.opens == 0 and (oldest.anchor >= 0 or not oldest.nameless) and oldest.file is not None:
                oldest.file.close()
                oldest.file = None
                oldest.writable = False
