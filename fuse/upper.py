"""The writable directory on top: what a directory layer is, and the ways to change it.

It is written so that the kernel's overlayfs (mounted with `userxattr`) and fuse-overlayfs read it too. A change that
must not be seen half done is prepared in the work directory, on the same file system, and renamed into place.

Where owners, modes and devices cannot be real, they are kept as `fuse.ownership` says; everything that reads or changes
them goes through here.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fuse.acl import ACCESS, DEFAULT
from fuse.attributes import Attributes, from_stat
from fuse.layers.directory import DirectoryLayer
from fuse.override import CONTAINERS_XATTR, PERMISSIONS, SET_APART, Override
from fuse.ownership import Overrides, Ownership, real_mode, stand_ins, write_with, written_with
from fuse.syscalls import NFS, RenameFlag, file_system_type, renameat2
from fuse.whiteout import OPAQUE_MARKER, OPAQUE_VALUE, OPAQUE_XATTR, WHITEOUT_PREFIX

_DESCRIPTORS = b"/proc/self/fd/"

_NAMES = b".names"
"""Ends the name of a list of names that a file in the work directory is about to get."""

CAPABILITY_XATTR = b"security.capability"
"""The kernel asks for it before it lets anybody write."""

_UNSUPPORTED = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class UpperDirectory(DirectoryLayer):
    """Paths are relative to the directory, or absolute below /proc/self/fd/N, which itself stands for the open file."""

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
        super().__init__(path)
        self.fd = self._fd
        self._squashed = squashed
        self._work_fd = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.stat(self._work_fd).st_dev != os.stat(self._fd).st_dev:
            raise OSError(
                errno.EXDEV, "the work directory is not on the file system of the upper one", os.fsdecode(work)
            )
        self.on_nfs = file_system_type(self._fd) == NFS
        """There the kernel renames an open file that is removed (.nfs...), so that its directory is not empty."""
        self._serial = itertools.count()
        self._own = (os.geteuid(), os.getegid())
        self._clear_work()
        scratch = self.scratch()
        self._devices = self._probe_devices(scratch)
        self._rename_whiteout = self._devices
        takes_acls = self._probe_acls()
        try:
            self._overrides = write_with(self._proc, self._work_fd, ownership, scratch=scratch, name=override)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(scratch, dir_fd=self._work_fd)
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
        os.close(self._work_fd)
        super().close()

    # Files in the work directory, and their way into place.

    def scratch(self) -> bytes:
        """A fresh name for the work directory."""
        return b"%d" % next(self._serial)

    @property
    def work_fd(self) -> int:
        return self._work_fd

    def place(self, scratch: bytes, path: bytes) -> None:
        """Move a prepared file to its path, over a file or a whiteout there; a directory over a whiteout too."""
        try:
            os.rename(scratch, path, src_dir_fd=self._work_fd, dst_dir_fd=self._fd)
        except NotADirectoryError:
            renameat2(scratch, path, RenameFlag.EXCHANGE, old_dir_fd=self._work_fd, new_dir_fd=self._fd)
            os.unlink(scratch, dir_fd=self._work_fd)
        self.drop_dotted_whiteout(path)

    # Making files.

    def born_with(self, mode: int, uid: int, gid: int) -> bool:
        """Whether a file has that owner and mode from the moment that `make_in_place` makes it."""
        return (
            (uid, gid) == self._own
            and not mode & (stat.S_ISUID | stat.S_ISGID)
            and stat.S_IFMT(mode) not in (stat.S_IFCHR, stat.S_IFBLK)
            and self.ownership is Ownership.REAL
        )

    def make_in_place(self, path: bytes, mode: int, *, target: bytes) -> tuple[int, Attributes] | None:
        """Make what is `born_with` its owner: its inode number and attributes. None if something is there already."""
        fd = self._fd
        try:
            self._make(path, mode, target, fd)
        except FileExistsError:
            return None
        status = os.stat(path, dir_fd=fd, follow_symlinks=False)
        if (status.st_mode ^ mode) & 0o1777 and not stat.S_ISLNK(mode):
            os.chmod(path, mode & 0o1777 | status.st_mode & (stat.S_ISUID | stat.S_ISGID), dir_fd=fd)
            status = os.stat(path, dir_fd=fd, follow_symlinks=False)
        if self._overrides is not None:
            self._overrides.made_really(status.st_ino)
        return status.st_ino, from_stat(status)

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

    def link(self, source: bytes, path: bytes, *, dir_fd: int | None = None) -> bool:
        """Give a file a further name; False if there is something. `dir_fd` is the work directory's, or left out."""
        try:
            os.link(
                source,
                path,
                src_dir_fd=self._fd,
                dst_dir_fd=self._fd if dir_fd is None else dir_fd,
                follow_symlinks=is_open_file(source),
            )
        except FileExistsError:
            return False
        return True

    def place_linked(self, scratch: bytes, paths: Sequence[bytes], *, durable: bool) -> None:
        """As `place`, for a file with several names where there is nothing yet; it gets all, even if we are killed.

        What names are still to come is written down in the work directory, for the next mount.
        """
        journal = scratch + _NAMES
        fd = os.open(journal, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._work_fd)
        try:
            os.write(fd, b"".join(path + b"\0" for path in paths) + b"\0")
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        self._link_all(scratch, paths)

    def _link_all(self, scratch: bytes, paths: Sequence[bytes]) -> None:
        for path in paths:
            with suppress(FileExistsError):
                os.link(scratch, path, src_dir_fd=self._work_fd, dst_dir_fd=self._fd, follow_symlinks=False)
        os.unlink(scratch + _NAMES, dir_fd=self._work_fd)
        os.unlink(scratch, dir_fd=self._work_fd)

    def _finish_linking(self, scratch: bytes) -> None:
        """Do what `place_linked` of an earlier mount had begun."""
        with open(b"/proc/self/fd/%d/%s%s" % (self._work_fd, scratch, _NAMES), "rb") as journal:
            content = journal.read()
        if content.endswith(b"\0\0"):
            with suppress(FileNotFoundError):
                os.stat(scratch, dir_fd=self._work_fd, follow_symlinks=False)
                self._link_all(scratch, content[:-2].split(b"\0"))
                return
        os.unlink(scratch + _NAMES, dir_fd=self._work_fd)

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
        return status.st_ino, self._overrides.attributes(self._proc + path, status)

    def names_in(self, directory: bytes) -> set[bytes]:
        """The names in a directory, and those that whiteouts in the form of a file stand for."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            found = set(map(os.fsencode, os.listdir(fd)))
        finally:
            os.close(fd)
        return found | {name[len(WHITEOUT_PREFIX) :] for name in found if name.startswith(WHITEOUT_PREFIX)}

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
            if error.errno not in (errno.ENODATA, *_UNSUPPORTED):
                raise
            return False
        return True

    def remove_capabilities(self, path: bytes) -> None:
        """As chown(2) and write(2) do with those of a real file."""
        try:
            key = self.xattr_key(CAPABILITY_XATTR)
            os.removexattr(self.for_xattrs(path), key, follow_symlinks=is_open_file(path))
        except OSError as error:
            if error.errno not in (errno.ENODATA, *_UNSUPPORTED):
                raise

    def chmod(self, path: bytes, mode: int) -> None:
        """Of anything but a symbolic link."""
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
        os.chmod(path, mode & PERMISSIONS, dir_fd=self._fd)

    def anchor(self, path: bytes) -> int:
        """A descriptor (O_PATH) that stands for a file when this name of it is gone."""
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        if not self.on_nfs:
            return os.open(path, flags, dir_fd=self._fd)
        scratch = self.scratch()  # what NFS leaves of an open file is left in the work directory
        self.link(path, scratch, dir_fd=self._work_fd)
        try:
            return os.open(scratch, flags, dir_fd=self._work_fd)
        finally:
            os.unlink(scratch, dir_fd=self._work_fd)

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

    # Whiteouts and opaque directories.

    def whiteout(self, path: bytes, *, over: bool) -> None:
        """Delete a name from the layers below; `over` a file (not a directory) that the upper has there, if it does."""
        if not self._devices:
            self._dotted_whiteout_file(path)
            if over:
                self.unlink_if_there(path)
            return
        if not over:
            os.mknod(path, stat.S_IFCHR, 0, dir_fd=self._fd)
            return
        scratch = self.scratch()
        os.mknod(scratch, stat.S_IFCHR, 0, dir_fd=self._work_fd)
        os.rename(scratch, path, src_dir_fd=self._work_fd, dst_dir_fd=self._fd)

    def replace_directory_by_whiteout(self, path: bytes) -> None:
        """As `whiteout`, for a directory in which only whiteouts are left."""
        scratch = self.scratch()
        if self._devices:
            os.mknod(scratch, stat.S_IFCHR, 0, dir_fd=self._work_fd)
            renameat2(scratch, path, RenameFlag.EXCHANGE, old_dir_fd=self._work_fd, new_dir_fd=self._fd)
        else:
            self._dotted_whiteout_file(path)
            os.rename(path, scratch, src_dir_fd=self._fd, dst_dir_fd=self._work_fd)
        remove_tree(scratch, self._work_fd)

    def rename_leaving_whiteout(self, old: bytes, new: bytes) -> None:
        if not self._devices:
            self._dotted_whiteout_file(old)  # means nothing while the name itself is there
            os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            return
        if self._rename_whiteout:
            try:
                renameat2(old, new, RenameFlag.WHITEOUT, old_dir_fd=self._fd, new_dir_fd=self._fd)
                return
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._rename_whiteout = False
        os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self.whiteout(old, over=False)

    def drop_dotted_whiteout(self, path: bytes) -> None:
        """Forget a whiteout in the form of a `.wh.` file, which does not stand in the way of the name itself."""
        if not self._devices:
            parent, name = os.path.split(path)
            self.unlink_if_there(os.path.join(parent, WHITEOUT_PREFIX + name))

    def make_opaque(self, path: bytes, *, dir_fd: int | None = None) -> None:
        """Make a directory of the upper (or of the work directory, by its descriptor) hide what is below."""
        fd = self._fd if dir_fd is None else dir_fd
        try:
            self.set_opaque_xattr(b"/proc/self/fd/%d/%s" % (fd, path))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            os.close(os.open(path + b"/" + OPAQUE_MARKER, os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=fd))

    def set_opaque_xattr(self, path: bytes) -> None:
        os.setxattr(path, OPAQUE_XATTR, OPAQUE_VALUE, follow_symlinks=False)

    def is_whiteout_device(self, path: bytes) -> bool:
        try:
            status = os.stat(path, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0

    def clear_directory(self, path: bytes) -> None:
        """Remove what is left in a directory that shows nothing: whiteouts and marks."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            for name in os.listdir(fd):
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    def exists(self, path: bytes) -> bool:
        """Whether the upper itself has a file of that path; a whiteout is none."""
        parent, name = os.path.split(path)
        place = self.find(parent or b".", name)
        return place is not None and place.mode != 0

    def unlink_if_there(self, path: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path, dir_fd=self._fd)

    def for_xattrs(self, path: bytes) -> bytes:
        """The absolute path that the xattr calls need."""
        return path if path.startswith(b"/") else self._proc + path

    def _dotted_whiteout_file(self, path: bytes) -> None:
        parent, name = os.path.split(path)
        mark = os.path.join(parent, WHITEOUT_PREFIX + name)
        os.close(os.open(mark, os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=self._fd))

    def _probe_devices(self, scratch: bytes) -> bool:
        """Whether 0/0 devices can be made here: in a user namespace since Linux 5.8, and not on every file system.

        Leaves one behind in the work directory, if so.
        """
        try:
            os.mknod(scratch, stat.S_IFCHR, 0, dir_fd=self._work_fd)
        except OSError:
            return False
        return True

    def _probe_acls(self) -> bool:
        """Whether the file system has access control lists. What is made in the work directory inherits none."""
        work = b"/proc/self/fd/%d" % self._work_fd
        try:
            os.getxattr(work, DEFAULT)
        except OSError as error:
            return error.errno == errno.ENODATA
        os.removexattr(work, DEFAULT)
        return True

    def remove_acls(self, path: bytes) -> None:
        """Of what was made outside of the mount and inherited them from there."""
        for name in (ACCESS, DEFAULT):
            try:
                os.removexattr(self.for_xattrs(path), name)
            except OSError as error:
                if error.errno not in (errno.ENODATA, *_UNSUPPORTED):
                    raise

    def _clear_work(self) -> None:
        """Remove what an earlier mount left when it was killed."""
        work = b"/proc/self/fd/%d" % self._work_fd
        for name in os.listdir(work):
            if name.endswith(_NAMES):
                self._finish_linking(name[: -len(_NAMES)])
        for name in os.listdir(work):
            if name.isdigit():
                remove_tree(name, self._work_fd)
            elif name.startswith(b".nfs"):
                with suppress(OSError):  # EBUSY: somebody has it open yet, and it goes with them
                    os.unlink(name, dir_fd=self._work_fd)


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


def is_open_file(path: bytes) -> bool:
    """Whether a path is just /proc/self/fd/N, so that it is to be followed."""
    return path.startswith(_DESCRIPTORS) and b"/" not in path[len(_DESCRIPTORS) :]


def without_set_id(mode: int) -> int:
    """The mode of a file of another owner; without group-execute the set-group-id bit stood for mandatory locking."""
    if stat.S_ISDIR(mode):
        return mode
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


def _bearer(kind: int) -> int:
    """The type of the real file where nothing can be made but regular files, directories and symbolic links."""
    return kind if kind in (stat.S_IFDIR, stat.S_IFLNK) else stat.S_IFREG


def remove_tree(name: bytes, dir_fd: int) -> None:
    """Remove a file, or a directory with everything in it, without following symbolic links."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        for inside in os.listdir(fd):
            remove_tree(os.fsencode(inside), fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)
