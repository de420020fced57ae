"""The overlay: a view of stacked layers that can be changed, by writing to the upper directory.

Everything here is synchronous and knows nothing of FUSE. How changes are kept:

- a file of a layer is copied up, with the directories on the way to it, before it is changed;
- a removed name that a layer has is covered by a whiteout, a new directory in its place is opaque;
- a directory that layers have a part in is copied up with everything in it before it is renamed;
- all names of a file in a layer are copied up together where the layer knows them, so they stay one file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from fuse.copyup import CopyUp
from fuse.ids import Owners
from fuse.inodes import Directory, Inode
from fuse.layers import Buffer, Layer, Place
from fuse.layers.directory import DirectoryFile
from fuse.merge import merge_name
from fuse.ownership import Ownership
from fuse.syscalls import RenameFlag, renameat2
from fuse.upper import UpperDirectory
from fuse.view import View, fail
from fuse.whiteout import is_reserved_name, stored_xattr

class Tree(View):
    """Without an upper directory every change is EROFS. `durable=False` makes fsync do nothing."""

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
        self._copy = CopyUp(upper, self._layer_owners, self._upper_owners) if upper is not None else None

    # Writing.

    def open(self, inode: Inode, flags: int) -> None:
        """As `View.open`; what may write copies the file up, without its data if it is to be truncated."""
        if flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_TRUNC:
            super().open(inode, flags)
            return
        truncate = bool(flags & os.O_TRUNC)
        if not inode.upper:
            self.copy_up(inode, truncate=truncate)
            truncate = False
        file = self._open_upper(inode, write=True)
        if truncate:
            os.ftruncate(file.fd, 0)
            inode.reply = None
        inode.opens += 1

    def write(self, inode: Inode, offset: int, data: Buffer) -> int:
        """Write to a regular file, opened or not."""
        file = inode.file
        if not inode.writable or not isinstance(file, DirectoryFile):
            file = self._open_to_write(inode)
        inode.reply = None
        return os.pwrite(file.fd, data, offset)

    def fsync(self, inode: Inode, *, data_only: bool) -> None:
        if not self._durable:
            return
        if isinstance(inode.file, DirectoryFile):
            (os.fdatasync if data_only else os.fsync)(inode.file.fd)
        if inode.upper:
            self._writable().sync()

    def fsync_directory(self, directory: Directory) -> None:
        if not self._durable or not directory.upper or directory.nameless:
            return
        fd = os.open(self._where(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._writable().fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._writable().sync()

    def _open_to_write(self, inode: Inode) -> DirectoryFile:
        if inode.mode != stat.S_IFREG:
            fail(errno.EISDIR if inode.mode == stat.S_IFDIR else errno.EINVAL)
        self.copy_up(inode)
        file = self._open_upper(inode, write=True)
        if inode.opens == 0:
            self._keep_open(inode)
        return file

    # Changing a file.

    def chmod(self, inode: Inode, mode: int) -> None:
        self.copy_up(inode)
        if inode.mode == stat.S_IFLNK:
            fail(errno.EOPNOTSUPP)
        self._writable().chmod(self._where(inode), mode)
        inode.reply = None

    def chown(self, inode: Inode, uid: int | None, gid: int | None) -> None:
        """None leaves an id as it is. The set-id bits are the caller's business, except that they survive this."""
        self.copy_up(inode)
        self._writable().chown(
            self._where(inode),
            -1 if uid is None else self._stored(self._upper_owners.uids.stored(uid)),
            -1 if gid is None else self._stored(self._upper_owners.gids.stored(gid)),
        )
        inode.reply = None

    def truncate(self, inode: Inode, size: int) -> None:
        if not inode.upper:
            self.copy_up(inode, truncate=size == 0)
        if inode.writable and isinstance(inode.file, DirectoryFile):
            os.ftruncate(inode.file.fd, size)
        else:
            fd = os.open(self._where(inode), os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._writable().fd)
            try:
                os.ftruncate(fd, size)
            finally:
                os.close(fd)
        inode.reply = None

    def set_times(self, inode: Inode, atime_ns: int | None, mtime_ns: int | None) -> None:
        self.copy_up(inode)
        path = self._where(inode)
        follow = path.startswith(b"/")
        fd = self._writable().fd
        if atime_ns is None or mtime_ns is None:
            now = os.stat(path, dir_fd=fd, follow_symlinks=follow)
            atime_ns = now.st_atime_ns if atime_ns is None else atime_ns
            mtime_ns = now.st_mtime_ns if mtime_ns is None else mtime_ns
        os.utime(path, ns=(atime_ns, mtime_ns), dir_fd=fd, follow_symlinks=follow)
        inode.reply = None

    def drop_privileges(self, inode: Inode) -> None:
        """Clear the set-id bits of a regular file, as write(2) and truncate(2) do for users without CAP_FSETID.

        Capabilities in attributes are gone already: the kernel takes them away when we write, truncate or chown.
        """
        self.copy_up(inode)
        path = self._where(inode)
        follow = path.startswith(b"/")
        mode = stat.S_IMODE(self._writable().attributes(path).mode)
        dropped = mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:  # without it the bit once stood for mandatory locking
            dropped &= ~stat.S_ISGID
        if dropped != mode:
            self._writable().chmod(path, dropped)
            inode.reply = None

    def set_xattr(self, inode: Inode, name: bytes, value: bytes, flags: int = 0) -> None:
        """`flags` are those of setxattr(2)."""
        stored = stored_xattr(name)
        if stored is None:
            fail(errno.EPERM)
        self.copy_up(inode)
        path = self._where(inode)
        os.setxattr(self._writable().for_xattrs(path), stored, value, flags, follow_symlinks=path.startswith(b"/"))
        inode.reply = None

    def remove_xattr(self, inode: Inode, name: bytes) -> None:
        stored = stored_xattr(name)
        if stored is None:
            fail(errno.ENODATA)
        if not inode.upper:
            self.xattr(inode, name)  # nothing to remove is no reason to copy up
            self.copy_up(inode)
        path = self._where(inode)
        os.removexattr(self._writable().for_xattrs(path), stored, follow_symlinks=path.startswith(b"/"))
        inode.reply = None

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
        elif inode.parent is None:
            fd = self._copy.anonymous(place, truncate=truncate)
            self._replace_file(inode, DirectoryFile(fd), writable=True)
            inode.upper, inode.place, inode.reply = True, None, None
            return
        else:
            names = self._all_names(inode, place)
            for parent, _ in names:
                self.copy_up(parent)
            first = self._path_of(*names[0])
            self._copy.file(place, first, truncate=truncate)
            for parent, name in names[1:]:
                os.link(
                    first,
                    self._path_of(parent, name),
                    src_dir_fd=upper.fd,
                    dst_dir_fd=upper.fd,
                    follow_symlinks=False,
                )
        inode.upper, inode.place, inode.removed, inode.reply = True, None, 0, None
        self._numbers.keep(os.stat(self._where(inode), dir_fd=upper.fd, follow_symlinks=False).st_ino, inode.number)
        if inode.file is not None:
            fd = os.open(self._where(inode), os.O_RDONLY | os.O_CLOEXEC, dir_fd=upper.fd)
            self._replace_file(inode, DirectoryFile(fd), writable=False)

    def inherit_root(self) -> None:
        """Give an empty upper directory the attributes of the root below, as if it had been copied up."""
        upper = self._writable()
        if self._copy is not None and self.root.lowers and not upper.entries(b"."):
            self._copy.attributes(self._effective_lower(self.root), b".", upper.fd)
            self.root.reply = None

    # Changing names.

    def create(self, directory: Directory, name: bytes, mode: int, uid: int, gid: int) -> Inode:
        """Make a regular file and open it for reading and writing."""
        inode = self.mknod(directory, name, stat.S_IFREG | stat.S_IMODE(mode), 0, uid, gid)
        self.open(inode, os.O_RDWR)
        return inode

    def mknod(self, directory: Directory, name: bytes, mode: int, rdev: int, uid: int, gid: int) -> Inode:
        """Make any file but a directory or a symbolic link; a device too, for the kernel asks who may first."""
        if stat.S_ISCHR(mode) and rdev == 0:
            fail(errno.EPERM)  # it would be a whiteout
        make = self._writable().mknod
        return self._make(
            directory, name, mode, uid, gid, lambda path, fd: make(path, mode, rdev, dir_fd=fd), rdev=rdev
        )

    def mkdir(self, directory: Directory, name: bytes, mode: int, uid: int, gid: int) -> Inode:
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        return self._make(directory, name, mode, uid, gid, lambda path, fd: os.mkdir(path, 0o700, dir_fd=fd))

    def symlink(self, directory: Directory, name: bytes, target: bytes, uid: int, gid: int) -> Inode:
        mode = stat.S_IFLNK | 0o777
        return self._make(directory, name, mode, uid, gid, lambda path, fd: os.symlink(target, path, dir_fd=fd))

    def link(self, inode: Inode, directory: Directory, name: bytes) -> Inode:
        """Give a file a further name."""
        self._check_free(directory, name)
        self.copy_up(inode)
        self.copy_up(directory)
        upper = self._writable()
        source = self._where(inode)
        path = self._path_of(directory, name)
        covered = upper.find(self._path(directory), name) is not None
        scratch = upper.scratch() if covered else path
        os.link(
            source,
            scratch,
            src_dir_fd=upper.fd,
            dst_dir_fd=upper.work_fd if covered else upper.fd,
            follow_symlinks=source.startswith(b"/"),
        )
        if covered:
            upper.place(scratch, path)
        inode.add_name(directory, name)
        inode.reply = directory.reply = None
        directory.version += 1
        return inode

    def unlink(self, directory: Directory, name: bytes) -> None:
        """Remove a name of a file that is no directory."""
        inode = self.lookup(directory, name)
        if isinstance(inode, Directory):
            fail(errno.EISDIR)
        self.copy_up(directory)
        upper = self._writable()
        path = self._path_of(directory, name)
        below = self._below(directory, name)
        if inode.upper:
            self._outlive(inode, directory, name)
        if below:
            upper.whiteout(path)
        else:
            os.unlink(path, dir_fd=upper.fd)
        self._lose_name(inode, directory, name)

    def rmdir(self, directory: Directory, name: bytes) -> None:
        """Remove an empty directory; ENOTEMPTY."""
        inode = self.lookup(directory, name)
        if not isinstance(inode, Directory):
            fail(errno.ENOTDIR)
        if self.listing(inode):
            fail(errno.ENOTEMPTY)
        self.copy_up(directory)
        upper = self._writable()
        path = self._path_of(directory, name)
        below = self._below(directory, name)
        if not inode.upper:
            upper.whiteout(path)
        else:
            self._outlive_directory(inode, path)
            if below:
                upper.replace_directory_by_whiteout(path)
            else:
                upper.clear_directory(path)
                os.rmdir(path, dir_fd=upper.fd)
        self._lose_name(inode, directory, name)

    def rename(self, old: Directory, old_name: bytes, new: Directory, new_name: bytes, flags: int = 0) -> None:
        """renameat2(2) with NOREPLACE and EXCHANGE."""
        if flags & ~(RenameFlag.NOREPLACE | RenameFlag.EXCHANGE):
            fail(errno.EINVAL)
        if is_reserved_name(new_name):
            fail(errno.EINVAL)
        source = self.lookup(old, old_name)
        target = self._lookup_or_none(new, new_name)
        self._check_ancestry(source, new)
        if flags & RenameFlag.EXCHANGE:
            if target is None:
                fail(errno.ENOENT)
            self._check_ancestry(target, old)
            self._exchange(source, (old, old_name), target, (new, new_name))
            return
        if target is not None:
            if flags & RenameFlag.NOREPLACE:
                fail(errno.EEXIST)
            if target is source:
                return  # two names of one file
            self._check_replaceable(source, target)
        self._copy_up_whole(source)
        self.copy_up(old)
        self.copy_up(new)
        upper = self._writable()
        old_path, new_path = self._path_of(old, old_name), self._path_of(new, new_name)
        if target is not None and target.upper:
            if isinstance(target, Directory):
                self._outlive_directory(target, new_path)
                upper.clear_directory(new_path)
            else:
                self._outlive(target, new, new_name)
        if isinstance(source, Directory):
            if new.lowers:
                upper.make_opaque(old_path)
            covered = upper.find(self._path(new), new_name)
            if covered is not None and covered.mode == 0:
                upper.unlink_if_there(new_path)
        if self._below(old, old_name):
            upper.rename_leaving_whiteout(old_path, new_path)
        else:
            os.rename(old_path, new_path, src_dir_fd=upper.fd, dst_dir_fd=upper.fd)
        upper.drop_dotted_whiteout(new_path)
        if target is not None:
            self._lose_name(target, new, new_name)
        source.drop_name(old, old_name)
        source.add_name(new, new_name)
        source.reply = old.reply = new.reply = None
        old.version += 1
        new.version += 1

    def _exchange(
        self, first: Inode, at_first: tuple[Directory, bytes], second: Inode, at_second: tuple[Directory, bytes]
    ) -> None:
        upper = self._writable()
        for inode, (parent, _), other in ((first, at_first, at_second[0]), (second, at_second, at_first[0])):
            self._copy_up_whole(inode)
            self.copy_up(parent)
            if isinstance(inode, Directory) and other.lowers:
                upper.make_opaque(self._where(inode))
        renameat2(
            self._path_of(*at_first),
            self._path_of(*at_second),
            RenameFlag.EXCHANGE,
            old_dir_fd=upper.fd,
            new_dir_fd=upper.fd,
        )
        first.drop_name(*at_first)
        second.drop_name(*at_second)
        first.add_name(*at_second)
        second.add_name(*at_first)
        for inode in (first, second, at_first[0], at_second[0]):
            inode.reply = None
        at_first[0].version += 1
        at_second[0].version += 1

    def _make(
        self,
        directory: Directory,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        make: Callable[[bytes, int], None],
        *,
        rdev: int = 0,
    ) -> Inode:
        """Make a file with an owner, over a whiteout if there is one."""
        self._check_free(directory, name)
        parent = self.attributes(directory)
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        stored_uid = self._stored(self._upper_owners.uids.stored(uid))
        stored_gid = self._stored(self._upper_owners.gids.stored(gid))
        self.copy_up(directory)
        upper = self._writable()
        path = self._path_of(directory, name)
        covered = upper.find(self._path(directory), name) is not None
        apart = covered or upper.ownership is not Ownership.REAL  # so that it appears with its owner
        made, fd = (upper.scratch(), upper.work_fd) if apart else (path, upper.fd)
        make(made, fd)
        upper.give(made, stored_uid, stored_gid, mode, rdev, dir_fd=fd)
        if covered and stat.S_ISDIR(mode):
            upper.make_opaque(made, dir_fd=fd)
        if apart:
            upper.place(made, path)
        status = os.stat(path, dir_fd=upper.fd, follow_symlinks=False)
        directory.version += 1
        directory.reply = None
        return self.adopt(directory, name, (Place(upper, path, mode, status.st_ino),))

    def _copy_up_whole(self, inode: Inode) -> None:
        """Copy up a file, or a directory with everything in it, after which no layer has a part in it."""
        self.copy_up(inode)
        if not isinstance(inode, Directory) or not inode.lowers:
            return
        for name, places in self.listing(inode):
            child = self.adopt(inode, name, places)
            self._copy_up_whole(child)
            self._drop_unused(child)
        upper = self._writable()
        path = self._where(inode)
        upper.make_opaque(path)
        inode.lowers = ()
        self._numbers.keep(os.stat(path, dir_fd=upper.fd, follow_symlinks=False).st_ino, inode.number)

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

    def _outlive(self, inode: Inode, directory: Directory, name: bytes) -> None:
        """Before a name in the upper goes: see to it that the file can still be reached by those who hold it."""
        upper = self._writable()
        path = self._path_of(directory, name)
        status = os.stat(path, dir_fd=upper.fd, follow_symlinks=False)
        if status.st_nlink == 1:
            self._numbers.release(status.st_ino)
            upper.vanishing(status.st_ino, path)
        if inode.file is None and inode.anchor < 0 and not inode.others and (inode.lookups or status.st_nlink > 1):
            inode.anchor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upper.fd)

    def _outlive_directory(self, inode: Directory, path: bytes) -> None:
        """The same for a directory: it may be somebody's working directory."""
        upper = self._writable()
        inode.anchor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upper.fd)
        number = os.stat(inode.anchor).st_ino
        self._numbers.release(number)
        upper.vanishing(number, path)

    def _lose_name(self, inode: Inode, directory: Directory, name: bytes) -> None:
        inode.drop_name(directory, name)
        if not inode.upper:
            inode.removed += 1
        inode.reply = directory.reply = None
        directory.version += 1
        self._drop_unused(inode)

    def _below(self, directory: Directory, name: bytes) -> bool:
        """Whether the layers show something at a name when the upper does not hide it."""
        return bool(directory.lowers) and bool(merge_name(directory.lowers, name))

    def _lookup_or_none(self, directory: Directory, name: bytes) -> Inode | None:
        try:
            return self.lookup(directory, name)
        except FileNotFoundError:
            return None

    def _check_free(self, directory: Directory, name: bytes) -> None:
        self._writable()
        if is_reserved_name(name):
            fail(errno.EINVAL)
        if self._lookup_or_none(directory, name) is not None:
            fail(errno.EEXIST)
        if directory.nameless:
            fail(errno.ENOENT)

    def _check_ancestry(self, inode: Inode, directory: Directory) -> None:
        here: Directory | None = directory
        while here is not None:
            if here is inode:
                fail(errno.EINVAL)
            here = here.parent

    def _check_replaceable(self, source: Inode, target: Inode) -> None:
        if isinstance(target, Directory):
            if not isinstance(source, Directory):
                fail(errno.EISDIR)
            if self.listing(target):
                fail(errno.ENOTEMPTY)
        elif isinstance(source, Directory):
            fail(errno.ENOTDIR)

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
