"""Files that can be changed: writing, attributes, and copy-up before either."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from fuse.acl import ACCESS, ACL_XATTRS, DEFAULT
from fuse.copyup import CopyUp
from fuse.ids import Owners
from fuse.inodes import Directory, Inode
from fuse.layers import Buffer, Layer, Place
from fuse.layers.directory import DirectoryFile
from fuse.ownership import Ownership
from fuse.stack import fail
from fuse.syscalls import set_times, set_times_of_open
from fuse.upper import CAPABILITY_XATTR, UpperDirectory, without_set_id
from fuse.view import View
from fuse.whiteout import stored_xattr
from fuse.workdir import is_open_file

CAPABLE = 1 << 16
"""In the place of set-id bits: the file has capabilities in an attribute that the kernel does not know."""


class Files(View):
    """What `View` can do, and changes of files. Without an upper directory every change is EROFS.

    `durable=False` makes fsync do nothing, and copy-up does not wait for the disk.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        upper: UpperDirectory | None = None,
        *,
        layer_owners: Owners | None = None,
        upper_owners: Owners | None = None,
        durable: bool = True,
    ) -> None:
        super().__init__(layers, upper, layer_owners=layer_owners, upper_owners=upper_owners)
        self._durable = durable
        self._copy = None
        if upper is not None:
            self._copy = CopyUp(upper, self._layer_owners, self._upper_owners, durable=durable)

    # Writing.

    def open(self, inode: Inode, flags: int) -> None:
        """As `View.open`; what may write copies the file up, without its data if it is to be truncated."""
        if flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_TRUNC:
            super().open(inode, flags)
            return
        truncate = bool(flags & os.O_TRUNC)
        if not inode.upper:
            self.copy_up(inode, truncate=truncate)
            if truncate:
                self.drop_privileges(inode)
            truncate = False
        file = self._open_to_change(inode)
        if truncate:
            os.ftruncate(file.fd, 0)  # which takes set-id bits away, as it should
            inode.set_id = with_set_id(without_set_id(inode.set_id))
            inode.changed()
        inode.opens += 1

    def write(self, inode: Inode, offset: int, data: Buffer) -> int:
        """Write to a regular file, opened or not. Set-id bits survive: whether they go, the kernel says."""
        file = inode.file
        if not inode.writable or not isinstance(file, DirectoryFile):
            file = self._open_to_write(inode)
        inode.changed()
        written = os.pwrite(file.fd, data, offset)
        if inode.set_id:
            self._after_write(inode, file.fd)
        return written

    def _after_write(self, inode: Inode, fd: int) -> None:
        """Give back the set-id bits that the kernel took, or take away the capabilities that it did not see."""
        if inode.set_id == CAPABLE:
            self._writable().remove_capabilities(self._where(inode))
            inode.set_id = 0
        else:
            os.fchmod(fd, inode.set_id)

    def fsync(self, inode: Inode, *, data_only: bool) -> None:
        """A file's name is then on the disk too, also where copy-up made the directories that lead to it."""
        if not self._durable or not inode.upper:
            return
        upper = self._writable()
        file = inode.file
        if isinstance(file, DirectoryFile):
            (os.fdatasync if data_only else os.fsync)(file.fd)
        elif inode.mode == stat.S_IFREG:
            _sync(self._where(inode), os.O_RDONLY, upper.fd)
        upper.sync()
        self._sync_way(inode.parent)

    def fsync_directory(self, directory: Directory) -> None:
        if not self._durable or not directory.upper or directory.nameless:
            return
        directory.unsynced = False
        upper = self._writable()
        _sync(self._where(directory), os.O_RDONLY | os.O_DIRECTORY, upper.fd)
        upper.sync()
        self._sync_way(directory.parent)

    def _sync_way(self, directory: Directory | None) -> None:
        """Sync the directories up to the root into which copy-up put names."""
        while directory is not None:
            if directory.unsynced:
                directory.unsynced = False
                _sync(self._where(directory), os.O_RDONLY | os.O_DIRECTORY, self._writable().fd)
            directory = directory.parent

    def _open_to_write(self, inode: Inode) -> DirectoryFile:
        if inode.mode != stat.S_IFREG:
            fail(errno.EISDIR if inode.mode == stat.S_IFDIR else errno.EINVAL)
        self.copy_up(inode)
        file = self._open_to_change(inode)
        if inode.opens == 0:
            self._keep_open(inode)
        return file

    def _open_to_change(self, inode: Inode) -> DirectoryFile:
        """As `_open_upper`; also find out whether a write of ours will take set-id bits away."""
        if inode.writable and isinstance(inode.file, DirectoryFile):
            return inode.file
        file = self._open_upper(inode, write=True)
        if not inode.bare:
            upper = self._writable()
            if upper.ownership is Ownership.REAL:
                inode.set_id = with_set_id(os.fstat(file.fd).st_mode)
            elif upper.has_capabilities_apart(self._where(inode)):
                inode.set_id = CAPABLE
        return file

    # Changing a file.

    def chmod(self, inode: Inode, mode: int) -> None:
        self.copy_up(inode)
        if inode.mode == stat.S_IFLNK:
            fail(errno.EOPNOTSUPP)
        self._chmod(inode, mode)

    def chown(self, inode: Inode, uid: int | None, gid: int | None) -> None:
        """None leaves an id as it is. Clears set-id bits and capabilities as chown(2) does."""
        self.copy_up(inode)
        self._writable().chown(
            self._where(inode),
            -1 if uid is None else self._stored(self._upper_owners.uids.stored(uid)),
            -1 if gid is None else self._stored(self._upper_owners.gids.stored(gid)),
        )
        if inode.mode != stat.S_IFDIR:
            inode.set_id = with_set_id(without_set_id(inode.set_id))
        inode.changed()

    def truncate(self, inode: Inode, size: int) -> None:
        if not inode.upper:
            self.copy_up(inode, truncate=size == 0)
        if inode.writable and isinstance(inode.file, DirectoryFile):
            os.ftruncate(inode.file.fd, size)
        else:
            os.truncate(self._writable().for_xattrs(self._where(inode)), size)
        if not inode.bare and self._writable().has_capabilities_apart(self._where(inode)):
            self._writable().remove_capabilities(self._where(inode))
        inode.changed()

    def set_times(self, inode: Inode, atime_ns: int | None, mtime_ns: int | None) -> None:
        """None leaves a time as it is."""
        self.copy_up(inode)
        file = inode.file
        if isinstance(file, DirectoryFile):
            set_times_of_open(file.fd, atime_ns, mtime_ns)
        else:
            path = self._where(inode)
            set_times(path, atime_ns, mtime_ns, dir_fd=self._writable().fd, follow=is_open_file(path))
        inode.changed()

    def drop_privileges(self, inode: Inode) -> None:
        """Clear the set-id bits of a regular file, as write(2) and truncate(2) do for users without CAP_FSETID.

        Capabilities in attributes are gone already: the kernel takes them away when we write, truncate or chown.
        """
        self.copy_up(inode)
        if inode.writable and not inode.set_id and not self._writable().has_overrides:
            return  # it is open, so they would be known
        path = self._where(inode)
        mode = stat.S_IMODE(self._writable().attributes(path).mode)
        dropped = without_set_id(mode)
        if dropped != mode:
            self._chmod(inode, dropped)
        elif inode.set_id and inode.set_id != CAPABLE:
            inode.set_id = with_set_id(mode)  # the kernel has taken them already

    def _chmod(self, inode: Inode, mode: int) -> None:
        upper = self._writable()
        file = inode.file
        upper.chmod(self._where(inode), mode, file.fd if isinstance(file, DirectoryFile) else -1)
        if inode.mode == stat.S_IFREG:
            inode.set_id = with_set_id(mode) if upper.ownership is Ownership.REAL else 0
        inode.changed()

    def set_xattr(self, inode: Inode, name: bytes, value: bytes, flags: int = 0) -> None:
        """`flags` are those of setxattr(2)."""
        stored = stored_xattr(name)
        if stored is None:
            fail(errno.EPERM)
        if name in ACL_XATTRS and not self.acls:
            fail(errno.EOPNOTSUPP)
        self.copy_up(inode)
        path = self._where(inode)
        inode.bare = False
        upper = self._writable()
        if stored == CAPABILITY_XATTR and upper.sets_security_apart:
            inode.set_id = CAPABLE
        os.setxattr(upper.for_xattrs(path), upper.xattr_key(stored), value, flags, follow_symlinks=is_open_file(path))
        inode.changed()
        if name == ACCESS and inode.set_id:
            inode.set_id = with_set_id(upper.attributes(path).mode)  # the list has changed the permissions
        elif name == DEFAULT and isinstance(inode, Directory):
            inode.default_acl = None

    def drop_set_gid(self, inode: Inode) -> None:
        """As setting an access control list does for users who are not of the file's group."""
        mode = self._writable().attributes(self._where(inode)).mode
        if mode & stat.S_ISGID:
            self._chmod(inode, stat.S_IMODE(mode) & ~stat.S_ISGID)

    def remove_xattr(self, inode: Inode, name: bytes) -> None:
        stored = stored_xattr(name)
        if stored is None:
            fail(errno.ENODATA)
        if name in ACL_XATTRS and self._acl_or_none(inode, name) is None:
            return  # which is no failure
        if not inode.upper:
            self.xattr(inode, name)  # nothing to remove is no reason to copy up
            self.copy_up(inode)
        path = self._where(inode)
        upper = self._writable()
        os.removexattr(upper.for_xattrs(path), upper.xattr_key(stored), follow_symlinks=is_open_file(path))
        inode.changed()
        if name == DEFAULT and isinstance(inode, Directory):
            inode.default_acl = None

    def _acl_or_none(self, inode: Inode, name: bytes) -> bytes | None:
        """An access control list, if there is one."""
        try:
            return self.xattr(inode, name)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return None

    def copy_up(self, inode: Inode, *, truncate: bool = False) -> None:
        """Make sure that a file is in the upper directory; `truncate` leaves its data behind."""
        if inode.upper:
            return
        upper = self._writable()
        assert self._copy is not None
        place = self._effective(inode)
        if isinstance(inode, Directory):
            if inode.parent is None:
                fail(errno.ENOENT)
            self.copy_up(inode.parent)
            self._copy.directory(place, self._where(inode))
            inode.parent.hold(inode.name)
            inode.parent.unsynced = True
            inode.names_above = set()
            inode.default_acl = None
        elif inode.parent is None:
            fd = self._copy.anonymous(place, truncate=truncate)
            self._replace_file(inode, DirectoryFile(fd), writable=True)
            if upper.ownership is Ownership.REAL:
                inode.set_id = with_set_id(place.layer.attributes(place.ref).mode)
            inode.upper, inode.place = True, None
            inode.changed()
            return
        else:
            names = self._all_names(inode, place)
            for parent, _ in names:
                self.copy_up(parent)
            self._copy.file(place, [self._path_of(parent, name) for parent, name in names], truncate=truncate)
            for parent, name in names:
                parent.hold(name)
                parent.unsynced = True
        inode.upper, inode.place, inode.removed = True, None, 0
        inode.changed()
        self._numbers.keep(os.stat(self._where(inode), dir_fd=upper.fd, follow_symlinks=False).st_ino, inode.number)
        if inode.file is not None:
            fd = os.open(self._where(inode), os.O_RDONLY | os.O_CLOEXEC, dir_fd=upper.fd)
            self._replace_file(inode, DirectoryFile(fd), writable=False)

    def inherit_root(self) -> None:
        """Give an empty upper directory the attributes of the root below, as if it had been copied up."""
        upper = self._writable()
        if self._copy is not None and self.root.lowers and not upper.entries(b"."):
            upper.remove_acls(b".")
            self._copy.attributes(self._effective_lower(self.root), b".", upper.fd)
            self.root.changed()

    def _all_names(self, inode: Inode, place: Place) -> list[tuple[Directory, bytes]]:
        """The names under which a file of a layer is visible: those known, and those the layer can tell."""
        if place.layer.attributes(place.ref).nlink > 1:
            for path in place.layer.names(place):
                *parents, name = path.split(b"/")
                here: Inode = self.root
                for step in parents:
                    found = self._lookup_or_none(here, step) if isinstance(here, Directory) else None
                    if found is None:
                        break
                    here = found
                else:
                    if isinstance(here, Directory):
                        self._lookup_or_none(here, name)  # which adds the name to the inode, if it is there
                self._drop_unused(here)
        return inode.names()

    def _lookup_or_none(self, directory: Directory, name: bytes) -> Inode | None:
        try:
            return self.lookup(directory, name)
        except FileNotFoundError:
            return None

    @staticmethod
    def _stored(number: int | None) -> int:
        if number is None:
            fail(errno.EINVAL)
        return number

    @staticmethod
    def _replace_file(inode: Inode, file: DirectoryFile, *, writable: bool) -> None:
        if inode.file is not None:
            inode.file.close()
        inode.file = file
        inode.writable = writable


def _sync(path: bytes, flags: int, dir_fd: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def with_set_id(mode: int) -> int:
    """The permissions of a file with set-id bits, 0 for any other."""
    return stat.S_IMODE(mode) if mode & (stat.S_ISUID | stat.S_ISGID) else 0
