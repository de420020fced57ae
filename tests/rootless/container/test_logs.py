"""The container log: written in chunks, read as lines."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.container import logs
from rootless.container.logs import Line, LogReader, LogWriter, Source, follow, stamp

T0 = 1_700_000_000 * 10**9
STREAMS = st.sampled_from(["stdout", "stderr"])


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ctr.log")


def raw(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def lines(path: str, **choice: int) -> list[Line]:
    with LogReader(path, **choice) as reader:
        return list(reader.available())


def texts(path: str, **choice: int) -> list[bytes]:
    return [line.data for line in lines(path, **choice)]


def test_the_format(path: str) -> None:
    writer = LogWriter(path)
    writer.write("stdout", b"one\ntwo\n", T0 + 5)
    writer.write("stderr", b"oops\n", T0 + 10**9)
    writer.write("stdout", b"end", T0 + 10**9)
    writer.close()
    assert raw(path) == (
        b"2023-11-14T22:13:20.000000005+00:00 stdout F one\n"
        b"2023-11-14T22:13:20.000000005+00:00 stdout F two\n"
        b"2023-11-14T22:13:21.000000000+00:00 stderr F oops\n"
        b"2023-11-14T22:13:21.000000000+00:00 stdout P end\n"
    )
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_line_in_pieces_is_one_line_with_its_first_time(path: str) -> None:
    writer = LogWriter(path)
    for number, piece in enumerate((b"a", b"b", b"c\nd", b"\n")):
        writer.write("stdout", piece, T0 + number)
        assert writer.pending == (number in (0, 1, 2))
    assert raw(path) == (
        b"2023-11-14T22:13:20.000000000+00:00 stdout F abc\n2023-11-14T22:13:20.000000002+00:00 stdout F d\n"
    )
    writer.close()


def test_flush_writes_a_prompt(path: str) -> None:
    writer = LogWriter(path)
    writer.write("stdout", b"login: ", T0)
    assert texts(path) == []
    writer.flush()
    assert not writer.pending
    assert [(line.partial, line.data) for line in lines(path)] == [(True, b"login: ")]
    writer.write("stdout", b"me\n", T0)
    assert texts(path) == [b"login: ", b"me\n"]
    writer.close()
    writer.close()


def test_a_line_that_does_not_end_is_written_in_parts(path: str) -> None:
    writer = LogWriter(path)
    for _ in range(5):
        writer.write("stdout", b"x" * 5000, T0)
    writer.close()
    assert [(line.partial, len(line.data)) for line in lines(path)] == [(True, 10000), (True, 10000), (True, 5000)]


@given(
    st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.text("ab\n", max_size=12), st.booleans()), max_size=25
    ),
    st.integers(1, 60),
)
def test_each_stream_comes_back_as_it_was_printed(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[tuple[str, str, bool]], block: int
) -> None:
    path = str(tmp_path_factory.mktemp("log") / "ctr.log")
    writer = LogWriter(path)
    whole = {"stdout": b"", "stderr": b""}
    for number, (stream, text, flush) in enumerate(chunks):
        writer.write(stream, text.encode(), T0 + number)
        whole[stream] += text.encode()
        if flush:
            writer.flush()
    writer.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_BLOCK", block)
        for stream, printed in whole.items():
            assert b"".join(line.data for line in lines(path) if line.stream == stream.encode()) == printed
        if {stream for stream, _, _ in chunks} == {"stdout"}:
            everything = whole["stdout"].splitlines(keepends=True)
            for count in range(len(everything) + 2):
                assert b"".join(texts(path, tail=count)) == b"".join(everything[max(0, len(everything) - count) :])


def test_since_and_until(path: str) -> None:
    writer = LogWriter(path)
    for number in range(5):
        writer.write("stdout", b"%d\n" % number, T0 + number)
    writer.close()
    assert texts(path, since_ns=T0 + 2) == [b"2\n", b"3\n", b"4\n"]
    assert texts(path, until_ns=T0 + 1) == [b"0\n", b"1\n"]
    assert texts(path, since_ns=T0 + 3, until_ns=T0 + 3, tail=4) == [b"3\n"]


def test_rotation_keeps_the_last_bytes_and_readers_miss_nothing(path: str) -> None:
    writer = LogWriter(path, max_size=1000)
    with LogReader(path) as reader:
        seen = b""
        for number in range(200):
            writer.write("stdout", b"%d\n" % number, T0)
            if number % 7 == 0:
                seen += b"".join(line.data for line in reader.available())
        seen += b"".join(line.data for line in reader.available())
    writer.close()
    assert seen == b"".join(b"%d\n" % number for number in range(200))
    assert 1000 < os.stat(f"{path}.1").st_size < 1100
    assert os.stat(path).st_size < 1100
    kept = texts(path)
    assert kept == [b"%d\n" % number for number in range(200 - len(kept), 200)]
    assert len(kept) > 1000 / 50
    assert texts(path, tail=30) == kept[-30:]
    assert sorted(os.listdir(os.path.dirname(path))) == ["ctr.log", "ctr.log.1"]


def test_a_log_that_is_reopened_goes_on(path: str) -> None:
    for text in (b"a\n", b"b\n"):
        writer = LogWriter(path)
        writer.write("stdout", text, T0)
        writer.close()
    assert texts(path) == [b"a\n", b"b\n"]


def test_a_full_disk_loses_lines_and_says_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(path)
    writer.write("stdout", b"before\n", T0)
    write = os.write
    room = iter([10])

    def full(fd: int, data: bytes) -> int:
        left = next(room, 0)
        if left:
            return write(fd, bytes(data)[:left])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        writer.write("stdout", b"lost\n", T0)
        writer.write("stdout", b"lost too\n", T0)
        assert writer.lost > 0
    writer.write("stdout", b"after\n", T0)
    assert writer.lost == 0
    writer.close()
    before, note, after = lines(path)
    assert (before.data, after.data) == (b"before\n", b"after\n")
    assert note.stream == b"stderr"
    assert b"bytes of output were lost" in note.data


def test_damaged_lines_are_left_out(path: str) -> None:
    writer = LogWriter(path)
    writer.write("stdout", b"a\n", T0)
    with open(path, "ab") as file:
        file.write(b"\0\0\0\nrubbish\n2023-11-14T22:13:20.000000000+00:00 stdlog F x\n")
    writer.write("stdout", b"b\n", T0)
    writer.close()
    assert texts(path) == texts(path, tail=2) == [b"a\n", b"b\n"]


def test_no_log_yet(path: str) -> None:
    with LogReader(path, tail=3) as reader:
        assert list(reader.available()) == []
        writer = LogWriter(path)
        writer.write("stdout", b"a\n", T0)
        assert [line.data for line in reader.available()] == [b"a\n"]
        writer.close()


def test_half_a_line_waits_for_the_rest(path: str) -> None:
    with open(path, "wb") as file, LogReader(path) as reader:
        file.write(stamp(T0) + b" stdout F he")
        file.flush()
        assert list(reader.available()) == []
        file.write(b"llo\n")
        file.flush()
        assert [line.data for line in reader.available()] == [b"hello\n"]


def test_follow(path: str, tmp_path: Path) -> None:
    """The container dies between a look at it and the next: what it printed last is still read."""
    other = str(tmp_path / "other.log")
    writers = [LogWriter(path), LogWriter(other)]
    alive = [True, True]
    pauses: list[float] = []

    def life() -> Iterator[None]:
        writers[0].write("stdout", b"a\n", T0)
        yield
        yield
        writers[1].write("stderr", b"b\n", T0)
        yield
        alive[1] = False
        yield
        writers[0].write("stdout", b"last", T0)
        writers[0].close()
        alive[0] = False
        yield

    steps = life()

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        next(steps)

    with LogReader(path) as first, LogReader(other) as second:
        sources = [Source(first, lambda: alive[0]), Source(second, lambda: alive[1])]
        found = [(number, line.data) for number, line in follow(sources, wait=wait)]
    writers[1].close()
    assert found == [(0, b"a\n"), (1, b"b\n"), (0, b"last")]
    assert max(pauses) <= 0.1
    assert len(pauses) == 5
