"""Packing a layer again: the same tar in another compression, for those who want it so in a registry.

The bytes are the same every time: no times or names in gzip's header, one thread. Synchronous, for a thread.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import zstandard
from isal import isal_zlib

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.compression import decompressor
from rootless.image.model import Layer
from rootless.oci.digest import Digest
from rootless.oci.mediatype import Compression

_READ = 1 << 20
_LEVELS = {Compression.GZIP: range(1, 10), Compression.ZSTD: range(1, 21)}
_ISAL_DEFAULT = 2
_ZSTD_DEFAULT = 3


@dataclass(frozen=True, slots=True)
class Packing:
    """How layers are to be packed. Without a level it is a fast one. `force`: also those that are packed so already.

    Raises UsageError for a level that the compression does not have.
    """

    compression: Compression
    level: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        levels = _LEVELS[self.compression]
        if self.level is not None and self.level not in levels:
            raise UsageError(f"{self.compression} has the levels {levels[0]} to {levels[-1]}, not {self.level}")

    def concerns(self, layer: Layer) -> bool:
        """Whether this layer is to be packed again."""
        return self.force or self.level is not None or layer.compression is not self.compression


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def repack(
    layer: Layer, pieces: Iterator[bytes], packing: Packing, path: str, *, turn: Callable[[], None]
) -> tuple[Digest, int]:
    """Write the layer whose blob `pieces` are to the new file `path`. Returns the digest and size of what it has.

    `turn` is called between pieces, and may raise to stop. Raises ImageError if the blob does not unpack to what the
    configuration says, HostError for a failing disk.
    """
    unpacked = decompressor(layer.compression)
    content = layer.diff_id.hasher()
    packer = _packer(packing)
    writer = _Writer(path)
    with writer:
        for packed in pieces:
            turn()
            for piece in unpacked.feed(packed):
                content.update(piece)
                writer.write(packer.compress(piece))
        unpacked.close()
        if content.hexdigest() != layer.diff_id.hex:
            raise ImageError(
                f"layer {layer.diff_id} is damaged in the store: it unpacks to something else",
                hint="pull the image again",
            )
        writer.write(packer.flush())
    return writer.digest, writer.size


class _Writer:
    """The new file, hashed. Raises HostError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._hasher = Digest.of(b"").hasher()
        self.size = 0
        try:
            self._file = open(path, "xb")  # noqa: SIM115  closed by __exit__
        except OSError as error:
            raise HostError(f"cannot write {path}: {error.strerror}") from error

    @property
    def digest(self) -> Digest:
        return Digest("sha256", self._hasher.hexdigest())

    def write(self, data: bytes) -> None:
        self._hasher.update(data)
        self.size += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise HostError(f"cannot write {self._path}: {error.strerror}") from error

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *details: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise HostError(f"cannot write {self._path}: {error.strerror}") from error


def _packer(packing: Packing) -> _Packer:
    if packing.compression is Compression.ZSTD:
        level = _ZSTD_DEFAULT if packing.level is None else packing.level
        return zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    if packing.level is None:
        return isal_zlib.compressobj(_ISAL_DEFAULT, isal_zlib.DEFLATED, 31)
    return zlib.compressobj(packing.level, zlib.DEFLATED, 31)


def read_pieces(path: str, *, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
    """The bytes of a file, or `size` of them from `offset` on. Raises HostError."""
    try:
        with open(path, "rb", buffering=0) as file:
            os.lseek(file.fileno(), offset, os.SEEK_SET)
            left = size
            while left is None or left > 0:
                piece = file.read(_READ if left is None else min(_READ, left))
                if not piece:
                    return
                if left is not None:
                    left -= len(piece)
                yield piece
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
