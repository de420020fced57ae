"""A container's upper directory as its image means it, also while the container runs.

Real owners are those of the user namespace that the engine runs in; `Owners` translates them back. Owners that are kept
beside the files are the image's already (fuse/ownership.py).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from fuse.acl import ACL_XATTRS, Acl
from fuse.attributes import Attributes
from fuse.errors import LayerError
from fuse.layers import Place
from fuse.ownership import Ownership
from fuse.upper import StoredUpper
from rootless.errors import ImageError

Triples = Sequence[tuple[int, int, int]]
"""(id in the image, id here, how many)."""

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
"""What a file that was there a moment ago answers."""

_ATTEMPTS = 100
_OVERFLOW = 65534  # what the kernel shows for an id that a user namespace does not have
_CAPABILITY = struct.Struct("<I16s")
"""`struct vfs_cap_data` of linux/capability.h, version 2; version 3 has the root of a user namespace behind it."""
_REVISION_2, _REVISION_3, _REVISIONS = 0x02000000, 0x03000000, 0xFF000000


@dataclass(frozen=True, slots=True)
class Owners:
    """From ids of this user namespace to those of the image; the overflow id for one that the container has not."""

    uids: Triples
    gids: Triples

    def uid(self, ident: int) -> int:
        """Of a user."""
        return _inside(self.uids, ident)

    def gid(self, ident: int) -> int:
        """Of a group."""
        return _inside(self.gids, ident)


def _inside(triples: Triples, ident: int) -> int:
    for image, here, size in triples:
        if here <= ident < here + size:
            return image + ident - here
    return _OVERFLOW


class Changed(StoredUpper):
    """The upper directory `path` with the work directory `work`. What goes while it is read is not there, or empty."""

    def __init__(self, path: str, work: str, owners: Owners) -> None:
        super().__init__(path, work)
        self._owners = owners if self.ownership is Ownership.REAL else None

    def attributes(self, ref: bytes) -> Attributes:
        found = super().attributes(ref)
        owners = self._owners
        return found if owners is None else found._replace(uid=owners.uid(found.uid), gid=owners.gid(found.gid))

    def xattrs(self, ref: bytes) -> dict[bytes, bytes]:
        found = super().xattrs(ref)
        if self._owners is not None:
            for name in ACL_XATTRS & found.keys():
                found[name] = self._translated(self._owners, found[name])
        return found

    def entries(self, directory: bytes) -> list[tuple[bytes, Place]]:
        """A name may go between the listing and the look at it; then it is listed again."""
        for _ in range(_ATTEMPTS):
            try:
                return super().entries(directory)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                if not self._is_there(directory):
                    return []
        raise ImageError(
            f"the container's directory /{os.fsdecode(directory)} changes too fast to be read",
            hint="pause the container meanwhile, or stop it",
        )

    def opaque(self, directory: bytes) -> bool:
        try:
            return super().opaque(directory)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return False

    @staticmethod
    def _translated(owners: Owners, value: bytes) -> bytes:
        try:
            return Acl.parse(value).mapped(owners.uid, owners.gid).to_bytes()
        except LayerError:
            return value  # not of the version that is known; the kernel took it


def without_namespace(capability: bytes) -> bytes:
    """A file capability without the user namespace that it was set in, as an image has it (capabilities(7))."""
    if len(capability) < _CAPABILITY.size:
        return capability
    magic, sets = _CAPABILITY.unpack_from(capability)
    if magic & _REVISIONS != _REVISION_3:
        return capability
    return _CAPABILITY.pack(magic & ~_REVISIONS | _REVISION_2, sets)
