"""Two of our connections over a link that loses, repeats and reorders: what arrives is what was sent."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netns.tcp.connection import Connection
from netns.tcp.reassembly import Reassembly
from netns.tcp.send_buffer import SendBuffer
from netns.tcp.state import Signal, State
from netns.wire.tcp import TcpSegment

ADDRESSES = (b"\n\0\0\1", b"\n\0\0\2")


class Link:
    """Carries segments as bytes between a client and a server, badly, by a seed."""

    def __init__(self, seed: int, *, loss: float, mss: int, capacity: int) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.order = 0
        self.queue: list[tuple[float, int, int, bytes]] = []
        iss = self.random.getrandbits(32)
        self.options = {"mss": mss, "capacity": capacity}
        self.ends: list[Connection | None] = [Connection.active(0.0, iss=iss, mss=mss, capacity=capacity), None]
        self.heard = [bytearray(), bytearray()]
        self.signals: list[list[Signal]] = [[], []]

    def carry(self, side: int, segment: TcpSegment) -> None:
        wire = segment.to_bytes(*ADDRESSES)
        copies = 0 if self.random.random() < self.loss else 2 if self.random.random() < self.loss / 2 else 1
        for _ in range(copies):
            self.order += 1
            delay = 0.001 + (self.random.random() * 0.02 if self.random.random() < self.loss else 0)
            heapq.heappush(self.queue, (self.now + delay, self.order, 1 - side, wire))

    def turn(self) -> bool:
        """Poll both ends and let the next thing happen; False when nothing ever will."""
        for side, end in enumerate(self.ends):
            if end is not None:
                for segment in end.poll(self.now):
                    self.carry(side, segment)
                self.collect(side)
        dues = [end.deadline() for end in self.ends if end is not None]
        if self.queue:
            dues.append(self.queue[0][0])
        times = [due for due in dues if due is not None]
        if not times:
            return False
        self.now = max(self.now, min(times))
        while self.queue and self.queue[0][0] <= self.now:
            _, _, side, wire = heapq.heappop(self.queue)
            segment = TcpSegment.parse(wire, ADDRESSES)
            end = self.ends[side]
            if end is None:
                if segment.flags & 2:
                    end = self.ends[side] = Connection.passive(segment, self.now, iss=7, **self.options)
                    end.accept()
                continue
            end.on_segment(segment, self.now)
            self.collect(side)
        return True

    def collect(self, side: int) -> None:
        end = self.ends[side]
        assert end is not None
        for piece in end.received:
            self.heard[side] += piece
        end.received.clear()
        self.signals[side] += end.signals
        end.signals.clear()
        if end.window.unconsumed and self.random.random() < 0.7:
            end.consumed(self.random.randint(1, end.window.unconsumed))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("loss", [0.0, 0.02, 0.15])
def test_everything_arrives_once_and_in_order(seed: int, loss: float) -> None:
    mss = (200, 1460, 65480)[seed % 3]
    link = Link(seed, loss=loss, mss=mss, capacity=65536)
    messages = [link.random.randbytes(link.random.randint(0, 300_000)) for _ in range(2)]
    sent = [0, 0]
    for _ in range(200_000):
        for side, end in enumerate(link.ends):
            if end is None:
                continue
            rest = len(messages[side]) - sent[side]
            count = min(rest, end.send_room(), link.random.randint(1, 40_000))
            if count:
                end.send(messages[side][sent[side] : sent[side] + count])
                sent[side] += count
            elif not rest:
                end.close()
        if not link.turn():
            break
    for side in (0, 1):
        assert bytes(link.heard[1 - side]) == messages[side]
        end = link.ends[side]
        # With loss the last ACK of TIME-WAIT may be missing too often; nothing else may be.
        assert end is not None and end.state is State.CLOSED
        assert link.signals[side][:2] == [Signal.CONNECTED, Signal.PEER_CLOSED]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=40))
def test_reassembly_against_a_bitmap(pieces: list[tuple[int, int]]) -> None:
    stream = bytes(range(100))
    have: set[int] = set()
    reassembly = Reassembly()
    for start, length in pieces:
        reassembly.add(start, stream[start : start + length])
        have |= set(range(start, start + length))
    position = 0
    while (piece := reassembly.take(position)) is not None:
        assert piece == stream[position : position + len(piece)]
        position += len(piece)
    expected = next(i for i in range(101) if i not in have)
    assert position == expected


@given(st.lists(st.integers(1, 20000), max_size=12), st.data())
def test_lent_buffers_come_back_once_each(sizes: list[int], data: st.DataObject) -> None:
    buffer = SendBuffer(0)
    back: list[bytearray] = []
    buffer.recycle = back.append
    lent: list[tuple[int, bytearray]] = []
    for size in sizes:
        if data.draw(st.booleans()):
            lent.append((buffer.end + size, bytearray(size + 10)))
            buffer.append(memoryview(lent[-1][1])[:size])
        else:
            buffer.append(bytes(size))
        buffer.acknowledge(data.draw(st.integers(buffer.start, buffer.end)))
        assert list(map(id, back)) == [id(one) for end, one in lent if end <= buffer.start]
    buffer.clear()
    assert list(map(id, back)) == [id(one) for _, one in lent]


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=6000), max_size=12), st.data())
def test_send_buffer_against_bytes(chunks: list[bytes], data: st.DataObject) -> None:
    buffer = SendBuffer(1000)
    for chunk in chunks:
        buffer.append(chunk)
    whole = b"".join(chunks)
    cut = data.draw(st.integers(0, len(whole)))
    buffer.acknowledge(1000 + cut)
    first = data.draw(st.integers(cut, len(whole)))
    length = data.draw(st.integers(0, len(whole) - first))
    assert b"".join(buffer.gather(1000 + first, length)) == (whole[first : first + length] if length else b"")
    assert len(buffer) == len(whole) - cut
