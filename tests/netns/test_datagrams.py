"""One flow's socket on the host's side, with a driver that only notes what is asked of it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import cast
from unittest import mock

import pytest

from netns.datagrams import UdpRelay
from netns.driver import Driver
from netns.link import Link
from netns.reach import Reach
from netns.settings import Settings
from netns.stack import Stack
from netns.udp import UdpFlow

GUEST, FAR = bytes((10, 0, 2, 100)), bytes((192, 0, 2, 9))


class Notes:
    """What of a driver a relay uses."""

    def __init__(self) -> None:
        settings = Settings()
        self.stack = Stack(settings.addresses(), Link(bytes(6), bytes(6), settings.mtu), lambda: 1)
        self.reach = Reach(settings)
        self.now = 1.0
        self.lost = 0
        self.timers: list[Callable[[], None]] = []
        self.discarded: list[socket.socket] = []

    def open_socket(self, family: int, kind: int, protocol: int = 0, *, far: str = "") -> socket.socket:
        return socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)

    def watch(self, sock: socket.socket, interest: int, handler: Callable[[int], None]) -> None:
        pass

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.append(callback)

    def discard(self, sock: socket.socket) -> None:
        self.discarded.append(sock)
        sock.close()


class Ends:
    """A relay between a flow and a socket of the test's."""

    def __init__(self) -> None:
        self.driver = Notes()
        self.far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.far.bind(("127.0.0.1", 0))
        self.far.settimeout(10)
        self.flow = UdpFlow(GUEST, 4000, FAR, 53)
        self.driver.stack.udp.add(self.flow, 1.0)
        self.relay = UdpRelay(cast(Driver, self.driver), self.flow, self.far.getsockname())

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *error: object) -> None:
        self.relay.expired()
        self.far.close()


def test_the_first_of_a_turn_is_sent_at_once_and_the_rest_at_its_end() -> None:
    with Ends() as ends:
        for payload in (b"1", b"22", b"33", b"4"):
            ends.relay.forward(payload)
        assert ends.far.recv(10) == b"1"
        ends.far.setblocking(False)
        with pytest.raises(BlockingIOError):
            ends.far.recv(10)
        (flush,) = ends.driver.timers
        flush()
        assert [ends.far.recv(10) for _ in range(3)] == [b"22", b"33", b"4"]
        ends.driver.now = 2.0
        ends.relay.forward(b"5")
        assert ends.far.recv(10) == b"5" and len(ends.driver.timers) == 1


def test_where_the_kernel_cuts_nothing_they_go_one_by_one() -> None:
    with Ends() as ends:
        real = ends.relay._sock
        ends.relay._sock = mock.Mock(wraps=real)
        ends.relay._sock.sendmsg.side_effect = OSError(errno.EIO, "no")
        for payload in (b"1", b"22", b"33"):
            ends.relay.forward(payload)
        ends.driver.timers.pop()()
        assert [ends.far.recv(10) for _ in range(3)] == [b"1", b"22", b"33"]
        ends.driver.now = 2.0
        for payload in (b"1", b"22", b"33"):
            ends.relay.forward(payload)
        ends.driver.timers.pop()()
        assert ends.relay._sock.sendmsg.call_count == 1  # it is not asked again
        ends.relay._sock = real


def test_what_waits_is_sent_before_the_flow_is_forgotten() -> None:
    with Ends() as ends:
        ends.relay.forward(b"1")
        ends.relay.forward(b"2")
        ends.relay.expired()
        assert [ends.far.recv(10), ends.far.recv(10)] == [b"1", b"2"]
        assert ends.flow.relay is None and len(ends.driver.discarded) == 1


def test_a_fault_of_ours_ends_the_flow() -> None:
    with Ends() as ends:
        ends.relay.failed()
        assert ends.flow.relay is None and ends.flow.key not in ends.driver.stack.udp
        assert len(ends.driver.discarded) == 1


def test_a_socket_is_not_left_where_the_host_has_no_way() -> None:
    driver = Notes()
    made: list[socket.socket] = []
    driver.open_socket = lambda *what, **how: made.append(Notes.open_socket(driver, *what, **how)) or made[0]  # type: ignore[assignment, func-returns-value]
    with pytest.raises(OSError, match=r".*"):
        UdpRelay(cast(Driver, driver), UdpFlow(GUEST, 4000, FAR, 53), ("255.255.255.255", 53))
    assert made[0].fileno() == -1
