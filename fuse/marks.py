"""What a directory says about the layers below it: whiteouts, and opaque directories.

It is written so that the kernel's overlayfs (mounted with `userxattr`) and fuse-overlayfs read it too.
"""

from __future__ import annotations

import errno
import os
import stat

from fuse.syscalls import RenameFlag, renameat2
from fuse.whiteout import OPAQUE_MARKER, OPAQUE_VALUE, OPAQUE_XATTR, WHITEOUT_PREFIX, WHITEOUT_XATTR
from fuse.workdir import WorkDirectory, remove_tree

UNSUPPORTED = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems say of what they do not have."""


class MarkedDirectory(WorkDirectory):
    """What `WorkDirectory` can do, and marks.

    Whiteouts are devices 0/0 where those can be made and be exchanged for directories, else `.wh.` files. In another
    overlay neither can be, and they are empty files with an attribute.
    """

    def __init__(self, path: str | bytes, work: str | bytes) -> None:
        super().__init__(path, work)
        self.probe = self.scratch()
        """A name in the work directory, where finding out about devices may have left one."""
        devices = self._probe_devices(self.probe)
        self._in_attributes = not devices and self._probe_attributes()
        self._in_place = devices or self._in_attributes
        """Whether a whiteout is a file of the name that it deletes, and not one beside it."""
        self._rename_whiteout = devices
        self._dots = not self._in_place
        """Whether this mount may have written `.wh.` files."""

    def place(self, scratch: bytes, path: bytes) -> None:
        """Move a prepared file to its path, over a file or a whiteout there; a directory over a whiteout too."""
        try:
            os.rename(scratch, path, src_dir_fd=self._work_fd, dst_dir_fd=self._fd)
        except NotADirectoryError:
            if self._in_place:
                renameat2(scratch, path, RenameFlag.EXCHANGE, old_dir_fd=self._work_fd, new_dir_fd=self._fd)
                os.unlink(scratch, dir_fd=self._work_fd)
            else:
                self._dot_whiteout(path)
                os.rename(scratch, path, src_dir_fd=self._work_fd, dst_dir_fd=self._fd)
        self.drop_dotted_whiteout(path)

    def move(self, old: bytes, new: bytes, *, over_whiteout: bool, leave_whiteout: bool) -> None:
        """rename(2); of a directory also over a whiteout, when `over_whiteout` says that a file is one there."""
        if over_whiteout and self._in_place:
            renameat2(old, new, RenameFlag.EXCHANGE, old_dir_fd=self._fd, new_dir_fd=self._fd)
            if not leave_whiteout:
                os.unlink(old, dir_fd=self._fd)
            return
        if over_whiteout:
            self._dot_whiteout(new)
        if leave_whiteout:
            self.rename_leaving_whiteout(old, new)
        else:
            os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self.drop_dotted_whiteout(new)

    def whiteout(self, path: bytes, *, over: bool) -> None:
        """Delete a name from the layers below; `over` a file (not a directory) that the upper has there, if it does."""
        if not self._in_place:
            self._dotted_whiteout_file(path)
            if over:
                self.unlink_if_there(path)
            return
        if not over and not self._in_attributes:
            os.mknod(path, stat.S_IFCHR, 0, dir_fd=self._fd)
            return
        scratch = self.scratch()
        try:
            self._make_whiteout(scratch)
            os.rename(scratch, path, src_dir_fd=self._work_fd, dst_dir_fd=self._fd)
        except BaseException:
            self.discard(scratch)
            raise

    def replace_directory_by_whiteout(self, path: bytes) -> None:
        """As `whiteout`, for a directory in which only whiteouts are left."""
        scratch = self.scratch()
        if self._in_place:
            try:
                self._make_whiteout(scratch)
                renameat2(scratch, path, RenameFlag.EXCHANGE, old_dir_fd=self._work_fd, new_dir_fd=self._fd)
            except BaseException:
                self.discard(scratch)
                raise
        else:
            self._dotted_whiteout_file(path)
            os.rename(path, scratch, src_dir_fd=self._fd, dst_dir_fd=self._work_fd)
        remove_tree(scratch, self._work_fd)

    def rename_leaving_whiteout(self, old: bytes, new: bytes) -> None:
        if not self._in_place:
            self._dotted_whiteout_file(old)  # means nothing while the name itself is there
            os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            return
        if self._rename_whiteout:
            try:
                renameat2(old, new, RenameFlag.WHITEOUT, old_dir_fd=self._fd, new_dir_fd=self._fd)
                return
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                self._rename_whiteout = False
        scratch = self.scratch()
        try:
            self._make_whiteout(scratch)
            os.rename(old, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            os.rename(scratch, old, src_dir_fd=self._work_fd, dst_dir_fd=self._fd)
        except BaseException:
            self.discard(scratch)
            raise

    def drop_dotted_whiteout(self, path: bytes) -> None:
        """Forget a whiteout in the form of a `.wh.` file, which does not stand in the way of the name itself."""
        if self._dots:
            parent, name = os.path.split(path)
            self.unlink_if_there(os.path.join(parent, WHITEOUT_PREFIX + name))

    def make_opaque(self, path: bytes, *, dir_fd: int | None = None) -> None:
        """Make a directory of the upper (or of the work directory, by its descriptor) hide what is below."""
        fd = self._fd if dir_fd is None else dir_fd
        try:
            self.set_opaque_xattr(self.for_xattrs(path) if dir_fd is None else b"/proc/self/fd/%d/%s" % (fd, path))
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            os.close(os.open(path + b"/" + OPAQUE_MARKER, os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=fd))

    def set_opaque_xattr(self, path: bytes) -> None:
        os.setxattr(path, OPAQUE_XATTR, OPAQUE_VALUE, follow_symlinks=False)

    def is_whiteout_in_place(self, path: bytes) -> bool:
        """Whether a file of that name deletes it."""
        try:
            status = os.stat(path, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self._is_whiteout(status, path)

    def empty(self, path: bytes) -> None:
        """Really empty a directory that shows nothing, so that it can be replaced; what is below stays hidden."""
        try:
            self.set_opaque_xattr(self.for_xattrs(path))
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._dotted_whiteout_file(path)  # not inside, where it would have to go too
        self.clear_directory(path)

    def clear_directory(self, path: bytes) -> None:
        """Remove what is left in a directory that shows nothing: whiteouts and marks."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            for name in os.listdir(fd):
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    def clear_whiteouts(self, path: bytes) -> None:
        """Remove the whiteouts in an opaque directory: they delete nothing, and the kernel would list them."""
        for name in os.listdir(self.for_xattrs(path)):
            inside = path + b"/" + name
            is_dotted = name.startswith(WHITEOUT_PREFIX) and name != OPAQUE_MARKER
            if is_dotted or self.is_whiteout_in_place(inside):
                os.unlink(inside, dir_fd=self._fd)

    def exists(self, path: bytes) -> bool:
        """Whether the upper itself has a file of that path; a whiteout is none."""
        parent, name = os.path.split(path)
        place = self.find(parent or b".", name)
        return place is not None and place.mode != 0

    def _make_whiteout(self, scratch: bytes) -> None:
        """Make one in the work directory that is to be moved to the name that it deletes."""
        if not self._in_attributes:
            os.mknod(scratch, stat.S_IFCHR, 0, dir_fd=self._work_fd)
            return
        os.mknod(scratch, stat.S_IFREG | 0o600, dir_fd=self._work_fd)
        os.setxattr(b"/proc/self/fd/%d/%s" % (self._work_fd, scratch), WHITEOUT_XATTR, b"y", follow_symlinks=False)

    def _dotted_whiteout_file(self, path: bytes) -> None:
        parent, name = os.path.split(path)
        mark = os.path.join(parent, WHITEOUT_PREFIX + name)
        self._dots = True
        os.close(os.open(mark, os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=self._fd))

    def _dot_whiteout(self, path: bytes) -> None:
        """Write a whiteout that is a device as a file beside it, which a directory can be moved over."""
        self._dotted_whiteout_file(path)
        self.unlink_if_there(path)

    def _probe_attributes(self) -> bool:
        """Whether `.wh.` files cannot be made, in another overlay of ours or of fuse-overlayfs."""
        name = WHITEOUT_PREFIX + self.scratch()
        try:
            os.close(os.open(name, os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._work_fd))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return True
        os.unlink(name, dir_fd=self._work_fd)
        return False

    def _probe_devices(self, scratch: bytes) -> bool:
        """Whether 0/0 devices can be made here: in a user namespace since Linux 5.8, and not on every file system.

        NFS and others have them, but cannot exchange them for directories, which a whiteout needs. Leaves one behind in
        the work directory, if they can be made.
        """
        try:
            os.mknod(scratch, stat.S_IFCHR, 0, dir_fd=self._work_fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            return False
        other = self.scratch()
        os.mkdir(other, 0o700, dir_fd=self._work_fd)
        try:
            renameat2(scratch, other, RenameFlag.EXCHANGE, old_dir_fd=self._work_fd, new_dir_fd=self._work_fd)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            os.rmdir(other, dir_fd=self._work_fd)
            return False
        os.rmdir(scratch, dir_fd=self._work_fd)
        os.rename(other, scratch, src_dir_fd=self._work_fd, dst_dir_fd=self._work_fd)
        return True
