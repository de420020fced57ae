"""The stack as the guest's kernel sees it: frames in, frames and events out, a clock of the test's."""

from __future__ import annotations

import random
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netns.events import Datagram, EchoRequested, Event, TcpOpened, TcpReceived, UdpExpired
from netns.link import Link
from netns.settings import Settings
from netns.stack import Stack
from netns.tcp.state import Signal, State
from netns.udp import IDLE_SECONDS, UdpFlow, UdpFlows
from netns.wire import icmp, icmpv6
from netns.wire.arp import ArpPacket
from netns.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv4 import Ipv4Packet
from netns.wire.ipv6 import Ipv6Packet
from netns.wire.tcp import ACK, FIN, RST, SYN, TcpSegment
from netns.wire.udp import UdpDatagram
from netns.wire.vnet import GSO_TCPV4, NEEDS_CSUM, PLAIN, VnetHeader

MAC = b"\x52\x55\x0a\0\2\2"
GUEST_MAC = b"\x02\0\0\0\0\1"
ADDRESSES = Settings().addresses()
GUEST, GATEWAY = ADDRESSES.guest, ADDRESSES.gateway
GUEST6, GATEWAY6 = socket.inet_pton(socket.AF_INET6, "fd00::100"), socket.inet_pton(socket.AF_INET6, "fd00::2")
FAR = bytes((192, 0, 2, 9))


def new_stack(*, advertise: bool = False, max_flows: int = 100, mtu: int = 1500) -> Stack:
    return Stack(ADDRESSES, Link(MAC, GUEST_MAC, mtu), lambda: 1000, advertise=advertise, max_flows=max_flows)


def frame4(protocol: int, payload: bytes, *, source: bytes = GUEST, destination: bytes = FAR) -> bytes:
    packet = Ipv4Packet(source, destination, protocol, payload).to_bytes()
    return PLAIN + EthernetFrame(MAC, GUEST_MAC, ETHERTYPE_IPV4, packet).to_bytes()


def frame6(header: int, payload: bytes, destination: bytes, *, source: bytes = GUEST6, hops: int = 255) -> bytes:
    packet = Ipv6Packet(source, destination, header, payload, hops).to_bytes()
    return PLAIN + EthernetFrame(MAC, GUEST_MAC, ETHERTYPE_IPV6, packet).to_bytes()


def tcp4(segment: TcpSegment, *, destination: bytes = FAR) -> bytes:
    segment.source_port, segment.destination_port = 40000, 80
    return frame4(6, segment.to_bytes(GUEST, destination), destination=destination)


def sent(stack: Stack, now: float = 0.0) -> list[EthernetFrame]:
    """The frames of a poll, without their virtio headers."""
    return [EthernetFrame.parse(b"".join(frame)[10:]) for frame in stack.poll(now)]


def segments(stack: Stack, now: float = 0.0) -> list[TcpSegment]:
    """The TCP segments of a poll."""
    return [TcpSegment.parse(Ipv4Packet.parse(frame.payload).payload) for frame in sent(stack, now)]


