"""A directory that can be changed, with a work directory beside it on the same file system.

A change that must not be seen half done is prepared in the work directory and renamed into place.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from fuse.layers.directory import DirectoryLayer
from fuse.syscalls import NFS, file_system_type

_DESCRIPTORS = b"/proc/self/fd/"

_NAMES = b".names"
"""Ends the name of a list of names that a file in the work directory is about to get."""


class WorkDirectory(DirectoryLayer):
    """Paths are relative to the directory, or absolute below /proc/self/fd/N, which itself stands for the open file."""

    def __init__(self, path: str | bytes, work: str | bytes) -> None:
        super().__init__(path)
        self.fd = self._fd
        self._work_fd = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if os.stat(self._work_fd).st_dev != os.stat(self._fd).st_dev:
            raise OSError(
                errno.EXDEV, "the work directory is not on the file system of the upper one", os.fsdecode(work)
            )
        if self._is_on_another_mount():
            raise OSError(errno.EXDEV, "the work directory is on another mount than the upper one", os.fsdecode(work))
        self.on_nfs = file_system_type(self._fd) == NFS
        """There the kernel renames an open file that is removed (.nfs...), so that its directory is not empty."""
        self._serial = itertools.count()
        self._clear_work()

    def close(self) -> None:
        os.close(self._work_fd)
        super().close()

    @property
    def work_fd(self) -> int:
        return self._work_fd

    def scratch(self) -> bytes:
        """A fresh name for the work directory."""
        return b"%d" % next(self._serial)

    def discard(self, scratch: bytes) -> None:
        """Remove what was made under that name in the work directory, if it came to that."""
        with suppress(FileNotFoundError):
            remove_tree(scratch, self._work_fd)

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

        What names are still to come is written down in the work directory, for the next mount. Where one cannot be
        made, it gets none.
        """
        journal = scratch + _NAMES
        try:
            fd = os.open(journal, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self._work_fd)
            with os.fdopen(fd, "wb") as file:
                file.write(b"".join(path + b"\0" for path in paths) + b"\0")
                file.flush()
                if durable:
                    os.fsync(fd)
            self._link_all(scratch, paths)
        except BaseException:
            self.discard(journal)
            raise

    def _link_all(self, scratch: bytes, paths: Sequence[bytes]) -> None:
        made: list[bytes] = []
        try:
            for path in paths:
                with suppress(FileExistsError):
                    os.link(scratch, path, src_dir_fd=self._work_fd, dst_dir_fd=self._fd, follow_symlinks=False)
                    made.append(path)
        except BaseException:
            for path in made:
                os.unlink(path, dir_fd=self._fd)
            raise
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

    def _is_on_another_mount(self) -> bool:
        """Whether the upper is a bind mount of the same file system (or the work directory is): nothing can be moved
        from one to the other. rename(2) says so before it misses what it should move.
        """
        try:
            os.rename(b".none", b".none", src_dir_fd=self._work_fd, dst_dir_fd=self._fd)
        except OSError as error:
            return error.errno == errno.EXDEV
        return False

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

    def unlink_if_there(self, path: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path, dir_fd=self._fd)

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


def is_open_file(path: bytes) -> bool:
    """Whether a path is just /proc/self/fd/N, so that it is to be followed."""
    return path.startswith(_DESCRIPTORS) and b"/" not in path[len(_DESCRIPTORS) :]


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
