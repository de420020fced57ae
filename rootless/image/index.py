"""From a layer's tar to its index: what the FUSE overlay serves without unpacking."""

from __future__ import annotations

import os
import stat

from fuse import errors
from fuse.entry import Entry
from fuse.errors import LayerError
from fuse.indexwriter import IndexWriter
from rootless.errors import HostError, ImageError
from rootless.image.earlylinks import LinkToNothing
from rootless.oci.tar import TarEntry


class LayerIndex:
    """Collects entries in archive order; `write` makes the file. Raises ImageError for what no file system can hold,
    LinkToNothing for a hard link without its target.
    """

    def __init__(self) -> None:
        self._writer = IndexWriter()

    def add(self, entry: TarEntry) -> None:
        """Take the next entry."""
        device = stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)
        try:
            self._writer.add(
                Entry(
                    path=entry.path,
                    mode=entry.mode,
                    uid=entry.uid,
                    gid=entry.gid,
                    size=entry.size,
                    mtime_ns=entry.mtime_ns,
                    rdev=os.makedev(entry.major, entry.minor) if device else 0,
                    target=entry.target,
                    hardlink=entry.hardlink,
                    xattrs=entry.xattrs,
                    extents=entry.extents,
                )
            )
        except errors.LinkToNothing as error:
            raise LinkToNothing(f"a layer is malformed: {error}") from error
        except LayerError as error:
            raise ImageError(f"a layer is malformed: {error}") from error

    def write(self, path: str) -> None:
        """Write the index to a new file and sync it. Raises HostError."""
        try:
            self._writer.write(path)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        except LayerError as error:
            raise ImageError(f"a layer is malformed: {error}") from error
        except OSError as error:
            raise HostError(f"cannot write {path}: {error.strerror}") from error
