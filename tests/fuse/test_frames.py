"""Seekable frames: what goes in comes out from anywhere, and damage is one error."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse.errors import LayerError
from fuse.frames import FrameCache, FramesReader, FramesWriter

FRAME = 1024


def frames(path: Path, chunks: list[bytes]) -> bytes:
    with path.open("wb") as file:
        writer = FramesWriter(file, frame_size=FRAME)
        for chunk in chunks:
            writer.write(chunk)
        writer.close()
    data = b"".join(chunks)
    assert writer.size == len(data)
    return data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    chunks=st.lists(st.binary(max_size=3 * FRAME), max_size=5),
    reads=st.lists(st.tuples(st.integers(0, 8 * FRAME), st.integers(0, 4 * FRAME)), max_size=8),
)
def test_reads_are_slices_of_the_stream(tmp_path: Path, chunks: list[bytes], reads: list[tuple[int, int]]) -> None:
    path = tmp_path / "frames"
    data = frames(path, chunks)
    reader = FramesReader(str(path), cache=FrameCache(2 * FRAME))
    try:
        assert reader.size == len(data)
        for offset, length in reads:
            assert reader.pread(offset, length) == data[offset : offset + length]
    finally:
        reader.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(at=st.integers(0), value=st.integers(0, 255), cut=st.integers(0), how=st.sampled_from(["byte", "cut", "both"]))
def test_damage_is_a_layer_error_or_harmless(tmp_path: Path, at: int, value: int, cut: int, how: str) -> None:
    path = tmp_path / "frames"
    data = frames(path, [bytes(range(256)) * 10, b"x" * 700])
    stored = bytearray(path.read_bytes())
    if how != "cut":
        stored[at % len(stored)] = value
    if how != "byte":
        del stored[cut % len(stored) :]
    path.write_bytes(stored)
    try:
        reader = FramesReader(str(path))
    except LayerError:
        return
    try:
        assert reader.pread(0, len(data)) == data
    except LayerError:
        pass
    finally:
        reader.close()


def test_no_descriptor_is_left_after_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    path.write_bytes(b"no frames at all" * 10)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LayerError):
        FramesReader(str(path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    data = frames(path, [os.urandom(20 * FRAME)])
    cache = FrameCache(3 * FRAME)
    reader = FramesReader(str(path), cache=cache)
    assert reader.pread(0, len(data)) == data
    assert cache.held <= 3 * FRAME
    cache.clear()
    assert cache.held == 0
    assert reader.pread(5, 7) == data[5:12]
    reader.close()


def test_the_zstd_program_reads_it(tmp_path: Path) -> None:
    program = shutil.which("zstd")
    path = tmp_path / "frames"
    data = frames(path, [b"some text " * 1000])
    if program is None:  # the library reads the same format, frame by frame
        import zstandard

        with path.open("rb") as file:
            assert zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read() == data
        return
    assert subprocess.run([program, "-dc", str(path)], check=True, capture_output=True).stdout == data


def test_a_failing_file_is_an_os_error() -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "No space left on device")

    writer = FramesWriter(Full(), frame_size=16)
    with pytest.raises(OSError):
        writer.write(b"x" * 100)
