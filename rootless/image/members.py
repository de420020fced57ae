"""Files by name in a directory or in a tar archive, where they are read in place: nothing is ever extracted.

An archive is hostile. Its names go through `rootless.oci.tar`, links lead to other members only, a name that comes
twice is refused (which of the two would be meant depends on the reader), and all numbers are compared with the size
of the file before they are used.
"""

from __future__ import annotations

import os
import posixpath
import stat
from typing import Protocol

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.source import LocalBlob
from rootless.oci.tar import Limits, TarEntry, TarParser, normal_path
from rootless.oci.tarfields import BLOCK, padded, shown

_MEMBERS_MAX = 50_000
_NAMES_MAX = 32 << 20
_HOPS = 8
_LIMITS = Limits(entries=1, record=1 << 16, metadata=1 << 20, extents=1)


class Files(Protocol):
    """Where an image lies in files."""

    @property
    def path(self) -> str:
        """Of the directory or archive, for messages."""

    def find(self, name: str) -> LocalBlob | None:
        """Where the bytes of a regular file are. Raises ImageError for links that lead nowhere good, HostError."""


def read(files: Files, name: str, limit: int) -> bytes:
    """A small file. Raises ImageError if it is missing or larger than `limit` bytes, HostError."""
    found = files.find(name)
    if found is None:
        raise ImageError(f"{files.path} has no {_quoted(name)}")
    if found.size > limit:
        raise ImageError(f"{_quoted(name)} in {files.path} has {found.size} bytes; the limit is {limit}")
    return read_at(found, 0, found.size)


def read_at(blob: LocalBlob, start: int, count: int) -> bytes:
    """`count` bytes of a file from `start` on, fewer only at its end. Raises HostError."""
    try:
        fd = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.pread(fd, min(count, blob.size - start), blob.offset + start)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"cannot read {blob.path}: {error.strerror}") from error


class Folder:
    """A directory."""

    def __init__(self, path: str) -> None:
        if not os.path.isdir(path):
            raise UsageError(f"there is no directory {path}")
        self._path = path

    @property
    def path(self) -> str:
        """The directory's."""
        return self._path

    def find(self, name: str) -> LocalBlob | None:
        """A regular file below the directory; symbolic links of the user's are followed."""
        path = os.path.join(self._path, normal_path(os.fsencode(name)).decode("utf-8", "surrogateescape"))
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode):
            raise ImageError(f"{path} is not a regular file")
        return LocalBlob(path, 0, found.st_size)


class Members:
    """The members of an uncompressed tar archive. Only its headers are read. Raises ImageError, HostError."""

    def __init__(self, path: str, title: str | None = None) -> None:
        self._path = path
        self._title = title or path
        self._files: dict[str, LocalBlob] = {}
        self._links: dict[str, str] = {}
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(f"cannot open {self._title}: {error.strerror}") from error
        try:
            self._scan(fd, os.fstat(fd).st_size)
        except ImageError as error:
            raise ImageError(f"cannot read {self._title}: {error.message}") from None
        except OSError as error:
            raise HostError(f"cannot read {self._title}: {error.strerror}") from error
        finally:
            os.close(fd)

    @property
    def path(self) -> str:
        """What messages call the archive."""
        return self._title

    @property
    def names(self) -> tuple[str, ...]:
        """Of all files and links."""
        return (*self._files, *self._links)

    def find(self, name: str) -> LocalBlob | None:
        """A member, or the one that a link leads to."""
        key = _name(normal_path(os.fsencode(name)))
        for _ in range(_HOPS):
            if key not in self._links:
                return self._files.get(key)
            key = self._links[key]
        raise ImageError(f"{_quoted(name)} in {self._title} is a link to a link, and so on")

    def _scan(self, fd: int, size: int) -> None:
        position = names = members = 0
        while position < size:
            if os.pread(fd, BLOCK, position) == bytes(BLOCK):
                return
            entry, data = _member(fd, position, size)
            stored = sum(length for _, _, length in entry.extents)
            if data + stored > size:
                raise ImageError("the archive is cut off")
            members += 1
            names += len(entry.path)
            if members > _MEMBERS_MAX or names > _NAMES_MAX:
                raise ImageError(f"the archive has more than {_MEMBERS_MAX} members, or names without end")
            self._keep(entry, LocalBlob(self._path, data, stored))
            position = data + padded(stored)
        if not members:
            raise ImageError("the archive is empty")

    def _keep(self, entry: TarEntry, data: LocalBlob) -> None:
        name = _name(entry.path)
        if stat.S_ISDIR(entry.mode):
            return
        if name in self._files or name in self._links:
            raise ImageError(f"it has two members with the name {shown(entry.path)}")
        if entry.hardlink is not None:
            self._links[name] = _name(entry.hardlink)
        elif stat.S_ISLNK(entry.mode):
            self._links[name] = _name(normal_path(posixpath.join(posixpath.dirname(entry.path), entry.target)))
        elif stat.S_ISREG(entry.mode):
            if data.size != entry.size:
                raise ImageError(f"its member {shown(entry.path)} is sparse")
            self._files[name] = data


def _member(fd: int, start: int, size: int) -> tuple[TarEntry, int]:
    """The member whose headers begin at `start`, and where its data are."""
    parser = TarParser(limits=_LIMITS)
    position = start
    while position < size:
        block = os.pread(fd, BLOCK, position)
        position += BLOCK
        for event in parser.feed(block):
            assert isinstance(event, TarEntry)
            return event, position
    raise ImageError("the archive is cut off")


def _name(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _quoted(name: str) -> str:
    return shown(os.fsencode(name))