def only(events: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def opened(stack: Stack, *, mss: int = 1460) -> TcpOpened:
    """The guest connects, and the far side has answered."""
    stack.receive(tcp4(TcpSegment(500, 0, SYN, 65535, mss=mss, scale=7)), 0.0)
    (event,) = stack.take_events()
    assert isinstance(event, TcpOpened)
    event.flow.connection.accept()
    stack.touch(event.flow)
    (answer,) = segments(stack)
    assert (answer.flags, answer.ack, answer.mss) == (SYN | ACK, 501, 1460)
    stack.receive(tcp4(TcpSegment(501, 1001, ACK, 1000)), 0.0)
    stack.take_events()
    return event


def test_arp_for_our_addresses_only() -> None:
    stack = new_stack()
    for target, answered in (
        (GATEWAY, True),
        (ADDRESSES.resolver, True),
        (GUEST, False),
        (bytes((10, 0, 2, 9)), False),
    ):
        ask = ArpPacket(1, GUEST_MAC, GUEST, bytes(6), target).to_bytes()
        stack.receive(PLAIN + EthernetFrame(b"\xff" * 6, GUEST_MAC, ETHERTYPE_ARP, ask).to_bytes(), 0.0)
        answers = sent(stack)
        assert len(answers) == answered
        if answered:
            reply = ArpPacket.parse(answers[0].payload)
            assert (reply.operation, reply.sender, reply.sender_mac, reply.target) == (2, target, MAC, GUEST)


def test_neighbours_and_routers() -> None:
    stack = new_stack(advertise=True)
    group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:2")
    ask = Icmpv6Message(icmpv6.NEIGHBOUR_SOLICITATION, 0, 0, 0, GATEWAY6).to_bytes(GUEST6, group)
    stack.receive(frame6(58, ask, group), 0.0)
    stack.receive(frame6(58, ask, group, hops=64), 0.0)  # came over a router, which it must not
    (answer,) = sent(stack)
    packet = Ipv6Packet.parse(answer.payload)
    reply = Icmpv6Message.parse(packet.payload, packet.source, packet.destination)
    assert reply.kind == icmpv6.NEIGHBOUR_ADVERTISEMENT and bytes(reply.payload)[:16] == GATEWAY6

    routers = socket.inet_pton(socket.AF_INET6, "ff02::2")
    ask = Icmpv6Message(icmpv6.ROUTER_SOLICITATION, 0, 0, 0, b"").to_bytes(GUEST6, routers)
    stack.receive(frame6(58, ask, routers), 0.0)
    (answer,) = sent(stack)
    packet = Ipv6Packet.parse(answer.payload)
    assert packet.source[:2] == b"\xfe\x80" and packet.hop_limit == 255


@pytest.mark.parametrize("target", [GATEWAY, ADDRESSES.resolver])
def test_echo_of_our_addresses(target: bytes) -> None:
    stack = new_stack()
    ask = IcmpMessage(icmp.ECHO_REQUEST, 0, 7, 9, b"payload").to_bytes()
    stack.receive(frame4(1, ask, destination=target), 0.0)
    (answer,) = sent(stack)
    reply = IcmpMessage.parse(Ipv4Packet.parse(answer.payload).payload)
    assert (reply.kind, reply.first, reply.second, bytes(reply.payload)) == (icmp.ECHO_REPLY, 7, 9, b"payload")


def test_echo_beyond_is_an_event() -> None:
    stack = new_stack()
    stack.receive(frame4(1, IcmpMessage(icmp.ECHO_REQUEST, 0, 7, 9, b"p").to_bytes()), 0.0)
    (event,) = stack.take_events()
    assert isinstance(event, EchoRequested) and event.far == FAR
    assert not sent(stack)


def test_a_connection_from_syn_to_time_wait() -> None:
    stack = new_stack()
    flow = opened(stack).flow
    stack.receive(tcp4(TcpSegment(501, 1001, ACK, 1000, [b"request"], 7)), 0.0)
    (event,) = only(stack.take_events(), TcpReceived)
    assert isinstance(event, TcpReceived)
    assert b"".join(event.flow.connection.received) == b"request"
    flow.connection.received.clear()
    flow.connection.consumed(7)
    flow.connection.send(b"answer")
    flow.connection.close()
    stack.touch(flow)
    (answer,) = segments(stack)
    assert (answer.seq, answer.ack, answer.flags & FIN, bytes(answer.payload[0])) == (1001, 508, FIN, b"answer")
    stack.receive(tcp4(TcpSegment(508, 1008, ACK | FIN, 1000)), 0.0)
    (last,) = segments(stack)
    assert last.ack == 509 and flow.connection.state is State.TIME_WAIT
    while (due := stack.deadline()) is not None:
        assert not segments(stack, due)
    assert not stack.tcp


def test_timers_do_not_pile_up() -> None:
    stack = new_stack()
    flow = opened(stack).flow
    now = 0.0
    for seq in range(1001, 6001, 10):
        flow.connection.send(bytes(10))
        stack.touch(flow)
        stack.poll(now)
        stack.receive(tcp4(TcpSegment(501, seq + 10, ACK, 1000)), now)
        now = stack.deadline() or now
        stack.poll(now)
    assert len(stack._timers) < 300


def test_a_fault_ends_one_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = new_stack()
    faults: list[Exception] = []
    stack.on_fault = faults.append
    first = opened(stack).flow
    stack.receive(syn4(1000), 0.0)
    (event,) = only(stack.take_events(), TcpOpened)
    assert isinstance(event, TcpOpened)
    event.flow.connection.accept()

    def fails(segment: TcpSegment, link: Link) -> None:
        raise KeyError("unforeseen")

    first.connection.send(b"x")
    stack.touch(first)
    stack.touch(event.flow)
    frame = type(first).frame
    monkeypatch.setattr(
        type(first), "frame", lambda flow, *rest: fails(*rest) if flow is first else frame(flow, *rest)
    )  # fmt: skip
    (answer,) = segments(stack)
    assert answer.flags == SYN | ACK and list(map(str, faults)) == ["'unforeseen'"]
    assert list(stack.tcp.values()) == [event.flow]
    assert first.connection.signals[-1] is Signal.TIMED_OUT


def test_a_timer_that_was_put_off_still_runs_out() -> None:
    stack = new_stack()
    stack.ack_patience = 0.001
    flow = opened(stack).flow
    flow.connection.signals.clear()
    flow.connection.send(b"one")
    stack.touch(flow)
    assert len(segments(stack, 0.1)) == 1
    flow.connection.send(b"two")
    stack.touch(flow)
    assert len(segments(stack, 0.15)) == 1
    stack.receive(tcp4(TcpSegment(501, 1004, ACK, 1000)), 0.2)  # the timer starts again for "two"
    flow.connection.send(b"three")
    stack.touch(flow)
    assert len(segments(stack, 0.2)) == 1
    resent = 0
    now = 0.2
    while now < 5.0 and not resent:
        resent += len(segments(stack, now))
        due = stack.deadline()
        assert due is not None
        now = max(now + 0.001, due)
    assert resent == 1 and now < 1.0


def test_an_acknowledgement_waits_for_data_to_go_with() -> None:
    stack = new_stack()
    stack.ack_patience = 0.001
    flow = opened(stack).flow
    flow.connection.signals.clear()
    stack.poll(0.0)
    stack.receive(tcp4(TcpSegment(501, 1001, ACK, 1000, [b"request"], 7)), 1.0)
    assert not segments(stack, 1.0)
    assert stack.deadline() == 1.001
    flow.connection.send(b"answer")
    stack.touch(flow)
    (answer,) = segments(stack, 1.0005)
    assert (answer.ack, answer.length) == (508, 6)
    stack.receive(tcp4(TcpSegment(508, 1007, ACK, 1000, [b"again"], 5)), 2.0)
    assert not segments(stack, 2.0)
    (alone,) = segments(stack, 2.001)
    assert (alone.ack, alone.length) == (513, 0)
    assert not segments(stack, 2.01)


def test_time_wait_gives_way_to_a_new_connection() -> None:
    stack = new_stack()
    flow = opened(stack).flow
    flow.connection.close()
    stack.touch(flow)
    segments(stack)
    stack.receive(tcp4(TcpSegment(501, 1002, ACK | FIN, 1000)), 0.0)
    segments(stack)
    assert flow.connection.state is State.TIME_WAIT
    stack.take_events()
    stack.receive(tcp4(TcpSegment(5000, 0, SYN, 65535)), 0.0)
    (event,) = stack.take_events()
    assert isinstance(event, TcpOpened) and event.flow is not flow


def test_large_segments_carry_what_the_kernel_needs_to_cut_them() -> None:
    stack = new_stack()
    flow = opened(stack).flow
    flow.connection.send(bytes(5000))
    stack.touch(flow)
    (frame,) = stack.poll(0.0)
    head = VnetHeader.parse(frame[0])
    assert (head.flags, head.gso_type, head.gso_size) == (NEEDS_CSUM, GSO_TCPV4, 1460)
    assert (head.csum_start, head.csum_offset, head.header_length) == (34, 16, 54)
    assert sum(map(len, frame[1:])) == 5000


def test_unknown_segments_are_reset_and_resets_ignored() -> None:
    stack = new_stack()
    stack.receive(tcp4(TcpSegment(9, 77, ACK, 0)), 0.0)
    stack.receive(tcp4(TcpSegment(9, 0, RST, 0)), 0.0)
    (reset,) = segments(stack)
    assert (reset.flags, reset.seq) == (RST, 77)


def test_refusal() -> None:
    stack = new_stack()
    stack.receive(tcp4(TcpSegment(500, 0, SYN, 65535)), 0.0)
    (event,) = stack.take_events()
    assert isinstance(event, TcpOpened)
    event.flow.connection.abort()
    stack.touch(event.flow)
    (reset,) = segments(stack)
    assert (reset.flags, reset.ack) == (RST | ACK, 501)
    assert not stack.tcp


def test_connections_are_bounded() -> None:
    stack = new_stack(max_flows=3)
    for port in range(5):
        segment = TcpSegment(500, 0, SYN, 65535, source_port=1000 + port, destination_port=80)
        stack.receive(frame4(6, segment.to_bytes(GUEST, FAR)), 0.0)
    assert len(only(stack.take_events(), TcpOpened)) == 3
    assert [segment.flags for segment in segments(stack)] == [RST | ACK] * 2


def syn4(port: int) -> bytes:
    """A SYN from `port` of the guest."""
    segment = TcpSegment(500, 0, SYN, 65535, source_port=port, destination_port=80)
    return frame4(6, segment.to_bytes(GUEST, FAR))


def test_a_flood_of_syns_leaves_room() -> None:
    stack = new_stack(max_flows=80)
    flow = opened(stack).flow
    for port in range(1000, 1100):
        stack.receive(syn4(port), 0.0)
    first = only(stack.take_events(), TcpOpened)[0]
    assert isinstance(first, TcpOpened)
    assert not sent(stack)  # nothing is said to who is forgotten: its SYN comes again if it is meant
    assert first.flow in [event.flow for event in stack.take_events() if isinstance(event, TcpReceived)]
    assert first.flow.connection.signals == [Signal.TIMED_OUT]
    assert len(stack.tcp) == 21 and flow.key in stack.tcp
    stack.receive(syn4(1000), 1.0)
    assert only(stack.take_events(), TcpOpened)


def test_a_held_syn_is_not_held_for_ever() -> None:
    stack = new_stack()
    stack.receive(syn4(1000), 5.0)
    stack.receive(syn4(1000), 7.0)
    stack.poll(7.0)
    stack.take_events()
    assert stack.deadline() == 35.0
    assert not sent(stack, 35.0)
    assert not stack.tcp
    (event,) = stack.take_events()
    assert isinstance(event, TcpReceived) and event.flow.connection.signals == [Signal.TIMED_OUT]


def test_an_unanswered_syn_ack_counts_as_half_open() -> None:
    stack = new_stack()
    for port in range(1000, 1030):
        stack.receive(syn4(port), 0.0)
        for event in only(stack.take_events(), TcpOpened):
            assert isinstance(event, TcpOpened)
            event.flow.connection.accept()
            stack.touch(event.flow)
        stack.poll(0.0)
    assert len(stack.tcp) == 25
    stack.poll(31.0)
    assert not stack.tcp


def test_connections_to_the_guest() -> None:
    stack = new_stack()
    flow = stack.open_tcp(GUEST, 80, FAR, 5000, 0.0)
    assert flow is not None
    assert stack.open_tcp(GUEST, 80, FAR, 5000, 0.0) is None
    (syn,) = segments(stack)
    assert (syn.flags, syn.source_port, syn.destination_port) == (SYN, 5000, 80)
    answer = TcpSegment(0, syn.seq + 1, RST | ACK, 0, source_port=80, destination_port=5000)
    stack.take_events()
    stack.receive(frame4(6, answer.to_bytes(GUEST, FAR)), 0.0)
    assert flow.connection.signals == [Signal.REFUSED]


def test_datagrams_make_flows_that_expire() -> None:
    stack = new_stack()
    datagram = UdpDatagram(4000, 53, b"question").to_bytes(GUEST, FAR)
    stack.receive(frame4(17, datagram), 0.0)
    stack.receive(frame4(17, datagram), 10.0)
    events = stack.take_events()
    flows = {event.flow for event in events if isinstance(event, Datagram)}
    assert len(events) == 2 and len(flows) == 1
    assert stack.deadline() == 10 + IDLE_SECONDS
    stack.poll(9 + IDLE_SECONDS)
    assert not stack.take_events()
    stack.poll(10 + IDLE_SECONDS)
    (expired,) = stack.take_events()
    assert isinstance(expired, UdpExpired)
    assert stack.deadline() is None


def test_flows_of_datagrams_are_bounded() -> None:
    flows = UdpFlows(limit=2)
    first, second, third = (UdpFlow(GUEST, port, FAR, 53) for port in (1, 2, 3))
    assert flows.add(first, 0.0) is None
    assert flows.add(second, 0.0) is None
    flows.use(first.key, 1.0)
    assert flows.add(third, 2.0) is second


@pytest.mark.parametrize("destination", ["224.0.0.251", "255.255.255.255", "10.0.2.255", "0.0.0.0", "240.1.1.1"])
def test_what_is_not_for_one_host_is_dropped(destination: str) -> None:
    stack = new_stack()
    far = socket.inet_aton(destination)
    stack.receive(frame4(17, UdpDatagram(1, 2, b"").to_bytes(GUEST, far), destination=far), 0.0)
    stack.receive(frame4(1, IcmpMessage(8, 0, 1, 1, b"").to_bytes(), destination=far), 0.0)
    if destination != "10.0.2.255":  # a connection there is an event, and forbidden by `Reach`
        stack.receive(tcp4(TcpSegment(1, 0, SYN, 1), destination=far), 0.0)
    assert not [event for event in stack.take_events() if not isinstance(event, EchoRequested) or far[3] != 255]
    assert not sent(stack)


def test_a_wrong_checksum_is_dropped_unless_the_kernel_vouches() -> None:
    for vnet, kept in ((VnetHeader(), False), (VnetHeader(NEEDS_CSUM), True)):
        stack = new_stack()
        datagram = bytearray(UdpDatagram(4000, 53, b"question").to_bytes(GUEST, FAR))
        datagram[-1] ^= 1
        stack.receive(vnet.to_bytes() + frame4(17, bytes(datagram))[10:], 0.0)
        assert len(stack.take_events()) == kept
        assert stack.malformed == (not kept)


def test_fragments_come_together() -> None:
    stack = new_stack()
    link = Link(GUEST_MAC, MAC, 1500)  # the guest's side of it
    payload = bytes(range(256)) * 20
    frames = link.datagram(GUEST, 4000, FAR, 53, payload)
    assert len(frames) > 2
    random.Random(1).shuffle(frames)
    for frame in frames:
        stack.receive(b"".join(frame), 0.0)
    (event,) = stack.take_events()
    assert isinstance(event, Datagram) and bytes(event.payload) == payload


def test_the_guests_hardware_address_is_learned() -> None:
    stack = new_stack()
    frame = bytearray(frame4(1, IcmpMessage(8, 0, 1, 1, b"").to_bytes(), destination=GATEWAY))
    frame[16:22] = b"\x06\0\0\0\0\7"
    stack.receive(bytes(frame), 0.0)
    assert sent(stack)[0].destination == b"\x06\0\0\0\0\7"


def corpus() -> list[bytes]:
    group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:2")
    ask = Icmpv6Message(icmpv6.NEIGHBOUR_SOLICITATION, 0, 0, 0, GATEWAY6).to_bytes(GUEST6, group)
    arp = ArpPacket(1, GUEST_MAC, GUEST, bytes(6), GATEWAY).to_bytes()
    fragments = Link(GUEST_MAC, MAC, 1500).datagram(GUEST, 4000, FAR, 53, bytes(3000))
    fragments += Link(GUEST_MAC, MAC, 1500).datagram(GUEST6, 4000, GATEWAY6, 53, bytes(3000))
    return [
        tcp4(TcpSegment(500, 0, SYN, 65535, mss=1460, scale=7)),
        tcp4(TcpSegment(501, 1001, ACK, 1000, [b"x" * 30], 30)),
        tcp4(TcpSegment(520, 1001, ACK | FIN, 1000, [b"x" * 30], 30)),
        frame4(17, UdpDatagram(4000, 53, b"question").to_bytes(GUEST, FAR)),
        frame4(17, UdpDatagram(68, 67, bytes(300)).to_bytes(GUEST, FAR)),
        frame4(1, IcmpMessage(8, 0, 1, 1, b"ping").to_bytes(), destination=GATEWAY),
        frame6(58, ask, group),
        PLAIN + EthernetFrame(b"\xff" * 6, GUEST_MAC, ETHERTYPE_ARP, arp).to_bytes(),
        *(b"".join(frame) for frame in fragments),
    ]


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_nothing_that_a_guest_sends_raises(seed: int) -> None:
    chance = random.Random(seed)
    stack = new_stack(advertise=True, max_flows=4)
    frames = corpus()
    now = 0.0
    for _ in range(60):
        frame = bytearray(chance.choice(frames))
        for _ in range(chance.choice((0, 0, 1, 2, 8))):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        if chance.random() < 0.5:
            frame[0] |= NEEDS_CSUM  # so that damage reaches the layers above the checksum
        if chance.random() < 0.2:
            del frame[chance.randrange(len(frame)) :]
        stack.receive(bytes(frame), now)
        for event in stack.take_events():
            if isinstance(event, TcpOpened):
                if chance.random() < 0.7:
                    event.flow.connection.accept()
                else:
                    event.flow.connection.abort()
                stack.touch(event.flow)
            elif isinstance(event, TcpReceived):
                event.flow.connection.received.clear()
                event.flow.connection.signals.clear()
                event.flow.connection.consumed(event.flow.connection.window.unconsumed)
        for frame_out in stack.poll(now):
            assert len(b"".join(frame_out)) >= 24
        now += chance.random() * 3
        assert len(stack.tcp) <= 4


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_noise_is_counted_and_dropped(frames: list[bytes]) -> None:
    stack = new_stack()
    for frame in frames:
        stack.receive(frame, 0.0)
        stack.receive(PLAIN + MAC + GUEST_MAC + b"\x08\x00" + frame, 0.0)
        stack.receive(PLAIN + MAC + GUEST_MAC + b"\x86\xdd" + frame, 0.0)
    assert stack.malformed >= len(frames)
