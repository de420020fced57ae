"""New layers: an archive of ours that is packed while it is written, or a packed one that somebody gives us.

Their digests are known at the end only, so the blob is written in a workspace, hashed on the way, and named then.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack

from isal import isal_zlib

from rootless.errors import HostError, ImageError
from rootless.image.compression import decompressor
from rootless.image.lane import Lane
from rootless.image.model import Layer
from rootless.image.store import Store
from rootless.image.workspace import Workspace
from rootless.oci.digest import Digest
from rootless.oci.mediatype import Compression, MediaType
from rootless.oci.tar import TarParser

_GATHER = 256 << 10  # bytes that are packed together
_LEVEL = 2  # of isal's four: as fast as the disk
_GZIP_WRAPPER = 31  # wbits, as zlib(3) has them
_MAGIC = {
    b"\x1f\x8b": Compression.GZIP,
    b"\x28\xb5\x2f\xfd": Compression.ZSTD,
}
_FOREIGN = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": "zip"}
_HEAD = 8
_OCI = {
    Compression.NONE: MediaType.OCI_LAYER,
    Compression.GZIP: MediaType.OCI_LAYER_GZIP,
    Compression.ZSTD: MediaType.OCI_LAYER_ZSTD,
}


class _NewBlob:
    """A file in a workspace that becomes a blob of the store."""

    def __init__(self, store: Store, space: Workspace) -> None:
        self._store = store
        self._temporary = space.file("new")
        self._hasher = hashlib.sha256()
        self.size = 0
        try:
            self._file = open(self._temporary, "xb", buffering=0)  # noqa: SIM115  closed by __exit__
        except OSError as error:
            raise self._failure(error) from error

    def write(self, data: bytes) -> None:
        self._hasher.update(data)
        self.size += len(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._failure(error) from error

    def commit(self) -> Digest:
        """Sync it and give it its name."""
        digest = Digest("sha256", self._hasher.hexdigest())
        path = self._store.blobs.path(digest)
        try:
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.rename(self._temporary, path)
        except OSError as error:
            raise self._failure(error) from error
        return digest

    def __enter__(self) -> _NewBlob:
        return self

    def __exit__(self, *details: object) -> None:
        self._file.close()

    def _failure(self, error: OSError) -> HostError:
        return HostError(
            f"cannot write a new layer below {self._store.path}: {error.strerror}",
            hint="free some space, for example with `rcontain rmi`",
        )


class LayerPacker:
    """Takes an archive's bytes in order, packs them with gzip and hashes both; `finish` puts the blob into the store.

    A context manager: leaving it without `finish` leaves nothing. Raises HostError where the disk is full or fails.
    """

    def __init__(self, store: Store, space: Workspace) -> None:
        self._diff = hashlib.sha256()
        self._held = bytearray()
        self._compressor = isal_zlib.compressobj(level=_LEVEL, wbits=_GZIP_WRAPPER)
        with ExitStack() as stack:
            self._blob = stack.enter_context(_NewBlob(store, space))
            self._lane = stack.enter_context(Lane(self._pack))
            self._stack = stack.pop_all()

    def write(self, data: bytes) -> None:
        """The next bytes of the archive. However they come, the packed bytes are the same."""
        self._held += data
        whole = len(self._held) - len(self._held) % _GATHER
        if whole:
            for at in range(0, whole, _GATHER):
                self._lane.put(bytes(memoryview(self._held)[at : at + _GATHER]))
            self._held = self._held[whole:]

    def finish(self) -> Layer:
        """The archive is at its end."""
        self._lane.put(bytes(self._held))
        self._lane.drain()
        self._blob.write(self._compressor.flush())
        digest = self._blob.commit()
        diff_id = Digest("sha256", self._diff.hexdigest())
        return Layer(diff_id, digest, MediaType.OCI_LAYER_GZIP, self._blob.size)

    def _pack(self, data: bytes) -> None:
        self._diff.update(data)
        packed = self._compressor.compress(data)
        if packed:
            self._blob.write(packed)

    def __enter__(self) -> LayerPacker:
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()


class LayerReceiver:
    """Takes the bytes of an archive that is packed or not, checks that it is one, and keeps it as it came.

    As LayerPacker; raises ImageError for what is no archive.
    """

    def __init__(self, store: Store, space: Workspace) -> None:
        self._diff = hashlib.sha256()
        self._parser = TarParser()
        self._head = b""
        self._compression: Compression | None = None
        self._blob = _NewBlob(store, space)

    def write(self, data: bytes) -> None:
        """The next bytes, as they came."""
        if self._compression is None:
            self._head += data
            if len(self._head) < _HEAD:
                return
            data = self._begin()
        self._take(data)

    def finish(self) -> Layer:
        """All bytes are there."""
        if self._compression is None:
            if not self._head:
                raise ImageError("the archive is empty")
            self._take(self._begin())
        self._unpacked.close()
        self._parser.close()
        assert self._compression is not None
        diff_id = Digest("sha256", self._diff.hexdigest())
        return Layer(diff_id, self._blob.commit(), _OCI[self._compression], self._blob.size)

    def _begin(self) -> bytes:
        for magic, name in _FOREIGN.items():
            if self._head.startswith(magic):
                raise ImageError(f"the archive is packed with {name}", hint="unpack it first; gzip and zstd are read")
        self._compression = next(
            (kind for magic, kind in _MAGIC.items() if self._head.startswith(magic)), Compression.NONE
        )
        self._unpacked = decompressor(self._compression)
        return self._head

    def _take(self, data: bytes) -> None:
        self._blob.write(data)
        for piece in self._unpacked.feed(data):
            self._diff.update(piece)
            self._parser.feed(piece)

    def __enter__(self) -> LayerReceiver:
        return self

    def __exit__(self, *details: object) -> None:
        self._blob.__exit__(*details)
