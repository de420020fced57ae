"""The host's side of a connection: how much is read at a time, and what becomes of the buffers."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from netns.buffers import Buffers
from netns.relay import TcpRelay
from netns.tcp.connection import Connection
from netns.tcp.flow import TcpFlow
from netns.wire.tcp import ACK, SYN, TcpSegment

MSS = 65480
FIRST = 6  # the number of our first byte
WINDOW = 4 << 20


class Loop:
    """What a relay asks of its driver."""

    def __init__(self) -> None:
        self.now = 0.0
        self.buffers = Buffers()
        self.lent = 0
        self.stack = SimpleNamespace(touch=lambda flow: None)

    def lend(self) -> None:
        self.lent += 1

    def watch(self, sock: socket.socket, interest: int, handler: object) -> None:
        pass

    def discard(self, sock: socket.socket, *, shared: bool = True) -> None:
        sock.close()


class Crossing:
    """A guest that has connected, and the host's far end of its connection."""

    def __init__(self, capacity: int) -> None:
        syn = TcpSegment(100, 0, SYN, 65535, mss=MSS, scale=7, source_port=1000, destination_port=80)
        self.connection = Connection.passive(syn, 0.0, iss=FIRST - 1, mss=MSS, capacity=capacity)
        self.connection.accept()
        self.connection.poll(0.0)
        self.connection.receive(101, FIRST, ACK, WINDOW >> 7, b"", 0, 0.0)
        flow = TcpFlow(b"\n\0\2d", 1000, b"\x7f\0\0\1", 80, self.connection)
        self.loop = Loop()
        self.far, self.near = socket.socketpair()  # what is sent is there at once, and no TCP cuts it
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MSS)
        self.far.settimeout(5)
        self.near.setblocking(False)
        self.flow = flow
        self.relay = TcpRelay(cast(Any, self.loop), flow, sock=self.near)
        self.relay.start()

    def guest_reads(self) -> tuple[list[int], bytes]:
        """The sizes of the segments for the guest, and their bytes, all of which it acknowledges."""
        segments = [each for each in self.connection.poll(0.0) if each.length]
        data = b"".join(bytes(piece) for each in segments for piece in each.payload)
        self.connection.receive(101, self.connection.snd_nxt, ACK, WINDOW >> 7, b"", 0, 0.0)
        return [each.length for each in segments], data


@pytest.fixture
def crossing() -> Iterator[Crossing]:
    crossing = Crossing(WINDOW)
    yield crossing
    crossing.far.close()
    crossing.near.close()


def test_little_goes_back_to_its_buffer_at_once(crossing: Crossing) -> None:
    crossing.far.send(b"hello")
    crossing.relay.on_io(1)
    assert len(crossing.loop.buffers) == 1 and not crossing.loop.lent
    assert crossing.guest_reads() == ([5], b"hello")


def test_a_stream_fills_several_buffers_at_a_time(crossing: Crossing) -> None:
    data = os.urandom(3 * MSS + 100)
    crossing.far.sendall(data)
    crossing.relay.on_io(1)
    assert crossing.guest_reads() == ([MSS], data[:MSS])
    crossing.relay.on_io(1)
    sizes, rest = crossing.guest_reads()
    assert rest == data[MSS:]
    assert sizes == [MSS, MSS, 100]
    assert crossing.flow.to_guest == len(data)
    assert len(crossing.loop.buffers) == 16  # all of them are back
    crossing.far.send(b"end")
    crossing.relay.on_io(1)
    assert crossing.guest_reads() == ([3], b"end")


def test_nothing_to_read_keeps_no_buffer(crossing: Crossing) -> None:
    crossing.relay.on_io(1)
    crossing.far.sendall(bytes(MSS))
    crossing.relay.on_io(1)
    crossing.guest_reads()
    crossing.relay.on_io(1)
    assert len(crossing.loop.buffers) == 16  # all that were taken
    assert crossing.loop.buffers.trim()
    assert not crossing.loop.buffers.trim()


def test_no_more_is_read_than_there_is_room_for() -> None:
    crossing = Crossing(2 * MSS)
    with crossing.far, crossing.near:
        crossing.far.sendall(bytes(3 * MSS))
        for _ in range(3):
            crossing.relay.on_io(1)
        assert crossing.connection.send_room() == 0
        assert crossing.flow.to_guest == 2 * MSS


def test_the_end_of_the_stream_is_passed_on_after_it(crossing: Crossing) -> None:
    crossing.far.sendall(bytes(2 * MSS))
    crossing.far.shutdown(socket.SHUT_WR)
    for _ in range(3):
        crossing.relay.on_io(1)
    segments = crossing.connection.poll(0.0)
    assert sum(each.length for each in segments) == 2 * MSS
    assert segments[-1].flags & 1
