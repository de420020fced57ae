"""A layer that is a directory: an extracted tree, or any directory of the host."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from fuse.attributes import Attributes, from_stat
from fuse.entry import Extent
from fuse.errors import LayerError
from fuse.layers import Buffer, Place
from fuse.layers.links import HardLinks
from fuse.override import SECURITY, SET_APART
from fuse.ownership import Overrides, Ownership
from fuse.whiteout import (
    METACOPY_XATTRS,
    OPAQUE_MARKER,
    OPAQUE_VALUE,
    OPAQUE_XATTRS,
    REDIRECT_XATTRS,
    WHITEOUT_PREFIX,
    WHITEOUT_XATTRS,
)

_SECURITY_APART = SET_APART + SECURITY

_NO_XATTRS = (errno.EOPNOTSUPP, errno.ENOSYS)
_OPAQUE, _REDIRECT, _METACOPY, _WHITEOUT = (
    frozenset(map(os.fsdecode, names)) for names in (OPAQUE_XATTRS, REDIRECT_XATTRS, METACOPY_XATTRS, WHITEOUT_XATTRS)
)


class DirectoryLayer:
    """The tree below a directory; a ref is a path relative to it, b"." for itself.

    Nothing below may change while the layer is in use, so paths are followed as they are: every component is a name
    that was seen to be a directory.
    """

    def __init__(self, path: str | bytes, *, override: bytes | None = None) -> None:
        """`override` names the extended attribute that tells owners and modes; see `fuse.override.detect`."""
        self.path = os.fsencode(path)
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._proc = b"/proc/self/fd/%d/" % self._fd  # for the calls that take no directory descriptor
        self._links = HardLinks(self._fd)
        self._overrides = None if override is None else Overrides(Ownership.XATTR, override)

    @property
    def span(self) -> int | None:
        return None

    @property
    def may_have_xattrs(self) -> bool:
        return True

    def prepare(self) -> None:
        """The directory is open already."""

    def root(self) -> Place:
        status = os.stat(self._fd)
        return Place(self, b".", status.st_mode, status.st_ino)

    def find(self, directory: bytes, name: bytes) -> Place | None:
        path = _join(directory, name)
        try:
            status = os.stat(path, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return self._dotted_whiteout(directory, name)
        return Place(self, path, self._mode(status, path), status.st_ino)

    def entries(self, directory: bytes) -> list[tuple[bytes, Place]]:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            names = [os.fsencode(name) for name in os.listdir(fd)]
            found: list[tuple[bytes, Place]] = []
            dotted = []
            for name in names:
                if name.startswith(WHITEOUT_PREFIX):
                    dotted.append(name)
                    continue
                path = _join(directory, name)
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                found.append((name, Place(self, path, self._mode(status, path), status.st_ino)))
            if dotted:
                present = set(names)
                for name in dotted:
                    deleted = name[len(WHITEOUT_PREFIX) :]
                    if name != OPAQUE_MARKER and deleted not in present:
                        found.append((deleted, Place(self, _join(directory, name), 0, 0)))
        finally:
            os.close(fd)
        return found

    def listed(self, directory: bytes) -> list[bytes]:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            return [os.fsencode(name).removeprefix(WHITEOUT_PREFIX) for name in os.listdir(fd)]
        finally:
            os.close(fd)

    def opaque(self, directory: bytes) -> bool:
        """LayerError where what is below a directory has another name: that is not followed."""
        names = self._xattr_names(directory)
        if names:
            if any(self._maybe_xattr(directory, name) == OPAQUE_VALUE for name in _OPAQUE.intersection(names)):
                return True
            if not _REDIRECT.isdisjoint(names):
                raise LayerError(
                    f"{os.fsdecode(self.path)}/{os.fsdecode(directory)} was renamed by an overlay with "
                    "redirect_dir=on, which cannot be followed here"
                )
        return self._is_there(_join(directory, OPAQUE_MARKER)) or self._is_there(_whiteout_of(directory))

    def implicit(self, directory: bytes) -> bool:
        return False

    def attributes(self, ref: bytes) -> Attributes:
        status = os.stat(ref, dir_fd=self._fd, follow_symlinks=False)
        return from_stat(status) if self._overrides is None else self._overrides.attributes(self._proc + ref, status)

    def readlink(self, ref: bytes) -> bytes:
        return os.readlink(ref, dir_fd=self._fd)

    def xattrs(self, ref: bytes) -> dict[bytes, bytes]:
        path = self._proc + ref
        found = {}
        try:
            for name in os.listxattr(path, follow_symlinks=False):
                key = os.fsencode(name)
                shown = self.xattr_of_key(key)
                if shown is not None:
                    found[shown] = os.getxattr(path, key, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
        return found

    def xattr(self, ref: bytes, name: bytes) -> bytes:
        return os.getxattr(self._proc + ref, self.xattr_key(name), follow_symlinks=False)

    def xattr_key(self, name: bytes) -> bytes:
        """Under which name an attribute is kept."""
        overrides = self._overrides
        if overrides is not None and overrides.sets_security_apart and name.startswith(SECURITY):
            return SET_APART + name
        return name

    def xattr_of_key(self, key: bytes) -> bytes | None:
        """The reverse of `xattr_key`; None for what is not to be seen."""
        overrides = self._overrides
        if overrides is not None and overrides.sets_security_apart:
            if key.startswith(SECURITY):
                return None
            if key.startswith(_SECURITY_APART):
                return key[len(SET_APART) :]
        return key

    def names(self, place: Place) -> list[bytes]:
        return self._links.names(
            place.ref, place.ident, os.stat(place.ref, dir_fd=self._fd, follow_symlinks=False).st_nlink
        )

    def open(self, ref: bytes) -> DirectoryFile:
        """LayerError for a file whose data is in another layer."""
        fd = os.open(ref, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        status = os.fstat(fd)
        if status.st_blocks == 0 and status.st_size and not _METACOPY.isdisjoint(self._xattr_names(ref)):
            os.close(fd)
            raise LayerError(
                f"{os.fsdecode(self.path)}/{os.fsdecode(ref)} has its data elsewhere (an overlay with metacopy=on made "
                "it), where it cannot be found from here"
            )
        return DirectoryFile(fd)

    def close(self) -> None:
        os.close(self._fd)

    def _dotted_whiteout(self, directory: bytes, name: bytes) -> Place | None:
        path = _whiteout_of(_join(directory, name))
        return Place(self, path, 0, 0) if self._is_there(path) else None

    def _mode(self, status: os.stat_result, path: bytes) -> int:
        """The mode of a `Place`."""
        if self._is_whiteout(status, path):
            return 0
        return status.st_mode if self._overrides is None else self._overrides.mode(self.for_xattrs(path), status)

    def _is_whiteout(self, status: os.stat_result, path: bytes) -> bool:
        if stat.S_ISCHR(status.st_mode):
            return status.st_rdev == 0
        if status.st_size or not stat.S_ISREG(status.st_mode):
            return False
        return not _WHITEOUT.isdisjoint(self._xattr_names(path))

    def _is_there(self, path: bytes) -> bool:
        try:
            os.stat(path, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return False
        return True

    def for_xattrs(self, path: bytes) -> bytes:
        """The absolute path that the xattr calls need. Those of the upper directory can be absolute already."""
        return path if path.startswith(b"/") else self._proc + path

    def _xattr_names(self, path: bytes) -> list[str]:
        try:
            return os.listxattr(self.for_xattrs(path), follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_XATTRS:
                return []
            raise

    def _maybe_xattr(self, path: bytes, name: str) -> bytes | None:
        try:
            return os.getxattr(self.for_xattrs(path), name, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENODATA or error.errno in _NO_XATTRS:
                return None
            raise

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {os.fsdecode(self.path)}>"


class DirectoryFile:
    """A regular file of the host; owns its descriptor."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def pread(self, offset: int, length: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def pread_parts(self, offset: int, length: int) -> list[Buffer]:
        return [os.pread(self.fd, length, offset)]

    def segments(self) -> Iterator[Extent]:
        end = os.fstat(self.fd).st_size
        at = 0
        while at < end:
            try:
                start = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                raise
            at = os.lseek(self.fd, start, os.SEEK_HOLE)
            yield start, 0, at - start

    def close(self) -> None:
        os.close(self.fd)


def _whiteout_of(path: bytes) -> bytes:
    """The name of the file that says that a path is deleted from the layers below."""
    parent, slash, name = path.rpartition(b"/")
    return parent + slash + WHITEOUT_PREFIX + name


def _join(directory: bytes, name: bytes) -> bytes:
    return name if directory == b"." else directory + b"/" + name
