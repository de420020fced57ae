"""Parts of files: where their holes are, space that is set aside or given back, and copies inside the kernel."""

from __future__ import annotations

import errno
import os
import stat

from fuse.files import CAPABLE, Files
from fuse.inodes import Inode
from fuse.layers import LayerFile
from fuse.layers.directory import DirectoryFile
from fuse.stack import fail
from fuse.syscalls import fallocate

_CHANGES_NOTHING_SEEN = (errno.EXDEV, errno.EINVAL, errno.ENOSYS)
"""What copy_file_range(2) says where the two files are too different for it."""


class Ranges(Files):
    """What `Files` can do, and parts of files."""

    def seek(self, inode: Inode, offset: int, whence: int) -> int:
        """lseek(2) with SEEK_DATA or SEEK_HOLE; ENXIO where there is none."""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            fail(errno.EINVAL)
        file = inode.file or self._open_unasked(inode)
        if isinstance(file, DirectoryFile):
            return os.lseek(file.fd, offset, whence)
        return _seek(file, self.attributes(inode).size, offset, whence)

    def allocate(self, inode: Inode, mode: int, offset: int, length: int) -> None:
        """fallocate(2), as far as the upper's file system can."""
        file = inode.file
        if not inode.writable or not isinstance(file, DirectoryFile):
            file = self._open_to_write(inode)
        inode.changed()
        fallocate(file.fd, mode, offset, length)
        self._lose_privileges(inode)

    def copy_range(self, source: Inode, at: int, target: Inode, to: int, length: int) -> int:
        """copy_file_range(2): how many bytes. EOPNOTSUPP where it takes reading and writing.

        A source in a directory layer is read there.
        """
        if source.mode != stat.S_IFREG or target.mode != stat.S_IFREG:
            fail(errno.EINVAL)
        file = target.file
        if not target.writable or not isinstance(file, DirectoryFile):
            file = self._open_to_write(target)
        read = source.file or self._open_unasked(source)
        if not isinstance(read, DirectoryFile):
            fail(errno.EOPNOTSUPP)
        target.changed()
        try:
            copied = os.copy_file_range(read.fd, file.fd, length, at, to)
        except OSError as error:
            if error.errno in _CHANGES_NOTHING_SEEN:
                fail(errno.EOPNOTSUPP)
            raise
        self._lose_privileges(target)
        return copied

    def _lose_privileges(self, inode: Inode) -> None:
        """As writing does. Who asks is not said here, so set-id bits and capabilities go whoever it is."""
        if inode.set_id == CAPABLE:
            self._writable().remove_capabilities(self._where(inode))
            inode.set_id = 0
        self.drop_privileges(inode)


def _seek(file: LayerFile, size: int, offset: int, whence: int) -> int:
    """In a file of which only the segments are known."""
    if not 0 <= offset < size:
        fail(errno.ENXIO)
    for start, _, length in file.segments():
        end = start + length
        if end <= offset or not length:
            continue
        if whence == os.SEEK_DATA:
            return max(start, offset)
        if offset < start:
            return offset
        offset = end  # and on, where the next segment is right behind it
    if whence == os.SEEK_DATA:
        fail(errno.ENXIO)
    return min(offset, size)
