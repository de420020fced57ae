"""Reading ahead: nothing is done twice or lost, and a failed job leaves its error to whoever needs the frame."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import zstandard

from fuse.errors import LayerError
from fuse.frames import FrameCache, FramesReader, FramesWriter
from fuse.readahead import ReadAhead

HERE = zstandard.ZstdDecompressor()


def test_a_running_job_is_waited_for_and_the_next_one_is_done_meanwhile() -> None:
    done: dict[tuple[int, int], bytes] = {}
    ahead = ReadAhead(done.__setitem__)
    begun, go_on = threading.Event(), threading.Event()
    threads: dict[int, str] = {}

    def slow(_: object) -> bytes:
        begun.set()
        assert go_on.wait(10)
        threads[1] = threading.current_thread().name
        return b"one"

    def quick(_: object) -> bytes:
        threads[2] = threading.current_thread().name
        go_on.set()
        return b"two"

    ahead.ask((0, 1), slow)
    assert begun.wait(10)
    ahead.ask((0, 2), quick)
    ahead.ask((0, 2), quick)
    assert ahead.result((0, 1), HERE) == b"one"
    assert done == {(0, 1): b"one", (0, 2): b"two"}
    assert threads == {1: "readahead", 2: threading.main_thread().name}
    ahead.close()


def test_a_queued_job_is_called_off() -> None:
    done: dict[tuple[int, int], bytes] = {}
    ahead = ReadAhead(done.__setitem__)
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: object) -> bytes:
        begun.set()
        assert go_on.wait(10)
        return b""

    def never(_: object) -> bytes:
        raise AssertionError

    ahead.ask((0, 1), slow)
    assert begun.wait(10)
    ahead.ask((0, 2), never)
    ahead.ask((5, 1), never)
    assert ahead.result((0, 2), HERE) is None
    ahead.call_off(5)
    go_on.set()
    ahead.close()
    assert done == {(0, 1): b""}
    assert "readahead" not in {thread.name for thread in threading.enumerate()}


def test_a_failed_job_has_no_result() -> None:
    ahead = ReadAhead(lambda _key, _data: None)
    tried = threading.Event()

    def fail(_: object) -> bytes:
        tried.set()
        raise LayerError("damaged")

    ahead.ask((0, 1), fail)
    assert tried.wait(10)
    assert ahead.result((0, 1), HERE) is None
    ahead.close()


@pytest.mark.parametrize("limit", [4 << 10, 16 << 10, 1 << 20])
def test_a_stream_is_decompressed_once(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(1 << 20)
    with (tmp_path / "frames").open("wb") as file:
        writer = FramesWriter(file, frame_size=1024)
        writer.write(data)
        writer.close()
    loaded: list[int] = []
    load = FramesReader._load

    def counting(self: FramesReader, number: int, decompressor: zstandard.ZstdDecompressor) -> bytes:
        loaded.append(number)
        return load(self, number, decompressor)

    monkeypatch.setattr(FramesReader, "_load", counting)
    cache = FrameCache(limit)
    reader = FramesReader(str(tmp_path / "frames"), cache=cache)
    read = b"".join(reader.pread(at, 700) for at in range(0, len(data), 700))
    assert read == data
    assert cache.held <= limit
    assert len(loaded) <= 1024 * 1.1
    reader.close()
    assert "readahead" not in {thread.name for thread in threading.enumerate()}


def test_damage_that_is_met_ahead_is_told_when_it_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "frames"
    with path.open("wb") as file:
        writer = FramesWriter(file, frame_size=1024)
        for _ in range(8):
            writer.write(os.urandom(1024))
        writer.close()
    stored = bytearray(path.read_bytes())
    stored[6 * 1060] ^= 0xFF
    path.write_bytes(stored)
    cache = FrameCache()
    reader = FramesReader(str(path), cache=cache)
    for number in range(5):
        assert len(reader.pread(number * 1024, 1024)) == 1024
    with pytest.raises(LayerError):
        reader.pread(5 * 1024, 2048)
    assert len(reader.pread(7 * 1024, 1024)) == 1024
    reader.close()


def test_without_a_thread_everything_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    data = os.urandom(20 * 1024)
    with (tmp_path / "frames").open("wb") as file:
        writer = FramesWriter(file, frame_size=1024)
        writer.write(data)
        writer.close()
    reader = FramesReader(str(tmp_path / "frames"))
    assert b"".join(reader.pread(at, 512) for at in range(0, len(data), 512)) == data
    reader.close()
