"""Decompressing layers as a stream, with limits against decompression bombs.

gzip (RFC 1952, any number of members) through ISA-L; zstd (RFC 8878, any number of frames) with a window of at most
128 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

import zstandard
from isal import igzip_lib, isal_zlib

from rootless.errors import ImageError
from rootless.oci.mediatype import Compression

CHUNK = 1 << 20
"""Most bytes that one step of gzip gives out."""

_ISAL_ERROR = cast(type[Exception], igzip_lib.IsalError)
_ALLOWANCE = 64 << 20
_RATIO = 1100
"""DEFLATE cannot exceed 1032:1. What zstd claims beyond that, after the first 64 MiB, is a bomb and not a layer."""
_WINDOW_MAX = 1 << 27


class Decompressor(Protocol):
    """Bytes of a blob in, bytes of the tar out."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What comes out for `chunk`, in pieces. Raises ImageError."""
        ...

    def close(self) -> None:
        """Raise ImageError if the blob stops in the middle."""
        ...


def decompressor(compression: Compression) -> Decompressor:
    """A fresh decompressor."""
    if compression is Compression.GZIP:
        return _Gzip()
    if compression is Compression.ZSTD:
        return _Zstd()
    return _Plain()


class _Budget:
    """Counts both sides of a decompressor."""

    def __init__(self) -> None:
        self._consumed = 0
        self._produced = 0

    def consume(self, count: int) -> None:
        self._consumed += count

    def produce(self, count: int) -> None:
        self._produced += count
        if self._produced > _ALLOWANCE + _RATIO * self._consumed:
            raise ImageError(
                f"a layer unpacks to more than {self._produced} bytes from only {self._consumed}: a decompression bomb"
            )


class _Plain:
    def feed(self, chunk: bytes) -> Iterator[bytes]:
        yield chunk

    def close(self) -> None:
        return


class _Gzip:
    def __init__(self) -> None:
        self._budget = _Budget()
        self._stream = isal_zlib.decompressobj(wbits=31)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._budget.consume(len(chunk))
        data = chunk
        while data:
            if self._stream.eof:
                if not any(data[:512]) and not data.strip(b"\0"):
                    return  # padding after the last member, which gzip(1) ignores too
                self._stream = isal_zlib.decompressobj(wbits=31)
            try:
                piece = self._stream.decompress(data, CHUNK)
            except _ISAL_ERROR as error:
                raise ImageError(f"a layer is not valid gzip: {error}") from None
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if piece:
                self._budget.produce(len(piece))
                yield piece
            elif not self._stream.eof and not self._stream.unconsumed_tail:
                return

    def close(self) -> None:
        if not self._stream.eof:
            raise ImageError("a layer's gzip stream is cut off")


class _Zstd:
    """Pieces are joined to PIECE bytes. The binding has no bound on what one call gives out, so it is called with
    little:
    four bytes make at most a block of 128 KiB, and thus one call at most 128 MiB."""

    _STEP = 4096
    _PIECE = 256 << 10

    def __init__(self) -> None:
        self._budget = _Budget()
        self._context = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX)
        self._stream = self._context.decompressobj()
        self._started = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        pieces: list[bytes] = []
        held = 0
        for start in range(0, len(chunk), self._STEP):
            data = chunk[start : start + self._STEP]
            self._budget.consume(len(data))
            while data:
                if self._stream.eof:
                    self._stream = self._context.decompressobj()
                self._started = True
                try:
                    piece = self._stream.decompress(data)
                except zstandard.ZstdError as error:
                    raise ImageError(f"a layer is not valid zstd: {error}") from None
                data = self._stream.unused_data if self._stream.eof else b""
                self._budget.produce(len(piece))
                pieces.append(piece)
                held += len(piece)
            if held >= self._PIECE:
                yield b"".join(pieces)
                pieces.clear()
                held = 0
        if held:
            yield b"".join(pieces)

    def close(self) -> None:
        if self._started and not self._stream.eof:
            raise ImageError("a layer's zstd stream is cut off")
