"""What the owner of a network is told and may ask, on a line whose other end may say anything."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.control import Control
from netns.driver import Driver
from netns.flowlist import Flow
from netns.link import Link
from netns.reach import Reach
from netns.resolver import Resolver
from netns.settings import Settings
from netns.stack import Stack


class Line:
    """A control whose driver has a pipe for a TAP, and the owner's end."""

    def __init__(self) -> None:
        settings = Settings()
        stack = Stack(settings.addresses(), Link(b"R" * 6, b"g" * 6, 1500), lambda: 1)
        self._tap, self._tap_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.driver = Driver(self._tap, stack, Reach(settings), Resolver())
        self.owner, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.owner.settimeout(10)
        self.control = Control(self.driver, self.sock)

    def close(self) -> None:
        self.driver.close()
        self.owner.close()
        self.sock.close()
        os.close(self._tap)
        os.close(self._tap_write)

    def ask(self, data: bytes) -> tuple[dict[str, object], list[int]]:
        self.owner.send(data)
        self.control._on_io(select.EPOLLIN)
        answer, fds, _, _ = socket.recv_fds(self.owner, 4096, 4)
        return json.loads(answer), fds


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


def test_notes_are_told(line: Line) -> None:
    line.control.note("something worth logging")
    assert json.loads(line.owner.recv(4096)) == {"note": "something worth logging"}


def test_other_domains_are_told_as_far_as_they_fit(line: Line) -> None:
    line.control.search(("a.example", "b"))
    assert json.loads(line.owner.recv(4096)) == {"search": ["a.example", "b"]}
    line.control.search(())
    assert json.loads(line.owner.recv(4096)) == {"search": []}
    line.control.search(("\u00e9" * 100,) * 40)
    said = json.loads(line.owner.recv(4096))["search"]
    assert 0 < len(said) < 40


def test_nobody_reads_notes_and_nothing_breaks(line: Line) -> None:
    for number in range(5000):
        line.control.note(str(number))
    assert line.driver.lost
    line.owner.close()
    line.control.note("to nobody")


def test_flows_come_in_a_sealed_file(line: Line) -> None:
    far = Flow("tcp", True, "10.0.2.100:80", "192.0.2.9:5000", None, "spliced", 1, 2, 3.0)
    line.control.sources.append(lambda now: [far])
    line.driver.stack.open_udp(b"\x0a\0\2\x64", 53, b"\xc0\0\2\1", 4000, 0.0)
    answer, (fd,) = line.ask(b'{"ask": "flows"}')
    with open(fd, "rb") as file:
        document = json.load(file)
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert answer == {"flows": "memfd"}
    assert seals & fcntl.F_SEAL_WRITE
    assert [flow["protocol"] for flow in document["flows"]] == ["udp", "tcp"]
    assert document["flows"][0]["far"] == "192.0.2.1:4000"
    assert document["flows"][1] == far.document()
    assert document["denied"] == []


@pytest.mark.parametrize(
    "data", [b"x", b"[]", b'{"ask": "secrets"}', b'{"ask": ["flows"]}', b"[" * 4000, b"\xff", b"1"]
)
def test_anything_else_is_an_error(line: Line, data: bytes) -> None:
    answer, fds = line.ask(data)
    assert list(answer) == ["error"] and not fds


def test_its_end_ends_the_network(line: Line) -> None:
    line.driver._running = True
    line.owner.close()
    line.control._on_io(select.EPOLLIN)
    assert not line.driver._running


VALUES = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.just("ask"), inner),
)


@given(st.binary(min_size=1, max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_break_it(data: bytes) -> None:
    line = Line()
    try:
        answer, fds = line.ask(data[:4096])
        assert list(answer) in (["error"], ["flows"])
        for fd in fds:
            os.close(fd)
    finally:
        line.close()
