"""Names that come and go: making files, linking, removing.

A file appears with its owner and mode, or not at all: it is made in place where it is born with them, and otherwise in
the work directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from fuse.acl import ACCESS, DEFAULT, Acl
from fuse.files import with_set_id
from fuse.inodes import Directory, Inode
from fuse.layers import Place
from fuse.layers.directory import DirectoryFile
from fuse.ownership import Ownership
from fuse.ranges import Ranges
from fuse.stack import NAME_MAX, fail
from fuse.whiteout import is_reserved_name

_NO_ACLS: Mapping[bytes, bytes] = {}
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)  # rmdir(2) may say either


class Names(Ranges):
    """What `Ranges` can do, and names."""

    def create(self, directory: Directory, name: bytes, mode: int, uid: int, gid: int) -> Inode:
        """Make a regular file and open it for reading and writing."""
        inode = self.mknod(directory, name, stat.S_IFREG | stat.S_IMODE(mode), 0, uid, gid)
        self.open(inode, os.O_RDWR)
        return inode

    def mknod(
        self, directory: Directory, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int = 0
    ) -> Inode:
        """Make any file but a directory or a symbolic link; a device too, for the kernel asks who may first.

        `umask` takes permissions away unless the directory has a default access control list, which goes before it.
        """
        if stat.S_ISCHR(mode) and rdev == 0:
            fail(errno.EPERM)  # it would be a whiteout
        return self._make(directory, name, mode, uid, gid, rdev=rdev, umask=umask)

    def mkdir(self, directory: Directory, name: bytes, mode: int, uid: int, gid: int, umask: int = 0) -> Inode:
        return self._make(directory, name, stat.S_IFDIR | stat.S_IMODE(mode), uid, gid, umask=umask)

    def symlink(self, directory: Directory, name: bytes, target: bytes, uid: int, gid: int) -> Inode:
        return self._make(directory, name, stat.S_IFLNK | 0o777, uid, gid, target=target)

    def tmpfile(self, directory: Directory, mode: int, uid: int, gid: int, umask: int = 0) -> Inode:
        """open(2) with O_TMPFILE: a regular file without a name, which `link` may give it one."""
        upper = self._writable()
        parent = self.attributes(directory)
        mode, acls = self._begins_with(directory, stat.S_IFREG | mode, umask)
        fd = os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=upper.work_fd)
        try:
            if parent.mode & stat.S_ISGID:
                gid = parent.gid
            stored_uid = self._stored(self._upper_owners.uids.stored(uid))
            upper.give_open(fd, stored_uid, self._stored(self._upper_owners.gids.stored(gid)), mode)
            for key, value in acls.items():
                os.setxattr(fd, key, value)
            number = self._numbers.of(Place(upper, b"", stat.S_IFREG, os.fstat(fd).st_ino))
            if number in self.inodes:
                fail(errno.EAGAIN)
        except BaseException:
            os.close(fd)
            raise
        inode = Inode(number, stat.S_IFREG, None, b"", None)
        inode.file, inode.writable = DirectoryFile(fd), True
        if upper.ownership is Ownership.REAL:
            inode.set_id = with_set_id(mode)
        self.inodes[number] = inode
        return inode

    def link(self, inode: Inode, directory: Directory, name: bytes) -> Inode:
        """Give a file a further name."""
        self._check_new(directory, name)
        self.copy_up(inode)
        self.copy_up(directory)
        upper = self._writable()
        source, path = self._where(inode), self._path_of(directory, name)
        if self._below(directory, name) or not upper.link(source, path):
            if self._lookup_or_none(directory, name) is not None:
                fail(errno.EEXIST)
            scratch = upper.scratch()
            try:
                upper.link(source, scratch, dir_fd=upper.work_fd)
                upper.place(scratch, path)
            except BaseException:
                upper.discard(scratch)
                raise
        directory.renamed(name)
        inode.add_name(directory, name)
        inode.changed()
        return inode

    def unlink(self, directory: Directory, name: bytes) -> None:
        """Remove a name of a file that is no directory."""
        inode = self.lookup(directory, name)
        if isinstance(inode, Directory):
            fail(errno.EISDIR)
        self._part(inode)
        self.copy_up(directory)
        upper = self._writable()
        path = self._path_of(directory, name)
        if inode.upper:
            self._outlive(inode, path)
        if self._below(directory, name):
            upper.whiteout(path, over=inode.upper)
        else:
            os.unlink(path, dir_fd=upper.fd)
        self._lose_name(inode, directory, name)

    def rmdir(self, directory: Directory, name: bytes) -> None:
        """Remove an empty directory; ENOTEMPTY."""
        inode = self.lookup(directory, name)
        if not isinstance(inode, Directory):
            fail(errno.ENOTDIR)
        below = self._below(directory, name)
        if (below or inode.lowers) and self.listing(inode):
            fail(errno.ENOTEMPTY)
        self.copy_up(directory)
        upper = self._writable()
        path = self._path_of(directory, name)
        if not inode.upper:
            upper.whiteout(path, over=False)
        else:
            self._outlive_directory(inode, path)
            if below:
                upper.replace_directory_by_whiteout(path)
            else:
                self._remove_directory(inode, path)
        self._lose_name(inode, directory, name)

    def _remove_directory(self, inode: Directory, path: bytes) -> None:
        upper = self._writable()
        try:
            os.rmdir(path, dir_fd=upper.fd)
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            if self.listing(inode):
                self._weigh(inode)
                fail(errno.ENOTEMPTY)
            upper.clear_directory(path)  # whiteouts that nothing is below of any more
            os.rmdir(path, dir_fd=upper.fd)

    def _make(
        self,
        directory: Directory,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
        umask: int = 0,
    ) -> Inode:
        """Make a file with an owner, over a whiteout if there is one."""
        self._check_new(directory, name)
        stored_uid, stored_gid = uid, gid
        if not self._as_stored:
            stored_uid = self._stored(self._upper_owners.uids.stored(uid))
            stored_gid = self._stored(self._upper_owners.gids.stored(gid))
        below = self._below(directory, name)
        self.copy_up(directory)
        upper = self._writable()
        made = None
        acls = _NO_ACLS
        if directory.default_acl == b"":
            mode &= ~umask
        else:
            mode, acls = self._begins_with(directory, mode, umask)
        if not below and not acls and upper.born_with(mode, stored_uid, stored_gid):
            made = upper.make_in_place(name, mode, target=target, dir_fd=self._at(directory))
        if made is None:
            if self._lookup_or_none(directory, name) is not None:
                fail(errno.EEXIST)
            parent = self.attributes(directory)
            if parent.mode & stat.S_ISGID:
                stored_gid = self._stored(self._upper_owners.gids.stored(parent.gid))
                if stat.S_ISDIR(mode):
                    mode |= stat.S_ISGID
            path = self._path_of(directory, name)
            scratch = upper.scratch()
            try:
                made = *upper.make(scratch, mode, stored_uid, stored_gid, rdev=rdev, target=target, acls=acls), -1
                if below and stat.S_ISDIR(mode):
                    upper.make_opaque(scratch, dir_fd=upper.work_fd)
                upper.place(scratch, path)
            except BaseException:
                upper.discard(scratch)
                raise
        ident, found, fd = made
        directory.renamed(name)
        inode = self.adopt(directory, name, (Place(upper, name, mode, ident),))
        inode.found = found
        inode.bare = not acls
        if fd >= 0:
            inode.file, inode.writable = DirectoryFile(fd), True
            self._keep_open(inode)
        if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(mode) and upper.ownership is Ownership.REAL:
            inode.set_id = with_set_id(mode)
        if isinstance(inode, Directory):
            inode.names_above = set()
            inode.default_acl = acls.get(DEFAULT, b"") if self.acls else None
        return inode

    def _begins_with(self, directory: Directory, mode: int, umask: int) -> tuple[int, Mapping[bytes, bytes]]:
        """The mode and the access control lists of a file that is to be made in a directory."""
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFLNK:
            return mode, _NO_ACLS
        default = directory.default_acl
        if default is None:
            default = self._acl_or_none(directory, DEFAULT) if self.acls else None
            directory.default_acl = default = default or b""
        if not default:
            return mode & ~umask, _NO_ACLS
        mode, access = Acl.parse(default).inherited(mode)
        acls = {} if access is None else {ACCESS: access.to_bytes()}
        if kind == stat.S_IFDIR:
            acls[DEFAULT] = default
        return mode, acls

    # Before and after a name goes.

    def _part(self, inode: Inode) -> None:
        """Copy up a file of a layer that is to lose one of its names, for what is left is another number of links."""
        if not inode.upper:
            layer, ref, *_ = self._effective(inode)
            if layer.attributes(ref).nlink > 1:
                self.copy_up(inode)

    def _outlive(self, inode: Inode, path: bytes) -> None:
        """Before a name in the upper goes: see to it that the file can still be reached by those who hold it."""
        upper = self._writable()
        if inode.others:
            if upper.on_nfs and inode.file is not None:
                self._reopen(inode, path)
            return
        if self._numbers.is_kept(inode.number) or upper.has_overrides:
            status = os.stat(path, dir_fd=upper.fd, follow_symlinks=False)
            if status.st_nlink == 1:
                self._numbers.release(status.st_ino)
                upper.vanishing(status.st_ino, path)
        if inode.file is not None:
            if upper.on_nfs:
                self._reopen(inode, path)
        elif inode.anchor < 0 and inode.lookups > 0:
            inode.anchor = upper.anchor(path)

    def _reopen(self, inode: Inode, path: bytes) -> None:
        """Have a file open as its anchor would be, so that NFS leaves nothing in the place of its name."""
        anchor = self._writable().anchor(path)
        try:
            flags = (os.O_RDWR if inode.writable else os.O_RDONLY) | os.O_CLOEXEC
            reopened = os.open(b"/proc/self/fd/%d" % anchor, flags)
        finally:
            os.close(anchor)
        self._replace_file(inode, DirectoryFile(reopened), writable=inode.writable)

    def _outlive_directory(self, inode: Directory, path: bytes) -> None:
        """The same for a directory: it may be somebody's working directory."""
        upper = self._writable()
        if inode.anchor < 0:
            inode.anchor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upper.fd)
        if self._numbers.is_kept(inode.number) or upper.has_overrides:
            number = os.stat(inode.anchor).st_ino
            self._numbers.release(number)
            upper.vanishing(number, path)

    @staticmethod
    def _weigh(inode: Directory) -> None:
        """Let go of the anchor of a directory that stays, unless its path needs it."""
        if not inode.path.startswith(b"/"):
            os.close(inode.anchor)
            inode.anchor = -1

    def _lose_name(self, inode: Inode, directory: Directory, name: bytes) -> None:
        directory.renamed(name)  # a whiteout may stand there
        inode.drop_name(directory, name)
        if not inode.upper:
            inode.removed += 1
        inode.changed()
        self._drop_unused(inode)

    def _below(self, directory: Directory, name: bytes) -> bool:
        """Whether the layers show something at a name when the upper does not hide it."""
        return bool(directory.lowers and self._lower_places(directory, name))

    def _check_new(self, directory: Directory, name: bytes) -> None:
        """What can be said of a new name without looking."""
        self._writable()
        if is_reserved_name(name):
            fail(errno.EINVAL)
        if name in directory.children:
            fail(errno.EEXIST)
        if len(name) > NAME_MAX:
            fail(errno.ENAMETOOLONG)
        if directory.nameless:
            fail(errno.ENOENT)
