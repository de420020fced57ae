"""The side file: what was synced is never lost or wrong, whatever happens to its end."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse import ledger
from fuse.errors import LayerError
from fuse.ledger import LEDGER, Ledger, Record
from fuse.override import Override

ids = st.integers(0, 2**32 - 2)
numbers = st.integers(1, 6) | st.just(2**64 - 1)
overrides = st.builds(
    Override, ids, ids, st.integers(0, 0o7777).map(lambda mode: stat.S_IFREG | mode), st.integers(0, 2**64 - 1)
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), numbers, st.integers(-(2**63), 2**63 - 1), overrides),
        st.tuples(st.just("drop"), numbers),
        st.tuples(st.just("sync")),
        st.tuples(st.just("reopen")),
    ),
    max_size=30,
)


@contextmanager
def folder() -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="rc-ledger-") as path:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)


def size(fd: int) -> int:
    return os.stat(LEDGER, dir_fd=fd).st_size


def cut(fd: int, length: int) -> None:
    file = os.open(LEDGER, os.O_WRONLY, dir_fd=fd)
    os.ftruncate(file, length)
    os.close(file)


@settings(deadline=None, max_examples=200)
@given(steps=steps, data=st.data(), history=st.sampled_from([0, 3, 4096]))
def test_what_was_synced_is_there(steps: list[tuple[object, ...]], data: st.DataObject, history: int) -> None:
    with folder() as fd, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "_HISTORY", history)
        held = Ledger(fd, create="file")
        model: dict[int, Record] = {}
        states = [{}]  # after each record since what was surely on the disk
        synced = size(fd)
        for what, *arguments in steps:
            before = size(fd)
            if what == "put":
                number, birth, override = arguments
                held.put(number, birth, override)
                model[number] = Record(birth, override)
                states.append(dict(model))
            elif what == "drop":
                held.drop(arguments[0])
                if model.pop(arguments[0], None) is not None:
                    states.append(dict(model))
            elif what == "sync":
                held.sync()
            else:
                held.close()
                held = Ledger(fd)
            if what == "sync" or size(fd) < before:  # one that is written anew is synced
                states = [dict(model)]
                synced = size(fd)
            assert {number: held.get(number) for number in model} == model
            assert len(held) == len(model)
        held.close()
        cut(fd, data.draw(st.integers(synced, size(fd))))
        rubbish = data.draw(st.binary(max_size=100))
        file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND, dir_fd=fd)
        os.write(file, rubbish)
        os.close(file)
        for reopened in (Ledger(fd, writable=False), Ledger(fd), Ledger(fd)):
            assert reopened.kind == "file"
            found = {number: reopened.get(number) for number in (*range(1, 7), 2**64 - 1)}
            assert {number: record for number, record in found.items() if record is not None} in states
            reopened.close()


def test_a_file_without_a_name_is_remembered_until_its_number_is_used_again() -> None:
    with folder() as fd:
        held = Ledger(fd, create="file")
        override = Override(1, 2, stat.S_IFREG)
        held.put(7, 1, override)
        held.drop(7)
        assert held.get(7) == Record(1, override)
        held.put(7, 2, override)
        assert held.get(7) == Record(2, override)
        held.close()


def test_one_that_is_mostly_history_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_HISTORY", 10)
    with folder() as fd:
        held = Ledger(fd, create="real")
        for uid in range(1000):
            held.put(1, 0, Override(uid, 0, stat.S_IFREG))
        assert size(fd) < 2000
        held.close()
        reopened = Ledger(fd)
        assert reopened.get(1) == Record(0, Override(999, 0, stat.S_IFREG))
        assert reopened.kind == "real"
        reopened.close()
        assert os.listdir(f"/proc/self/fd/{fd}") == [LEDGER.decode()]


def test_a_full_disk_leaves_it_whole() -> None:
    with folder() as fd:
        held = Ledger(fd, create="file")
        held.put(1, 0, Override(1, 1, stat.S_IFREG))
        end = size(fd)
        full = os.open("/dev/full", os.O_WRONLY)
        kept = os.dup(held._fd)
        os.dup2(full, held._fd)
        with pytest.raises(OSError) as error:
            held.put(2, 0, Override(2, 2, stat.S_IFREG))
        assert error.value.errno == errno.ENOSPC
        os.dup2(kept, held._fd)
        assert (held.get(2), size(fd)) == (None, end)
        held.put(3, 0, Override(3, 3, stat.S_IFREG))
        held.close()
        os.close(full)
        os.close(kept)
        reopened = Ledger(fd)
        assert len(reopened) == 2
        reopened.close()


def test_another_version_and_none_are_told_apart() -> None:
    with folder() as fd:
        with pytest.raises(FileNotFoundError):
            Ledger(fd)
        file = os.open(LEDGER, os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        os.write(file, b"something else".ljust(100, b"\0"))
        os.close(file)
        with pytest.raises(LayerError):
            Ledger(fd)
