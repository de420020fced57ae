"""Copy-up: a file of a layer becomes one of the upper directory, before it is changed.

The copy is made in the work directory and renamed into place, so that it appears whole; the times of the directory it
appears in stay as they were.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fuse.acl import ACCESS, ACL_XATTRS, Acl
from fuse.attributes import Attributes
from fuse.ids import IdMap, Owners
from fuse.layers import LayerFile, Place
from fuse.layers.directory import DirectoryFile
from fuse.ownership import Ownership
from fuse.upper import UpperDirectory
from fuse.whiteout import shown_xattr

_CHUNK = 1024 * 1024

_LEFT_OUT = (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL)
"""An attribute that the upper's file system or our user namespace cannot hold is left out, as the kernel does."""


class CopyUp:
    """Copies into one upper directory. `layer_owners` maps what layers store, `upper_owners` what the upper stores."""

    def __init__(
        self, upper: UpperDirectory, layer_owners: Owners, upper_owners: Owners, *, durable: bool = True
    ) -> None:
        """With `durable`, copied data is on the disk before the copy stands in for the file of the layer."""
        self._upper = upper
        self._durable = durable
        self._layer_owners = layer_owners
        self._upper_owners = upper_owners
        self._as_stored = upper.ownership is not Ownership.REAL and layer_owners == upper_owners

    def directory(self, place: Place, path: bytes) -> None:
        """Make the directory itself, without what is in it."""
        with self._placed([path]) as (scratch, fd):
            os.mkdir(scratch, 0o700, dir_fd=fd)
            self.attributes(place, scratch, fd)

    def file(self, place: Place, paths: Sequence[bytes], *, truncate: bool = False) -> None:
        """Copy a file that is no directory, under all its names; `truncate` leaves its data behind."""
        with self._placed(paths) as (scratch, fd):
            self._make(place, scratch, fd, truncate=truncate)

    def anonymous(self, place: Place, *, truncate: bool = False) -> int:
        """Copy a regular file whose name is gone; the descriptor, open for reading and writing, is all there is."""
        upper = self._upper
        scratch = upper.scratch()
        try:
            self._make(place, scratch, upper.work_fd, truncate=truncate)
            copied = os.open(scratch, os.O_RDWR | os.O_CLOEXEC, dir_fd=upper.work_fd)
            upper.vanishing(os.fstat(copied).st_ino, b"/proc/self/fd/%d/%s" % (upper.work_fd, scratch))
            return copied
        finally:
            upper.discard(scratch)

    @contextmanager
    def _placed(self, paths: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
        """A name in the work directory that is moved to `paths` in the end, or removed if that fails."""
        upper = self._upper
        scratch = upper.scratch()
        parents = {os.path.dirname(path) or b"." for path in paths}
        times = [(parent, os.stat(parent, dir_fd=upper.fd, follow_symlinks=False)) for parent in parents]
        try:
            yield scratch, upper.work_fd
            if len(paths) == 1:
                upper.place(scratch, paths[0])
            else:
                upper.place_linked(scratch, paths, durable=self._durable)
        except BaseException:
            upper.discard(scratch)
            raise
        for parent, before in times:
            os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns), dir_fd=upper.fd, follow_symlinks=False)

    def _make(self, place: Place, scratch: bytes, fd: int, *, truncate: bool) -> None:
        layer, ref = place.layer, place.ref
        attributes = layer.attributes(ref)
        kind = stat.S_IFMT(attributes.mode)
        if kind == stat.S_IFREG:
            target = os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=fd)
            try:
                if not truncate and attributes.size:
                    source = layer.open(ref)
                    try:
                        _copy_data(source, target, attributes.size)
                    finally:
                        source.close()
                self._finish(place, attributes, scratch, fd)
                if self._durable and attributes.size and not truncate:
                    os.fsync(target)
                    self._upper.sync()
            finally:
                os.close(target)
            return
        if kind == stat.S_IFLNK:
            os.symlink(layer.readlink(ref), scratch, dir_fd=fd)
        else:
            self._upper.mknod(scratch, kind, attributes.rdev, dir_fd=fd)
        self._finish(place, attributes, scratch, fd)

    def attributes(self, place: Place, path: bytes, dir_fd: int) -> None:
        """Give an existing file the owner, mode, extended attributes and times of one in a layer."""
        self._finish(place, place.layer.attributes(place.ref), path, dir_fd)

    def _finish(self, place: Place, attributes: Attributes, scratch: bytes, fd: int) -> None:
        """Owner first, for it clears the set-id bits and capabilities; times last."""
        uid: int | None = attributes.uid
        gid: int | None = attributes.gid
        if not self._as_stored:
            uid = self._upper_owners.uids.stored(self._layer_owners.uids.shown(attributes.uid))
            gid = self._upper_owners.gids.stored(self._layer_owners.gids.shown(attributes.gid))
        if uid is None or gid is None:
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        self._upper.give(scratch, uid, gid, attributes.mode, attributes.rdev, dir_fd=fd)
        for name, value in place.layer.xattrs(place.ref).items():
            if shown_xattr(name) is None:
                continue
            path = b"/proc/self/fd/%d/%s" % (fd, scratch)
            try:
                if name in ACL_XATTRS:
                    value = self._acl(value)
                os.setxattr(path, self._upper.xattr_key(name), value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _LEFT_OUT:
                    raise
                if name == ACCESS:
                    self._upper.chmod(path, Acl.parse(value).mode_without(attributes.mode))
        os.utime(scratch, ns=(attributes.atime_ns, attributes.mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _acl(self, value: bytes) -> bytes:
        """An access control list of a layer as the upper stores it. OSError where it cannot."""
        acl = Acl.parse(value)
        if self._as_stored or (self._layer_owners.identity and self._upper_owners.identity):
            return value

        def stored(ids: IdMap, shown: int) -> int:
            found = ids.stored(shown)
            if found is None:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return found

        layer, upper = self._layer_owners, self._upper_owners
        return acl.mapped(
            lambda uid: stored(upper.uids, layer.uids.shown(uid)), lambda gid: stored(upper.gids, layer.gids.shown(gid))
        ).to_bytes()


def _copy_data(source: LayerFile, target: int, size: int) -> None:
    """Copy what is not holes, inside the kernel where the source is a file of its own."""
    os.ftruncate(target, size)
    for start, _, length in source.segments():
        end = start + length
        at = start
        if isinstance(source, DirectoryFile):
            at = _copy_in_kernel(source.fd, target, at, end)
        while at < end:
            data = source.pread(at, min(_CHUNK, end - at))
            if not data:
                return
            at += os.pwrite(target, data, at)


def _copy_in_kernel(source: int, target: int, at: int, end: int) -> int:
    """How far copy_file_range(2) got: nowhere across file systems that cannot."""
    try:
        while at < end:
            copied = os.copy_file_range(source, target, end - at, at, at)
            if copied == 0:
                break
            at += copied
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return at
