"""A stack of layers under an optional upper directory: which files there are, and where each of them is."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NoReturn

from fuse.attributes import Attributes
from fuse.crowd import MANY, Crowds
from fuse.glimpses import Glimpses
from fuse.ids import Owners
from fuse.inodes import NAMES_KEPT, ROOT_NUMBER, Directory, Inode, Numbers
from fuse.layers import Layer, Place
from fuse.layers.directory import DirectoryFile
from fuse.merge import merge_name, merge_names
from fuse.ownership import Ownership
from fuse.upper import UpperDirectory
from fuse.whiteout import is_reserved_name

NAME_MAX = 255

DIRECTORIES_HELD = 64
"""How many directories are kept open in which files were made, if that is no more than an eighth of all descriptors."""

LONG_PATH = 1500
"""Bytes; half of the kernel's limit is left for a name and for /proc/self/fd/N before it."""

Listing = list[tuple[bytes, tuple[Place, ...]]]


def fail(number: int) -> NoReturn:
    """Raise OSError of that errno."""
    raise OSError(number, os.strerror(number))


class Stack:
    """Files are `Inode`s; whoever holds one across calls counts it in `lookups` and gives it back with `forget`.

    `layers` are topmost first and belong to it, as the upper does. Owners are those that the mount shows.
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
        self._as_stored = self._upper_owners.identity
        """Whether the upper's owners are shown as they are stored."""
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
        self.acls = False
        """Whether access control lists are heeded, which an adapter turns on: else they are hidden."""
        self.beneath = False
        """Whether the kernel's overlayfs is mounted over this: then attributes that it heeds are hidden."""
        self._moves = 0  # how often directories got another path, by which the paths kept are known to hold
        self._held: deque[Directory] = deque()  # those that are open in the upper, oldest first
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_held = min(DIRECTORIES_HELD, self._descriptors // 8)
        self._unasked: OrderedDict[Inode, None] = OrderedDict()  # those open because of a read or write, oldest first

    @property
    def keeps_acls(self) -> bool:
        """Whether access control lists could be heeded: the upper can have them, with the ids that the mount shows."""
        return self._upper is None or (self._upper.takes_acls and self._as_stored)

    @property
    def may_have_xattrs(self) -> bool:
        return self._upper is not None or any(layer.may_have_xattrs for layer in self._layers)

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

    # Names.

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
            names = set(self._writable().listed(self._path(directory)))
            if len(names) <= NAMES_KEPT:
                directory.names_above = names
        return name in names

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

    def _at(self, directory: Directory) -> int:
        """A descriptor (O_PATH) of a directory that the upper has; it holds wherever the directory goes."""
        if directory.at < 0:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory.at = os.open(self._path(directory), flags, dir_fd=self._writable().fd)
            self._held.append(directory)
            if len(self._held) > self._most_held:
                oldest = self._held.popleft()
                if oldest.at >= 0:
                    os.close(oldest.at)
                    oldest.at = -1
        return directory.at

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

    # Letting go.

    def forget(self, inode: Inode, lookups: int) -> None:
        """Give back what was counted; a file that nobody holds is dropped."""
        inode.lookups -= lookups
        self._drop_unused(inode)

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
        if isinstance(inode, Directory) and inode.at >= 0:
            os.close(inode.at)
            inode.at = -1
