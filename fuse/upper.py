"""The writable directory on top: what a directory layer is, and the ways to change it.

Where owners, modes and devices cannot be real, they are kept as `fuse.ownership` says; everything that reads or changes
them goes through here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import suppress

from fuse.acl import ACCESS, DEFAULT
from fuse.attributes import Attributes, from_stat
from fuse.layers.directory import DirectoryLayer
from fuse.marks import UNSUPPORTED, MarkedDirectory
from fuse.override import CONTAINERS_XATTR, PERMISSIONS, SET_APART, Override
from fuse.ownership import Overrides, Ownership, real_mode, stand_ins, write_with, written_with
from fuse.workdir import is_open_file

CAPABILITY_XATTR = b"security.capability"
"""The kernel asks for it before it lets anybody write."""


class UpperDirectory(MarkedDirectory):
    """What `MarkedDirectory` can do, and files with owners and modes. Paths are as there."""

    def __init__(
        self,
        path: str | bytes,
        work: str | bytes,
        *,
        ownership: Ownership = Ownership.AUTO,
        override: bytes = CONTAINERS_XATTR,
        squashed: bool = False,
    ) -> None:
        """`override` is the attribute for Ownership.XATTR, in a directory that was not written with another one.

        `squashed`: nobody will see the owners, so with real ones it is no failure that a file cannot have its own.
        """
        super().__init__(path, work)
        self._squashed = squashed
        self._own = (os.geteuid(), os.getegid())
        takes_acls = self._probe_acls()
        try:
            self._overrides = write_with(self._proc, self._work_fd, ownership, scratch=self.probe, name=override)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(self.probe, dir_fd=self._work_fd)
        self.takes_acls = takes_acls and self.ownership is Ownership.REAL
        """Whether files can have access control lists."""

    @property
    def has_overrides(self) -> bool:
        """Whether anything is kept otherwise than really."""
        return self._overrides is not None

    @property
    def ownership(self) -> Ownership:
        """How owners are kept: with REAL, ids are those of this user namespace, else those that layers store."""
        return Ownership.REAL if self._overrides is None else self._overrides.ownership

    def close(self) -> None:
        if self._overrides is not None:
            self._overrides.close()
        super().close()

    # Making files.

    def born_with(self, mode: int, uid: int, gid: int) -> bool:
        """Whether a file has that owner and mode from the moment that `make_in_place` makes it."""
        return (
            (uid, gid) == self._own
            and not mode & (stat.S_ISUID | stat.S_ISGID)
            and stat.S_IFMT(mode) not in (stat.S_IFCHR, stat.S_IFBLK)
            and self.ownership is Ownership.REAL
        )

    def make_in_place(
        self, name: bytes, mode: int, *, target: bytes, dir_fd: int
    ) -> tuple[int, Attributes, int] | None:
        """Make what is `born_with` its owner: its inode number and attributes. None if something is there already.

        A regular file is open then, for reading and writing, by the descriptor that comes last and is the caller's.
        """
        opened = -1
        try:
            if stat.S_ISREG(mode):
                flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
                opened = os.open(name, flags, stat.S_IMODE(mode), dir_fd=dir_fd)
                status = os.fstat(opened)
            else:
                self._make(name, mode, target, dir_fd)
                status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileExistsError:
            return None
        if (status.st_mode ^ mode) & 0o1777 and not stat.S_ISLNK(mode):
            os.chmod(name, mode & 0o1777 | status.st_mode & (stat.S_ISUID | stat.S_ISGID), dir_fd=dir_fd)
            status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        if self._overrides is not None:
            self._overrides.made_really(status.st_ino)
        return status.st_ino, from_stat(status), opened

    def make(
        self, scratch: bytes, mode: int, uid: int, gid: int, *, rdev: int, target: bytes, acls: Mapping[bytes, bytes]
    ) -> tuple[int, Attributes]:
        """Make any file in the work directory: its inode number and attributes.

        `acls` are access control lists, in agreement with `mode`.
        """
        fd = self._work_fd
        if stat.S_IFMT(mode) in (stat.S_IFDIR, stat.S_IFLNK):
            self._make(scratch, stat.S_IFMT(mode) | 0o700, target, fd)
        else:
            self.mknod(scratch, mode, rdev, dir_fd=fd)
        self.give(scratch, uid, gid, mode, rdev, dir_fd=fd)
        for name, value in acls.items():
            os.setxattr(b"/proc/self/fd/%d/%s" % (fd, scratch), name, value, follow_symlinks=False)
        status = os.stat(scratch, dir_fd=fd, follow_symlinks=False)
        found = from_stat(status)
        if self._overrides is not None and (self.ownership is not Ownership.REAL or stat.S_IFMT(found.mode ^ mode)):
            found = Override(uid, gid, mode, rdev).over(found)
        return status.st_ino, found

    @staticmethod
    def _make(path: bytes, mode: int, target: bytes, fd: int) -> None:
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFDIR:
            os.mkdir(path, stat.S_IMODE(mode), dir_fd=fd)
        elif kind == stat.S_IFLNK:
            os.symlink(target, path, dir_fd=fd)
        else:
            os.mknod(path, mode, dir_fd=fd)

    # Owners, modes and types.

    def look(self, path: bytes) -> tuple[int, Attributes] | None:
        """The inode number and attributes of a file; None if there is none, or a whiteout."""
        try:
            status = os.stat(path, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if self._is_whiteout(status, path):
            return None
        if self._overrides is None:
            return status.st_ino, from_stat(status)
        return status.st_ino, self._overrides.attributes(self.for_xattrs(path), status)

    def attributes(self, ref: bytes) -> Attributes:
        follow = is_open_file(ref)
        status = os.stat(ref, dir_fd=self._fd, follow_symlinks=follow)
        if self._overrides is None:
            return from_stat(status)
        return self._overrides.attributes(self.for_xattrs(ref), status, follow=follow)

    def mknod(self, path: bytes, mode: int, rdev: int, *, dir_fd: int) -> None:
        """Make a file that `give` makes complete: of its type, or an empty regular one that will stand for it."""
        kind = stat.S_IFMT(mode)
        if self.ownership is Ownership.REAL:
            try:
                os.mknod(path, kind | 0o600, rdev, dir_fd=dir_fd)
            except PermissionError:
                if kind not in (stat.S_IFCHR, stat.S_IFBLK):
                    raise
            else:
                return
        os.mknod(path, stat.S_IFREG | 0o600, dir_fd=dir_fd)

    def give(self, path: bytes, uid: int, gid: int, mode: int, rdev: int = 0, *, dir_fd: int) -> None:
        """Give a file that was just made its owner and mode. `mode` has type bits."""
        kind = stat.S_IFMT(mode)
        if self.ownership is not Ownership.REAL:
            self._put(path, Override(uid, gid, mode, rdev), _bearer(kind), dir_fd)
            if kind in (stat.S_IFREG, stat.S_IFDIR):
                os.chmod(path, real_mode(mode), dir_fd=dir_fd)
            return
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                if self._overrides is None:
                    self._overrides = stand_ins(self._work_fd)
                self._put(path, Override(uid, gid, mode, rdev), stat.S_IFREG, dir_fd)
                return
        if self._overrides is not None:
            self._overrides.made_really(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_ino)
        self._chown(path, uid, gid, dir_fd, follow=False)
        if kind != stat.S_IFLNK:
            os.chmod(path, mode & PERMISSIONS, dir_fd=dir_fd)

    def give_open(self, fd: int, uid: int, gid: int, mode: int) -> None:
        """As `give`, for a regular file without a name."""
        mode = stat.S_IFREG | mode & PERMISSIONS
        if self._overrides is None or self.ownership is Ownership.REAL:
            if self._overrides is not None:
                self._overrides.made_really(os.fstat(fd).st_ino)
            os.fchown(fd, uid, gid)
        else:
            self._overrides.put(b"/proc/self/fd/%d" % fd, stat.S_IFREG, Override(uid, gid, mode), follow=True)
            mode = real_mode(mode)
        os.fchmod(fd, mode & PERMISSIONS)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        """-1 leaves an id as it is. As chown(2) does, it clears the set-id bits of what is no directory."""
        follow = is_open_file(path)
        overrides = self._overrides
        if overrides is not None:
            before = os.stat(path, dir_fd=self._fd, follow_symlinks=follow)
            override = self._override(overrides, path, before, follow)
            if override is not None:
                override = override._replace(
                    uid=override.uid if uid == -1 else uid,
                    gid=override.gid if gid == -1 else gid,
                    mode=without_set_id(override.mode),
                )
                where = self.for_xattrs(path)
                overrides.put(where, stat.S_IFMT(before.st_mode), override, follow=follow)
                if stat.S_ISREG(before.st_mode):
                    self.remove_capabilities(path)
                return
        self._chown(path, uid, gid, self._fd, follow=follow)

    def _chown(self, path: bytes, uid: int, gid: int, dir_fd: int, *, follow: bool) -> None:
        try:
            os.chown(path, uid, gid, dir_fd=dir_fd, follow_symlinks=follow)
        except OSError as error:
            if not self._squashed or error.errno not in (errno.EPERM, errno.EINVAL):
                raise

    def chmod(self, path: bytes, mode: int, fd: int = -1) -> None:
        """Of anything but a symbolic link. `fd` is the file if it is open."""
        overrides = self._overrides
        if overrides is not None:
            follow = is_open_file(path)
            before = os.stat(path, dir_fd=self._fd, follow_symlinks=follow)
            override = self._override(overrides, path, before, follow)
            if override is not None:
                mode = stat.S_IFMT(override.mode) | mode & PERMISSIONS
                overrides.put(
                    self.for_xattrs(path), stat.S_IFMT(before.st_mode), override._replace(mode=mode), follow=follow
                )
                mode = real_mode(mode)
                if before.st_mode & PERMISSIONS == mode:
                    return
        if fd >= 0:
            os.fchmod(fd, mode & PERMISSIONS)
        else:
            os.chmod(path, mode & PERMISSIONS, dir_fd=self._fd)

    def vanishing(self, number: int, path: bytes) -> None:
        """The last name of the file with that inode number is about to be removed."""
        if self._overrides is not None:
            self._overrides.vanishing(number, self.for_xattrs(path))

    def sync(self) -> None:
        """Owners and modes that were given before are on the disk, as far as a sync of the file does not do it."""
        if self._overrides is not None:
            self._overrides.sync()

    def _put(self, path: bytes, override: Override, kind: int, dir_fd: int) -> None:
        assert self._overrides is not None
        self._overrides.put(b"/proc/self/fd/%d/%s" % (dir_fd, path), kind, override)

    def _override(self, overrides: Overrides, path: bytes, status: os.stat_result, follow: bool) -> Override | None:
        """What the file is said to be, with its type; None where it really is what it is and shall stay so."""
        override = overrides.of(self.for_xattrs(path), status, follow=follow)
        if override is not None:
            return override._replace(mode=override.kind_over(status.st_mode) | override.mode & PERMISSIONS)
        if overrides.ownership is Ownership.REAL:
            return None
        return Override(status.st_uid, status.st_gid, status.st_mode)

    # Attributes that the kernel heeds.

    @property
    def sets_security_apart(self) -> bool:
        """Whether `security.` attributes are kept under other names (`xattr_key`), so that the kernel ignores them."""
        return self._overrides is not None and self._overrides.sets_security_apart

    def has_capabilities_apart(self, path: bytes) -> bool:
        if not self.sets_security_apart:
            return False
        try:
            os.getxattr(self.for_xattrs(path), SET_APART + CAPABILITY_XATTR, follow_symlinks=is_open_file(path))
        except OSError as error:
            if error.errno not in (errno.ENODATA, *UNSUPPORTED):
                raise
            return False
        return True

    def remove_capabilities(self, path: bytes) -> None:
        """As chown(2) and write(2) do with those of a real file."""
        self._remove_if_there(path, self.xattr_key(CAPABILITY_XATTR))

    def remove_acls(self, path: bytes) -> None:
        """Of what was made outside of the mount and inherited them from there."""
        for name in (ACCESS, DEFAULT):
            self._remove_if_there(path, name)

    def _remove_if_there(self, path: bytes, key: bytes) -> None:
        try:
            os.removexattr(self.for_xattrs(path), key, follow_symlinks=is_open_file(path))
        except OSError as error:
            if error.errno not in (errno.ENODATA, *UNSUPPORTED):
                raise

    def _probe_acls(self) -> bool:
        """Whether the file system has access control lists. What is made in the work directory inherits none."""
        work = b"/proc/self/fd/%d" % self._work_fd
        try:
            os.getxattr(work, DEFAULT)
        except OSError as error:
            return error.errno == errno.ENODATA
        os.removexattr(work, DEFAULT)
        return True


class StoredUpper(DirectoryLayer):
    """What is in an upper directory, to be read only, also while a mount writes it."""

    def __init__(self, path: str | bytes, work: str | bytes) -> None:
        super().__init__(path)
        work_fd = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._overrides = written_with(self._proc, work_fd)
        finally:
            os.close(work_fd)

    @property
    def ownership(self) -> Ownership:
        """As that of `UpperDirectory`."""
        return Ownership.REAL if self._overrides is None else self._overrides.ownership


def without_set_id(mode: int) -> int:
    """The mode of a file of another owner; without group-execute the set-group-id bit stood for mandatory locking."""
    if stat.S_ISDIR(mode):
        return mode
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


def _bearer(kind: int) -> int:
    """The type of the real file where nothing can be made but regular files, directories and symbolic links."""
    return kind if kind in (stat.S_IFDIR, stat.S_IFLNK) else stat.S_IFREG
