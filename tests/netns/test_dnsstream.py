"""Queries over TCP, by hand: any cut of the bytes, any mood of the servers."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from netns.dnsstream import DnsStream
from netns.tcp.connection import Connection
from netns.tcp.flow import TcpFlow
from netns.wire.dns import DnsHeader
from netns.wire.error import Buffer
from netns.wire.tcp import ACK, FIN, RST, SYN, TcpSegment
from tests.netns.dnsbench import GUEST, RESOLVER, Bench
from tests.netns.test_dnsrelay import answer, query


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


class Guest:
    """The guest's end of a connection to the name server."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._seq = 2
        self._ack = 0
        self._said = bytearray()
        self.ended = False
        syn = TcpSegment(1, 0, SYN, 65535, mss=1460)
        connection = Connection.passive(syn, 0.0, iss=1, mss=1460, capacity=1 << 16)
        self.flow = TcpFlow(GUEST, 5000, RESOLVER, 53, connection)
        self.stream = DnsStream(bench.driver, self.flow, bench.resolver)
        self.settle()

    @property
    def alive(self) -> bool:
        return self.flow.relay is self.stream

    def _arrive(self, flags: int, data: bytes = b"") -> None:
        connection = self.flow.connection
        payload: list[Buffer] = [data] if data else []
        connection.on_segment(TcpSegment(self._seq, self._ack, flags, 65535, payload, len(data)), 0.0)
        self._seq += len(data) + bool(flags & FIN)
        if self.alive and (connection.received or connection.signals):
            self.stream.received()

    def settle(self) -> None:
        """Take what was sent, and acknowledge it."""
        for _ in range(100):
            segments = self.flow.connection.poll(0.0)
            if not segments:
                return
            for segment in segments:
                if segment.flags & RST:
                    self.ended = True
                    return
                data = b"".join(segment.payload)
                new = segment.seq + len(data) + bool(segment.flags & (SYN | FIN))
                if new > self._ack:
                    self._said += data
                    self._ack = new
                    self.ended |= bool(segment.flags & FIN)
            self._arrive(ACK)
            if self.alive and self.flow.waiting:
                self.stream.changed()

    def send(self, data: bytes) -> None:
        if self.alive and data:
            self._arrive(ACK, data)
        self.settle()

    def close(self) -> None:
        if self.alive:
            self._arrive(ACK | FIN)
        self.settle()

    def heard(self) -> list[bytes]:
        """The messages since the last call."""
        self.settle()
        result = []
        while self._said:
            size = int.from_bytes(self._said[:2], "big")
            result.append(bytes(self._said[2 : 2 + size]))
            del self._said[: 2 + size]
        return result


@given(st.lists(st.integers(1, 30), max_size=20))
def test_any_cut_of_the_bytes(cuts: list[int]) -> None:
    with Bench() as bench:
        guest = Guest(bench)
        data = framed(query(1), query(2, "b.example"))
        for cut in cuts:
            guest.send(data[:cut])
            data = data[cut:]
        guest.send(data)
        bench.turn()
        assert bench.servers[0].recv(512) == framed(query(1), query(2, "b.example"))
        data = framed(answer(query(2, "b.example"), b"\1\2\3\4"), answer(query(1)))
        for cut in cuts:
            bench.servers[0].send(data[:cut])
            bench.turn()
            data = data[cut:]
        bench.servers[0].send(data)
        bench.turn()
        assert guest.heard() == [answer(query(2, "b.example"), b"\1\2\3\4"), answer(query(1))]
        assert bench.driver.egress is not None
        assert bench.driver.egress.names_of(b"\1\2\3\4") == ["b.example"]
        guest.close()
        assert guest.ended and not guest.alive


def test_a_server_that_hangs_up_between_answers_is_asked_again() -> None:
    with Bench(servers=("192.0.2.1",)) as bench:
        guest = Guest(bench)
        guest.send(framed(query(1), query(2)))
        bench.turn()
        bench.servers[0].send(framed(answer(query(1))))
        bench.servers[0].close()
        for _ in range(3):
            bench.turn()
        assert guest.heard() == [answer(query(1))]
        assert bench.servers[1].recv(512) == framed(query(2))
        bench.servers[1].close()  # without an answer: there is nobody else
        for _ in range(3):
            bench.turn()
        (failed,) = guest.heard()
        assert DnsHeader.parse(failed).flags & 15 == 2 and guest.alive


def test_silence_leads_to_the_next_and_idleness_to_the_end() -> None:
    with Bench() as bench:
        guest = Guest(bench)
        guest.send(framed(query(1)))
        bench.turn()
        bench.run_timers()
        bench.turn()
        assert bench.servers[1].recv(512) == framed(query(1))
        bench.servers[1].send(framed(answer(query(1))))
        bench.turn()
        assert guest.heard() == [answer(query(1))]
        bench.driver.now += 60
        bench.run_timers()
        guest.settle()
        assert guest.ended and not guest.alive


def test_a_transfer_of_a_zone_is_many_messages() -> None:
    with Bench() as bench:
        guest = Guest(bench)
        asked = query(1)[:-4] + b"\0\xfc\0\1"
        guest.send(framed(asked))
        bench.turn()
        bench.servers[0].send(framed(*[answer(asked)] * 3))
        bench.turn()
        guest.close()
        bench.servers[0].send(framed(answer(asked)))
        bench.turn()
        assert guest.heard() == [answer(asked)] * 4


def test_a_guest_that_does_not_read_is_not_read_for() -> None:
    with Bench() as bench:
        guest = Guest(bench)
        guest.send(framed(*(query(number) for number in range(60))))
        bench.turn()
        large = answer(query(0)) + bytes(60000)
        for number in range(60):
            with contextlib.suppress(BlockingIOError):
                bench.servers[0].send(framed(number.to_bytes(2, "big") + large[2:]))
            bench.turn()
        assert len(guest.flow.connection.buffer) < 200_000
        assert guest.heard()


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=40) | st.just(framed(query(7), query(8))) |
                          st.just(framed(answer(query(7)))) | st.just(b"")), max_size=8))  # fmt: skip
def test_no_bytes_break_it(events: list[tuple[bool, bytes]]) -> None:
    with Bench("allow=*.example") as bench:
        guest = Guest(bench)
        for from_guest, data in events:
            if from_guest:
                guest.send(data)
            elif bench.servers:
                with contextlib.suppress(OSError):
                    if data:
                        bench.servers[-1].send(data)
                    else:
                        bench.servers[-1].close()
            bench.turn()
        for _ in range(4):
            bench.driver.now += 60
            bench.run_timers()
        assert guest.stream._sock is None and not guest.alive
