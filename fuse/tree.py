"""The overlay: a view of stacked layers that can be changed, by writing to the upper directory.

Everything here is synchronous and knows nothing of FUSE. `Stack` finds files, `View` looks and reads, `Files` changes
files, `Names` makes and removes them, and `Tree` is all that with renames. How changes are kept:

- a file of a layer is copied up, with the directories on the way to it, before it is changed;
- a removed name that a layer has is covered by a whiteout, a new directory in its place is opaque;
- a directory that layers have a part in is copied up with everything in it before it is renamed;
- all names of a file in a layer are copied up together where the layer knows them, so they stay one file.

A kill at any moment leaves a tree that the calls could have made. Most changes are one system call in the upper
directory, or are prepared in the work directory and moved into place by one; the next mount clears the work directory.
What takes more, and what a kill in between leaves:

- copy-up on the way to a change: the same tree, partly in the upper directory;
- copy-up of a file with several names: the next mount gives it those that are missing (`UpperDirectory.place_linked`);
- a rename onto a directory in which whiteouts are left: it is made opaque and cleared first, and is empty all the time;
- a rename of a directory to a name with a whiteout: the two change places; a whiteout over nothing may be left;
- a rename that has to leave a whiteout behind is one call (RENAME_WHITEOUT). Where the file system lacks that, both
  names may be left, and where it has no extended attributes a cleared directory may show what is below it again.
"""

from __future__ import annotations

import errno
import os

from fuse.inodes import Directory, Inode
from fuse.names import Names
from fuse.stack import fail
from fuse.syscalls import RenameFlag, renameat2
from fuse.whiteout import is_reserved_name

_NOREPLACE, _EXCHANGE = int(RenameFlag.NOREPLACE), int(RenameFlag.EXCHANGE)


class Tree(Names):
    """What `Names` can do, and renames."""

    def rename(self, old: Directory, old_name: bytes, new: Directory, new_name: bytes, flags: int = 0) -> None:
        """renameat2(2) with NOREPLACE and EXCHANGE."""
        if flags & ~(_NOREPLACE | _EXCHANGE):
            fail(errno.EINVAL)
        if is_reserved_name(new_name):
            fail(errno.EINVAL)
        source = self.lookup(old, old_name)
        target = self._lookup_or_none(new, new_name)
        if isinstance(source, Directory):
            self._check_ancestry(source, new)
        if flags & _EXCHANGE:
            if target is None:
                fail(errno.ENOENT)
            if isinstance(target, Directory):
                self._check_ancestry(target, old)
            self._exchange(source, (old, old_name), target, (new, new_name))
            return
        if target is not None:
            if flags & _NOREPLACE:
                fail(errno.EEXIST)
            if target is source:
                return  # two names of one file
            self._check_replaceable(source, target)
        elif new.nameless:
            fail(errno.ENOENT)
        self._copy_up_whole(source)
        self.copy_up(old)
        self.copy_up(new)
        old_path, new_path = self._path_of(old, old_name), self._path_of(new, new_name)
        if target is not None and not isinstance(target, Directory):
            self._part(target)
        if target is not None and target.upper:
            if isinstance(target, Directory):
                self._empty(target, new_path)
            else:
                self._outlive(target, new_path)
        covered = False
        if isinstance(source, Directory):
            covered = target is None and self._has_whiteout(new, new_name)
            if self._below(new, new_name):
                self._writable().make_opaque(old_path)
        leaves = self._below(old, old_name)
        self._writable().move(old_path, new_path, over_whiteout=covered, leave_whiteout=leaves)
        if target is not None:
            self._lose_name(target, new, new_name)
        source.drop_name(old, old_name)
        source.add_name(new, new_name)
        if isinstance(source, Directory):
            self._moves += 1
        source.changed()
        new.renamed(new_name)
        old.renamed(old_name)

    def _empty(self, target: Directory, path: bytes) -> None:
        """Make a directory that shows nothing really empty, so that it can be replaced."""
        upper = self._writable()
        self._outlive_directory(target, path)
        if target.lowers:
            upper.empty(path)
            target.lowers = ()  # it is there yet, if the rename fails
            target.names_above = set()
            target.changed()
        elif target.names_above is None or target.names_above:
            upper.clear_directory(path)

    def _has_whiteout(self, directory: Directory, name: bytes) -> bool:
        """Whether a file stands for the absence of a name."""
        if not self._above(directory, name):
            return False
        return self._writable().is_whiteout_in_place(self._path_of(directory, name))

    def _exchange(
        self, first: Inode, at_first: tuple[Directory, bytes], second: Inode, at_second: tuple[Directory, bytes]
    ) -> None:
        upper = self._writable()
        for inode, (parent, _), other in ((first, at_first, at_second), (second, at_second, at_first)):
            self._copy_up_whole(inode)
            self.copy_up(parent)
            if isinstance(inode, Directory) and self._below(*other):
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
        self._moves += 1
        for inode, (parent, name) in ((first, at_first), (second, at_second)):
            inode.changed()
            parent.renamed(name)

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
        upper.clear_whiteouts(path)
        inode.lowers = ()
        self._numbers.keep(os.stat(path, dir_fd=upper.fd, follow_symlinks=False).st_ino, inode.number)
        inode.changed()

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
