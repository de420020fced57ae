"""Decompressing layers as a stream, with limits against decompression bombs.

gzip (RFC 1952, any number of members) through ISA-L; what follows the last member is ignored with a note, as gzip(1)
does. zstd (RFC 8878, any number of frames) with a window of at most 128 MiB.
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
_SMALL_STEP = 16 << 10
_GZIP_MAGIC = b"\x1f\x8b"
_IGNORED = "what follows the end of its gzip stream was ignored"
_PIECE = 256 << 10


class Decompressor(Protocol):
    """Bytes of a blob in, bytes of the tar out."""

    notes: list[str]
    """What was odd about the blob, and did not matter."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """What comes out for `chunk`, in pieces. Raises ImageError."""
        ...

    def close(self) -> None:
        """Raise ImageError if the blob stops in the middle."""
        ...


def decompressor(compression: Compression) -> Decompressor:
    """A fresh decompressor."""
    if compression is Compression.GZIP:
        return _CalledGzip()
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
    def __init__(self) -> None:
        self.notes: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        yield chunk

    def close(self) -> None:
        return


class _CalledGzip:
    """gzip, or a plain tar: Docker's format knows only packed layers, and what `podman save --format docker-dir` writes
    is called gzip and is not. Other tools look at the first bytes, too; digests are verified in either case.
    """

    _ENOUGH = 263
    """Bytes up to the end of a tar header's magic."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._inner: Decompressor | None = None
        self._first = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if self._inner is None:
            self._first += chunk
            if len(self._first) < self._ENOUGH and self._first[:2] != b"\x1f\x8b":
                return iter(())
            chunk, self._first = self._first, b""
            self._inner = self._chosen(chunk)
        return self._inner.feed(chunk)

    def _chosen(self, first: bytes) -> Decompressor:
        if first[:2] != b"\x1f\x8b" and first[257:262] == b"ustar":
            inner: Decompressor = _Plain()
            self.notes.append("it is called gzip and is not packed")
        else:
            inner = _Gzip()
            inner.notes = self.notes
        return inner

    def close(self) -> None:
        if self._inner is None:
            self._inner = _Gzip()
            for _ in self._inner.feed(self._first):
                pass
        self._inner.close()


class _Gzip:
    """After the first member of several the input is cut small: what follows a member is copied for the next one."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._budget = _Budget()
        self._stream = isal_zlib.decompressobj(wbits=31)
        self._step = CHUNK
        self._held = b""  # after a member: the first byte of what may be the next one's magic number
        self._padded = False
        self._over = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        return _gathered(self._pieces(chunk))

    def _begins_member(self, data: bytes) -> bool:
        """Whether another member comes after the last one: not after padding, and not with what is no gzip."""
        if self._over:
            return False
        if not data.strip(b"\0"):
            self._padded = True
            return False
        if data == _GZIP_MAGIC[:1] and not self._padded:
            self._held = data
            return False
        if self._padded or not data.startswith(_GZIP_MAGIC):
            self._over = True
            self.notes.append(_IGNORED)
            return False
        return True

    def _pieces(self, chunk: bytes) -> Iterator[bytes]:
        if self._held:
            chunk, self._held = self._held + chunk, b""
        position = 0
        while position < len(chunk):
            data = chunk[position : position + self._step]
            position += len(data)
            self._budget.consume(len(data))
            while data:
                if self._stream.eof:
                    if not self._begins_member(data):
                        break
                    self._stream = isal_zlib.decompressobj(wbits=31)
                    self._step = _SMALL_STEP
                try:
                    piece = self._stream.decompress(data, CHUNK)
                except _ISAL_ERROR as error:
                    raise ImageError(f"a layer is not valid gzip: {error}") from None
                rest = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
                if not piece and not self._stream.eof and len(rest) == len(data):
                    raise ImageError("a layer is not valid gzip: it makes no progress")
                data = rest
                if piece:
                    self._budget.produce(len(piece))
                    yield piece

    def close(self) -> None:
        if self._held:
            self._over, self._held = True, b""
            self.notes.append(_IGNORED)
        if not self._stream.eof:
            raise ImageError("a layer's gzip stream is cut off")


class _Zstd:
    """The binding has no bound on what one call gives out, so it is called with little: four bytes make at most a
    block of 128 KiB, and thus one call at most 128 MiB."""

    _STEP = 4096

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._budget = _Budget()
        self._context = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX)
        self._stream = self._context.decompressobj()
        self._started = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        return _gathered(self._pieces(chunk))

    def _pieces(self, chunk: bytes) -> Iterator[bytes]:
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
                yield piece

    def close(self) -> None:
        if self._started and not self._stream.eof:
            raise ImageError("a layer's zstd stream is cut off")


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Small pieces joined to about _PIECE bytes; nothing is held back at the end."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield held[0] if len(held) == 1 else b"".join(held)
            held = []
            size = 0
    if size:
        yield b"".join(held)
