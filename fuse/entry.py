"""One name in a layer."""

from __future__ import annotations

import stat
from dataclasses import dataclass

Extent = tuple[int, int, int]
"""(logical offset in the file, offset in the layer's data, length), in bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a layer says about one path. Ids are those in the image."""

    path: bytes
    """Relative, no leading "./", no trailing "/"; b"" is the root directory."""
    mode: int
    """st_mode with the type bits. Of a hard link: that of its target, or 0 where only the name is known yet."""
    uid: int = 0
    gid: int = 0
    size: int = 0
    """Of a regular file."""
    mtime_ns: int = 0
    rdev: int = 0
    """os.makedev(major, minor) of a device."""
    target: bytes = b""
    """Of a symbolic link."""
    hardlink: bytes | None = None
    """The path, in this layer, that this entry is another name of."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    extents: tuple[Extent, ...] = ()
    """Where the data is, ascending by logical offset; what they leave out is holes."""
    whiteout: bool = False
    """The name is deleted from the layers below; nothing else of the entry counts."""
    opaque: bool = False
    """A directory that hides the layers below."""
    implicit: bool = False
    """A directory that the layer only implies: where a layer below has it, that one's owner, mode and times hold."""

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)
