"""Queries over UDP, by hand: who is asked, who is believed, and that nothing hurts."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from netns.dnsrelay import DnsRelay
from netns.udp import UdpFlow
from netns.wire.dns import DnsHeader
from tests.netns.dnsbench import GUEST, RESOLVER, Bench


def query(identifier: int, name: str = "a.example") -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return DnsHeader(identifier, 0x100, 1, 0, 0, 0).to_bytes() + labels + b"\0\0\1\0\1"


def answer(asked: bytes, *addresses: bytes) -> bytes:
    head = asked[:2] + struct.pack("!HHHHH", 0x8180, 1, len(addresses), 0, 0)
    return head + asked[12:] + b"".join(struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + value for value in addresses)


class Guest:
    """A port of the guest that asks; `heard` is what it was answered."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.flow = UdpFlow(GUEST, 5000, RESOLVER, 53)
        bench.stack.udp.add(self.flow, 0.0)
        self.relay = DnsRelay(bench.driver, self.flow, bench.resolver)

    def heard(self) -> list[bytes]:
        """The payloads that were sent to the guest since the last call."""
        return [b"".join(frame)[52:] for frame in self.bench.stack.poll(0.0)]


def test_an_answer_is_passed_on_and_remembered() -> None:
    with Bench() as bench:
        guest = Guest(bench)
        guest.relay.forward(query(7))
        assert bench.servers[0].recv(512) == query(7)
        bench.servers[0].send(answer(query(7), b"\1\2\3\4"))
        bench.turn()
        assert guest.heard() == [answer(query(7), b"\1\2\3\4")]
        assert bench.driver.egress is not None
        assert bench.driver.egress.names_of(b"\1\2\3\4") == ["a.example"]
        assert not guest.relay._servers and not bench.resolver._sockets


def test_an_answer_to_another_question_is_not_remembered() -> None:
    with Bench("allow=good.example") as bench:
        guest = Guest(bench)
        guest.relay.forward(query(7, "good.example"))
        bench.servers[0].send(answer(query(7, "evil.example"), b"\1\2\3\4"))
        bench.turn()
        assert bench.driver.egress is not None
        assert bench.driver.egress.names_of(b"\1\2\3\4") == []


def test_who_was_not_asked_is_not_believed() -> None:
    with Bench() as bench:
        guest = Guest(bench)
        guest.relay.forward(query(7))
        bench.servers[0].send(answer(query(8), b"\1\2\3\4"))
        bench.servers[0].send(query(7))
        bench.servers[0].send(b"short")
        bench.turn()
        assert guest.heard() == []


def test_silence_leads_to_the_next_and_then_to_servfail() -> None:
    with Bench() as bench:
        guest = Guest(bench)
        guest.relay.forward(query(7))
        bench.run_timers()
        assert bench.servers[1].recv(512) == query(7)
        guest.relay.forward(query(7))  # the guest asks again, and there is nobody else
        assert bench.servers[1].recv(512) == query(7)
        assert guest.heard() == []
        bench.servers[0].send(answer(query(9)))
        bench.run_timers()
        (failed,) = guest.heard()
        assert DnsHeader.parse(failed).flags & 15 == 2 and failed[12:] == query(7)[12:]
        assert not bench.resolver._sockets


def test_a_late_answer_of_the_first_is_as_good() -> None:
    with Bench() as bench:
        guest = Guest(bench)
        guest.relay.forward(query(7))
        bench.run_timers()
        bench.servers[0].send(answer(query(7), b"\1\2\3\4"))
        bench.turn()
        assert guest.heard() == [answer(query(7), b"\1\2\3\4")]


def test_names_that_the_rules_forbid_are_not_asked_for() -> None:
    with Bench("allow=*.example") as bench:
        guest = Guest(bench)
        guest.relay.forward(query(7, "carried.out.test"))
        guest.relay.forward(DnsHeader(8, 0x2800, 1, 0, 0, 0).to_bytes() + query(8)[12:])  # an update
        guest.relay.forward(DnsHeader(9, 0x0100, 2, 0, 0, 0).to_bytes() + query(9)[12:] * 2)
        assert not bench.servers
        assert [(data[1], data[3] & 15) for data in guest.heard()] == [(7, 5), (8, 5), (9, 5)]
        guest.relay.forward(query(7, "a.example"))
        assert len(bench.servers) == 1


def test_sockets_are_bounded_and_the_oldest_gives_up() -> None:
    with Bench(servers=("192.0.2.1",)) as bench:
        guests = [Guest(bench) for _ in range(260)]
        for guest in guests:
            guest.relay.forward(query(7))
        assert len(bench.resolver._sockets) == 256
        assert len(guests[0].heard()) == 4  # of all guests, which share the link
        for guest in guests:
            guest.relay.expired()
        assert not bench.resolver._sockets


@given(
    st.lists(
        st.tuples(st.booleans(), st.binary(max_size=60) | st.just(query(7)) | st.just(answer(query(7)))), max_size=8
    )
)
def test_no_bytes_break_it(events: list[tuple[bool, bytes]]) -> None:
    with Bench("allow=*.example") as bench:
        guest = Guest(bench)
        for from_guest, data in events:
            if from_guest:
                guest.relay.forward(data)
            elif bench.servers:
                try:
                    bench.servers[-1].send(data)
                except OSError:
                    continue
            bench.turn()
        bench.run_timers()
        bench.run_timers()
        assert not bench.resolver._sockets
