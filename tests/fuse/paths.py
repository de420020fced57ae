"""A tree whose files are named by paths, as programs do: what the kernel does for them before it asks."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from fuse.inodes import Directory, Inode
from fuse.tree import Tree


class Paths:
    """Every file that is looked up counts as known to the kernel, until `forget` of the tree."""

    tree: Tree

    def parent(self, path: bytes) -> tuple[Directory, bytes]:
        """The directory of a path, and the name in it."""
        *parents, name = path.split(b"/")
        here: Inode = self.tree.root
        for part in parents:
            if not isinstance(here, Directory):
                raise OSError(errno.ENOTDIR, "")
            here = self.look(here, part)
        if not isinstance(here, Directory):
            raise OSError(errno.ENOTDIR, "")
        return here, name

    def look(self, directory: Directory, name: bytes) -> Inode:
        inode = self.tree.lookup(directory, name)
        inode.lookups += 1
        return inode

    def get(self, path: bytes) -> Inode:
        return self.look(*self.parent(path))

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Every path with its file."""
        todo: list[tuple[bytes, Directory]] = [(b"", self.tree.root)]
        while todo:
            path, directory = todo.pop()
            for name, places in self.tree.listing(directory):
                inode = self.tree.adopt(directory, name, places)
                assert self.tree.lookup(directory, name) is inode
                inode.lookups += 1
                below = path + b"/" + name if path else name
                yield below, inode
                if isinstance(inode, Directory):
                    todo.append((below, inode))
