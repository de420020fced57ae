"""The writable directory on top: what a directory layer is, and the ways to change it.

It is written so that the kernel's overlayfs (mounted with `userxattr`) and fuse-overlayfs read it too. A change that
must not be seen half done is prepared in the work directory, on the same file system, and renamed into place.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from contextlib import suppress

from fuse.layers.directory import DirectoryLayer
from fuse.syscalls import RenameFlag, renameat2
from fuse.whiteout import OPAQUE_MARKER, OPAQUE_VALUE, OPAQUE_XATTR, WHITEOUT_PREFIX

_UNSUPPORTED = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class UpperDirectory(DirectoryLayer):
    """Paths are relative to the directory; an absolute one is /proc/self/fd/N and stands for the open file itself."""

    def __init__(self, path: str | bytes, work: str | bytes) -> None:
        super().__init__(path)
        self.fd = self._fd
        self._work_fd = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.stat(self._work_fd).st_dev != os.stat(self._fd).st_dev:
            raise OSError(
                errno.EXDEV, "the work directory is not on the file system of the upper one", os.fsdecode(work)
            )
        self._serial = itertools.count()
        self._clear_work()
        self._devices = self._probe_devices()
        self._rename_whiteout = self._devices

    def close(self) -> None:
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

    # Whiteouts and opaque directories.

    def whiteout(self, path: bytes) -> None:
        """Delete a name from the layers below, together with a file (not a directory) that the upper has there."""
        if not self._devices:
            self._dotted_whiteout_file(path)
            self.unlink_if_there(path)
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
        if self._rename_whiteout:
            try:
                renameat2(old, new, RenameFlag.WHITEOUT, old_dir_fd=self._fd, new_dir_fd=self._fd)
                return
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._rename_whiteout = False
        os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self.whiteout(old)

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

    def _probe_devices(self) -> bool:
        """Whether 0/0 devices can be made here: in a user namespace since Linux 5.8, and not on every file system."""
        scratch = self.scratch()
        try:
            os.mknod(scratch, stat.S_IFCHR, 0, dir_fd=self._work_fd)
        except OSError:
            return False
        os.unlink(scratch, dir_fd=self._work_fd)
        return True

    def _clear_work(self) -> None:
        """Remove what an earlier mount left when it was killed."""
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._work_fd)
        try:
            names = os.listdir(fd)
        finally:
            os.close(fd)
        for name in names:
            if name.isdigit():
                remove_tree(os.fsencode(name), self._work_fd)


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
