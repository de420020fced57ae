"""Decompression as a stream."""

from __future__ import annotations

import gzip

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.errors import ImageError
from rootless.image.compression import decompressor
from rootless.oci.mediatype import Compression
from tests.kit.images import file, tar

PACK = {
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: zstandard.compress,
    Compression.NONE: bytes,
}


def unpack(compression: Compression, packed: bytes, step: int = 1 << 20) -> bytes:
    stream = decompressor(compression)
    pieces = [piece for at in range(0, len(packed), step) for piece in stream.feed(packed[at : at + step])]
    stream.close()
    return b"".join(pieces)


@given(
    st.sampled_from(list(Compression)),
    st.lists(st.tuples(st.binary(max_size=300), st.integers(1, 2000)), max_size=4),
    st.integers(1, 700),
)
@settings(max_examples=60)
def test_members_in_any_steps(compression: Compression, parts: list[tuple[bytes, int]], step: int) -> None:
    contents = [text * times for text, times in parts]
    packed = b"".join(PACK[compression](content) for content in contents)
    if compression is Compression.GZIP and not packed:
        packed = gzip.compress(b"")
    assert unpack(compression, packed, step) == b"".join(contents)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_damage(compression: Compression) -> None:
    packed = PACK[compression](bytes(range(256)) * 500)
    truncated = [packed[:-1], packed[: len(packed) // 2]]
    after = packed + (b"\x1f\x8b damage" if compression is Compression.GZIP else b"trailing garbage")
    for bad in (*truncated, b"x" * 100, after):
        with pytest.raises(ImageError, match=r"gzip|zstd"):
            unpack(compression, bad)


def test_zero_padding_after_gzip_is_ignored() -> None:
    assert unpack(Compression.GZIP, gzip.compress(b"a") + bytes(1000)) == b"a"


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
@pytest.mark.parametrize("trailing", [b"garbage", b"\x1f", b"\x1fx", bytes(30) + gzip.compress(b"b"), b"\0x"])
def test_what_follows_gzip_is_ignored_with_a_note(trailing: bytes, step: int) -> None:
    """As gzip(1), Docker's unpigz and so most of the world does."""
    packed = gzip.compress(b"a") + gzip.compress(b"A") + trailing
    stream = decompressor(Compression.GZIP)
    pieces = [piece for at in range(0, len(packed), step) for piece in stream.feed(packed[at : at + step])]
    stream.close()
    assert b"".join(pieces) == b"aA"
    assert stream.notes == ["what follows the end of its gzip stream was ignored"]


@pytest.mark.parametrize("step", [1, 100, 1 << 20])
def test_a_plain_tar_that_is_called_gzip(step: int) -> None:
    plain = tar([file("x", b"x")])
    assert unpack(Compression.GZIP, plain, step) == plain
    for short in (b"\x1f", b"plain", b"x" * 300):
        with pytest.raises(ImageError, match="gzip"):
            unpack(Compression.GZIP, short, step)


def test_zstd_with_skippable_frames() -> None:
    """As zstd:chunked layers and seekable files have them, first, last and between."""
    skippable = b"\x50\x2a\x4d\x18\x05\0\0\0hello"
    packed = skippable + zstandard.compress(b"a" * 100) + skippable + zstandard.compress(b"b") + skippable
    assert unpack(Compression.ZSTD, packed, 7) == b"a" * 100 + b"b"


def test_very_many_members() -> None:
    """As stargz layers have them, one or more for each file."""
    for compression in (Compression.GZIP, Compression.ZSTD):
        packed = PACK[compression](b"0123456789") * 60_000
        assert unpack(compression, packed) == b"0123456789" * 60_000


def test_bombs() -> None:
    packed = zstandard.ZstdCompressor(level=1).compress(bytes(512 << 20))
    with pytest.raises(ImageError, match="bomb"):
        unpack(Compression.ZSTD, packed)


def test_a_window_that_is_too_large() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    stream = compressor.compressobj()
    packed = stream.compress(b"x" * 100_000) + stream.flush()
    with pytest.raises(ImageError, match="zstd"):
        unpack(Compression.ZSTD, packed)
