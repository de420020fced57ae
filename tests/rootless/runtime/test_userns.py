"""Subordinate ranges, and entering the engine's user namespace."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.runtime import userns
from rootless.runtime.idmap import IdMaps
from rootless.runtime.userns import map_of, parse_ranges

SUBUID = "# who may what\nann:100000:65536\nbob:200000:10\n1001:300000:5\nann:400000:7\nbad line\nann:x:1\nann:1:0\n"


def test_ranges_of_a_user() -> None:
    assert parse_ranges(SUBUID, "ann", 1000) == ((100000, 65536), (400000, 7))
    assert parse_ranges(SUBUID, "cid", 1001) == ((300000, 5),)
    assert parse_ranges(SUBUID, "dan", 4) == ()


def test_the_engines_map() -> None:
    assert map_of(1001, ((100000, 65536), (400000, 7))).triples() == (
        (0, 1001, 1), (1, 100000, 65536), (65537, 400000, 7),
    )  # fmt: skip
    assert map_of(1001, ()).triples() == ((0, 1001, 1),)
    assert map_of(105, ((100, 10),)).triples() == ((0, 105, 1), (1, 100, 5), (6, 106, 4))


@given(st.integers(0, 300), st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=1))
def test_every_id_of_a_range_is_used_once(own: int, ranges: list[tuple[int, int]]) -> None:
    made = map_of(own, tuple(ranges))
    assert made.outside(0) == own
    wanted = {own} | {first + n for first, size in ranges for n in range(size)}
    assert {made.outside(n) for n in range(made.size)} == wanted


@given(st.text(max_size=200))
def test_any_file(text: str) -> None:
    for first, size in parse_ranges(text, "ann", 1000):
        assert first >= 0 and size > 0


def in_a_child(work: Callable[[], Any]) -> Any:
    """Run in a forked child, which may change its namespaces."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = pickle.dumps(work())
        except BaseException as error:  # noqa: BLE001  the parent raises it
            answer = pickle.dumps(error)
        os.write(write, answer)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    found = pickle.loads(answer)
    if isinstance(found, BaseException):
        raise found
    return found


@pytest.mark.userns
def test_enter() -> None:
    own = os.getuid()

    def work() -> tuple[bool, str | None, IdMaps, int, IdMaps]:
        entered = userns.enter()
        return entered.is_single_id, entered.reason, entered.maps, os.getuid(), IdMaps.of_self()

    single, reason, maps, uid, found = in_a_child(work)
    assert (single, reason, uid) == (False, None, 0)
    assert found == maps and maps.uids.outside(0) == own


@pytest.mark.userns
def test_without_the_tools_it_is_single_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "_search_paths", lambda: ["/no/such"])

    def work() -> tuple[bool, str | None, IdMaps]:
        entered = userns.enter()
        return entered.is_single_id, entered.reason, IdMaps.of_self()

    single, reason, found = in_a_child(work)
    assert single and found.uids.size == 1
    assert reason is not None and "newuidmap is missing" in reason


@pytest.mark.userns
def test_join() -> None:
    ready_read, ready_write = os.pipe()
    stop_read, stop_write = os.pipe()
    engine = os.fork()
    if engine == 0:
        os.close(stop_write)
        userns.enter()
        os.write(ready_write, b"r")
        os.read(stop_read, 1)
        os._exit(0)
    os.read(ready_read, 1)

    def work() -> bool:
        entered = userns.join(
            os.open(f"/proc/{engine}/ns/user", os.O_RDONLY), os.open(f"/proc/{engine}/ns/mnt", os.O_RDONLY)
        )
        mine = [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt")]
        return not entered.is_single_id and mine == [
            os.readlink(f"/proc/{engine}/ns/{name}") for name in ("user", "mnt")
        ]

    try:
        assert in_a_child(work)
    finally:
        for fd in (stop_write, stop_read, ready_read, ready_write):
            os.close(fd)
        os.waitpid(engine, 0)
