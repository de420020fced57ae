"""What the overlay asks of a layer.

A layer is a tree of files that does not change while it is mounted. It names its files by a `ref` of its own choosing;
a `Place` is such a file together with its layer. Errors are OSError, or LayerError where the layer's data is damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from fuse.attributes import Attributes
from fuse.entry import Extent

Buffer = bytes | memoryview


class Place(NamedTuple):
    """A file in a layer."""

    layer: Layer
    ref: Any
    """The layer's own name of the file: a node number, or a path."""
    mode: int
    """st_mode; 0 is a whiteout."""
    ident: int
    """The same for all names of one file in this layer, different for different files; at least 0."""


class LayerFile(Protocol):
    """A regular file opened for reading."""

    def pread(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer only at the end."""

    def pread_parts(self, offset: int, length: int) -> list[Buffer]:
        """The same in pieces that are not copied, for writev(2); they stay valid for as long as they are held."""

    def segments(self) -> Iterator[Extent]:
        """(offset, 0, length) of what is not holes, ascending."""

    def close(self) -> None: ...


class Layer(Protocol):
    """A read-only tree."""

    @property
    def span(self) -> int | None:
        """How many `ident`s there are, or None where they are inode numbers of a file system."""

    @property
    def may_have_xattrs(self) -> bool:
        """False where no file of it has an extended attribute."""

    def prepare(self) -> None:
        """Take hold of what will be needed later, so that it may be removed from its directory meanwhile."""

    def root(self) -> Place: ...

    def find(self, directory: Any, name: bytes) -> Place | None: ...

    def entries(self, directory: Any) -> list[tuple[bytes, Place]]:
        """Every name in a directory, whiteouts included, in any order."""

    def listed(self, directory: Any) -> list[bytes]:
        """The names alone; some may have gone by another rule than `find`'s, none that `find` knows is missing."""

    def opaque(self, directory: Any) -> bool: ...

    def implicit(self, directory: Any) -> bool:
        """Whether the layer only implies the directory: the attributes of the next layer that has it hold."""

    def attributes(self, ref: Any) -> Attributes: ...

    def readlink(self, ref: Any) -> bytes: ...

    def xattrs(self, ref: Any) -> dict[bytes, bytes]:
        """As stored, the layer's own marks included."""

    def xattr(self, ref: Any, name: bytes) -> bytes:
        """OSError(ENODATA) where there is none of that name."""

    def names(self, place: Place) -> list[bytes]:
        """The paths of all names of a file, where the layer can tell; else none."""

    def open(self, ref: Any) -> LayerFile: ...

    def close(self) -> None: ...
