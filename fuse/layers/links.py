"""All names of a file in a directory of the host: they have to be copied up together, or they part.

The kernel's overlayfs lets hard links break when one is copied up, or with `index=on` remembers beside the upper
directory which file of it belongs to which below. Here the other names are looked for instead, once: the upper
directory then says everything by itself: a later mount, `diff` and a committed layer have all names too, and nlink is
right without bookkeeping. Files of several names are rare and seldom changed, and only names and inode numbers are
read, so the search comes rarely and takes a fraction of a second for 200,000 files. In a tree of more than `ENTRIES`
files it is given up, and links break as they do in the kernel's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

log = logging.getLogger("fuse")

ENTRIES = 2_000_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class HardLinks:
    """The files that have more than one name below a directory, by inode number. `fd` stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._names: dict[int, list[bytes]] | None = None

    def names(self, path: bytes, inode: int, nlink: int) -> list[bytes]:
        """The paths of a file, of which `path` is one. It may have others, outside or where the search was given up."""
        beside = [found for found, number in self._files(os.path.dirname(path)) if number == inode]
        if len(beside) == nlink:
            return beside
        if self._names is None:
            self._names = self._search()
        return self._names.get(inode) or [path]

    def _search(self) -> dict[int, list[bytes]]:
        """Goes through the tree twice, so that it holds no more than a number of each file, and paths of few."""
        inodes: list[int] = []
        for _, inode in self._walk():
            inodes.append(inode)
            if len(inodes) > ENTRIES:
                log.warning("a layer has too many files to look for the other names of one")
                return {}
        inodes.sort()
        several = {inode for at, inode in enumerate(inodes[1:]) if inode == inodes[at]}
        del inodes
        names: dict[int, list[bytes]] = {}
        if several:
            for path, inode in self._walk():
                if inode in several:
                    names.setdefault(inode, []).append(path)
        return names

    def _walk(self) -> Iterator[tuple[bytes, int]]:
        """Path and number of every file that is no directory, on this file system."""
        pending = [b""]
        while pending:
            yield from self._files(pending.pop(), pending)

    def _files(self, directory: bytes, directories: list[bytes] | None = None) -> Iterator[tuple[bytes, int]]:
        """Those of one directory; its own directories are added to the list."""
        fd = os.open(directory or b".", _DIRECTORY, dir_fd=self._fd)
        try:
            if os.fstat(fd).st_dev != os.stat(self._fd).st_dev:
                return
            prefix = directory + b"/" if directory else b""
            with os.scandir(fd) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield prefix + os.fsencode(entry.name), entry.inode()
                    elif directories is not None:
                        directories.append(prefix + os.fsencode(entry.name))
        finally:
            os.close(fd)
