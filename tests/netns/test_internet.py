"""IP, ICMP and UDP as the guest's kernel sees them: frames in, frames and events out, a clock of the test's."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.events import Datagram, EchoRequested, Event
from netns.link import Link
from netns.settings import Settings
from netns.stack import Stack
from netns.udp import UdpFlow
from netns.wire import icmp, icmpv6
from netns.wire.checksum import checksum
from netns.wire.dhcp import DhcpMessage
from netns.wire.error import WireError
from netns.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv4 import Ipv4Packet
from netns.wire.ipv6 import Ipv6Fragment, Ipv6Packet
from netns.wire.udp import UdpDatagram
from netns.wire.vnet import NEEDS_CSUM, PLAIN, VnetHeader

MAC = b"\x52\x55\x0a\0\2\2"
GUEST_MAC = b"\x02\0\0\0\0\1"
ADDRESSES = Settings().addresses()
GUEST, GATEWAY = ADDRESSES.guest, ADDRESSES.gateway
GUEST6, GATEWAY6 = socket.inet_pton(socket.AF_INET6, "fd00::100"), socket.inet_pton(socket.AF_INET6, "fd00::2")
FAR, FAR6 = bytes((192, 0, 2, 9)), socket.inet_pton(socket.AF_INET6, "2001:db8::9")
GROUP, GROUP6 = bytes((224, 0, 0, 1)), socket.inet_pton(socket.AF_INET6, "ff02::1")


def new_stack(mtu: int = 1500) -> Stack:
    return Stack(ADDRESSES, Link(MAC, GUEST_MAC, mtu), lambda: 1000)


def frame(packet: Ipv4Packet | Ipv6Packet) -> bytes:
    kind = ETHERTYPE_IPV4 if isinstance(packet, Ipv4Packet) else ETHERTYPE_IPV6
    return PLAIN + EthernetFrame(MAC, GUEST_MAC, kind, packet.to_bytes()).to_bytes()


def udp4(payload: bytes = b"question", far: bytes = FAR, port: int = 5000, ttl: int = 64) -> Ipv4Packet:
    return Ipv4Packet(GUEST, far, 17, UdpDatagram(4000, port, payload).to_bytes(GUEST, far), ttl)


def udp6(payload: bytes = b"question", far: bytes = FAR6, hops: int = 64) -> Ipv6Packet:
    return Ipv6Packet(GUEST6, far, 17, UdpDatagram(4000, 5000, payload).to_bytes(GUEST6, far), hops)


def answers(stack: Stack, *packets: Ipv4Packet | Ipv6Packet | bytes) -> list[Ipv4Packet | Ipv6Packet]:
    """What the stack sends back for what the guest sends."""
    for packet in packets:
        stack.receive(packet if isinstance(packet, bytes) else frame(packet), 0.0)
    result: list[Ipv4Packet | Ipv6Packet] = []
    for out in stack.poll(0.0):
        ethernet = EthernetFrame.parse(b"".join(out)[10:])
        four = ethernet.ethertype == ETHERTYPE_IPV4
        result.append(Ipv4Packet.parse(ethernet.payload) if four else Ipv6Packet.parse(ethernet.payload))
    return result


def error(packets: list[Ipv4Packet | Ipv6Packet]) -> tuple[bytes, int, int, bytes]:
    """The only answer, an ICMP error: its source, kind, code and what it quotes."""
    (packet,) = packets
    message: IcmpMessage | Icmpv6Message
    if isinstance(packet, Ipv4Packet):
        message = IcmpMessage.parse(packet.payload)
    else:
        message = Icmpv6Message.parse(packet.payload, packet.source, packet.destination)
    return packet.source, message.kind, message.code, bytes(message.payload)


def only(events: list[Event]) -> Event:
    (event,) = events
    return event


@pytest.mark.parametrize("ttl", [0, 1])
def test_what_may_cross_no_router_ends_at_the_gateway(ttl: int) -> None:
    stack = new_stack()
    echo = Ipv4Packet(GUEST, FAR, 1, IcmpMessage(icmp.ECHO_REQUEST, 0, 7, 9, b"p").to_bytes(), ttl)
    echo6 = Ipv6Packet(GUEST6, FAR6, 58, Icmpv6Message(icmpv6.ECHO_REQUEST, 0, 7, 9, b"").to_bytes(GUEST6, FAR6), ttl)
    syn = Ipv4Packet(GUEST, FAR, 6, bytes(20), ttl)
    for packet in (udp4(ttl=ttl), echo, syn):
        assert error(answers(stack, packet)) == (GATEWAY, icmp.TIME_EXCEEDED, 0, packet.to_bytes())
    for packet6 in (udp6(hops=ttl), echo6):
        assert error(answers(stack, packet6)) == (GATEWAY6, icmpv6.TIME_EXCEEDED, 0, packet6.to_bytes())
    assert not stack.take_events() and not stack.malformed


def test_our_addresses_are_behind_no_router() -> None:
    stack = new_stack()
    assert not answers(stack, udp4(far=GATEWAY, ttl=1))
    event = only(stack.take_events())
    assert isinstance(event, Datagram) and event.flow.hop_limit == 1


def test_errors_are_never_about_errors_groups_or_nobody() -> None:
    stack = new_stack()
    about = IcmpMessage(icmp.UNREACHABLE, 3, 0, 0, bytes(28)).to_bytes()
    about6 = Icmpv6Message(icmpv6.UNREACHABLE, 4, 0, 0, bytes(48)).to_bytes(GUEST6, FAR6)
    quiet: list[Ipv4Packet | Ipv6Packet] = [
        Ipv4Packet(GUEST, FAR, 1, about, 1),
        Ipv6Packet(GUEST6, FAR6, 58, about6, 1),
        Ipv4Packet(GUEST, FAR, 1, b"", 1),
        Ipv4Packet(GUEST, FAR, 17, bytes(16), 1, 5, False, False, 8),  # not the first fragment
        Ipv6Packet(GUEST6, FAR6, 44, Ipv6Fragment(17, 8, False, 5, bytes(16)).to_bytes(), 1),
        Ipv4Packet(bytes(4), FAR, 17, bytes(8), 1),
        Ipv4Packet(GROUP, FAR, 132, bytes(8)),
        Ipv4Packet(GUEST, GROUP, 2, bytes(8), 1),
        Ipv4Packet(GUEST, ADDRESSES.broadcast, 132, bytes(8)),
        Ipv6Packet(GUEST6, GROUP6, 132, bytes(8)),
        Ipv6Packet(GUEST6, FAR6, 59, b""),
    ]
    assert not answers(stack, *quiet)
    assert not stack.take_events()


def test_other_protocols_are_refused_by_name() -> None:
    stack = new_stack()
    sctp = Ipv4Packet(GUEST, FAR, 132, bytes(12))
    assert error(answers(stack, sctp)) == (GATEWAY, icmp.UNREACHABLE, icmp.PROTOCOL, sctp.to_bytes())
    sctp6 = Ipv6Packet(GUEST6, FAR6, 60, bytes((132, 0)) + bytes(6) + bytes(12))
    (packet,) = answers(stack, sctp6)
    message = Icmpv6Message.parse(packet.payload, packet.source, packet.destination)
    assert (message.kind, message.code, message.first, message.second) == (icmpv6.PARAMETER_PROBLEM, 1, 0, 40)
    assert bytes(message.payload) == sctp6.to_bytes()


def test_errors_are_limited() -> None:
    stack = new_stack()
    assert len(answers(stack, *[udp4(ttl=1)] * 1000)) == 200


def test_what_the_header_asks_for_is_noted() -> None:
    stack = new_stack()
    packet = udp4(ttl=7)
    packet.dont_fragment = False
    for sent, expected in ((udp4(), (64, True)), (packet, (7, False)), (udp6(hops=9), (9, True))):
        stack.receive(frame(sent), 0.0)
        event = only(stack.take_events())
        assert isinstance(event, Datagram)
        assert (event.flow.hop_limit, event.flow.dont_fragment) == expected
        assert event.flow.head == bytes(sent.payload)[:8]
    echo = Ipv4Packet(GUEST, FAR, 1, IcmpMessage(icmp.ECHO_REQUEST, 0, 7, 9, b"").to_bytes(), 5)
    stack.receive(frame(echo), 0.0)
    event = only(stack.take_events())
    assert isinstance(event, EchoRequested) and (event.hop_limit, event.dont_fragment) == (5, True)


def test_options_are_stepped_over() -> None:
    stack = new_stack()
    plain = udp4().to_bytes()
    options = b"\x94\x04\0\0" + b"\1" * 4  # router alert (RFC 2113) and padding
    header = bytearray(plain[:20] + options)
    header[0] = 0x47
    header[2:4] = struct.pack("!H", len(plain) + 8)
    header[10:12] = bytes(2)
    total = sum(struct.unpack("!14H", header))
    header[10:12] = struct.pack("!H", 65535 - (total % 65535))
    wire = EthernetFrame(MAC, GUEST_MAC, ETHERTYPE_IPV4, bytes(header) + plain[20:]).to_bytes()
    stack.receive(PLAIN + wire, 0.0)
    event = only(stack.take_events())
    assert isinstance(event, Datagram) and bytes(event.payload) == b"question"


def test_headers_after_the_fragment_header() -> None:
    """Destination options are part of what is cut (RFC 8200 section 4.5)."""
    stack = new_stack()
    whole = bytes((17, 0)) + bytes(6) + bytes(udp6(bytes(range(200))).payload)
    parts = [Ipv6Fragment(60, at, at + 104 < len(whole), 77, whole[at : at + 104]) for at in range(0, len(whole), 104)]
    assert len(parts) == 3
    for part in reversed(parts):
        stack.receive(frame(Ipv6Packet(GUEST6, FAR6, 44, part.to_bytes())), 0.0)
    event = only(stack.take_events())
    assert isinstance(event, Datagram) and bytes(event.payload) == bytes(range(200))
    assert not event.flow.dont_fragment


def test_a_fragment_that_is_all_meets_no_others() -> None:
    stack = new_stack()
    other = Ipv6Fragment(17, 0, True, 77, bytes(16))
    atomic = Ipv6Fragment(17, 0, False, 77, bytes(udp6().payload))
    for part in (other, atomic, atomic):
        stack.receive(frame(Ipv6Packet(GUEST6, FAR6, 44, part.to_bytes())), 0.0)
    assert len(stack.take_events()) == 2 and not stack.malformed


@pytest.mark.parametrize("six", [False, True])
def test_large_echo_replies_are_cut(six: bool) -> None:
    stack = new_stack(mtu=1280)
    peer = Stack(ADDRESSES, Link(GUEST_MAC, MAC, 1280), lambda: 1)
    body = bytes(range(250)) * 20
    if six:
        ask = Icmpv6Message(icmpv6.ECHO_REQUEST, 0, 7, 9, body).to_bytes(GUEST6, GATEWAY6)
        frames = peer.link.packets(GUEST6, GATEWAY6, 58, ask)
    else:
        frames = peer.link.packets(GUEST, GATEWAY, 1, IcmpMessage(icmp.ECHO_REQUEST, 0, 7, 9, body).to_bytes())
    parts = answers(stack, *(b"".join(part) for part in frames))
    assert len(parts) == (5 if six else 4)
    if six:
        pieces = [Ipv6Fragment.parse(part.payload) for part in parts if isinstance(part, Ipv6Packet)]
        assert all(40 + 8 + len(piece.payload) <= 1280 for piece in pieces)
        reply = b"".join(bytes(piece.payload) for piece in sorted(pieces, key=lambda piece: piece.offset))
        assert bytes(Icmpv6Message.parse(reply, GATEWAY6, GUEST6).payload) == body
    else:
        fours = [part for part in parts if isinstance(part, Ipv4Packet)]
        reply = b"".join(bytes(part.payload) for part in sorted(fours, key=lambda part: part.fragment_offset))
        assert bytes(IcmpMessage.parse(reply).payload) == body


@pytest.mark.parametrize(
    ("destination", "ours"), [(b"\xff" * 4, True), (GATEWAY, True), (ADDRESSES.broadcast, True), (FAR, False)]
)
def test_dhcp_is_ours_only_where_it_is_meant_for_us(destination: bytes, ours: bool) -> None:
    stack = new_stack()
    ask = DhcpMessage(1, 99, b"\2" * 6, options={53: b"\1"}).to_bytes()
    packet = udp4(ask, destination, 67)
    assert len(answers(stack, packet)) == ours
    assert len(stack.take_events()) == (not ours)


def test_bytes_and_answers_are_counted() -> None:
    stack = new_stack()
    stack.receive(frame(udp4(b"12345")), 3.0)
    event = only(stack.take_events())
    assert isinstance(event, Datagram)
    flow = event.flow
    assert (flow.since, flow.from_guest, flow.to_guest, flow.inbound) == (3.0, 5, 0, False)
    assert stack.deadline() == 33.0
    stack.send_datagram(flow, b"123", 4.0)
    assert (flow.to_guest, stack.deadline()) == (3, 124.0)
    published = stack.open_udp(GUEST, 80, FAR, 9000, 5.0)
    stack.send_datagram(published, b"", 5.0)
    assert published.inbound and stack.deadline() == 35.0
    stack.receive(frame(Ipv4Packet(GUEST, FAR, 17, UdpDatagram(80, 9000, b"").to_bytes(GUEST, FAR))), 6.0)
    assert stack.deadline() == 124.0


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=3), st.booleans(), st.integers(0, 95))
def test_datagrams_at_one_go_are_those_layer_by_layer(changes: list[tuple[int, int]], six: bool, cut: int) -> None:
    """Whatever is changed in a frame that the guest's kernel vouches for: the same comes of it."""
    first = bytearray(frame(udp6(bytes(range(30))) if six else udp4(bytes(range(30)))))
    first[0] = NEEDS_CSUM
    second = bytearray(first)
    for place, value in changes:
        if place < len(second):
            second[place] = value
    if cut < len(second):
        del second[cut:]
    if not six and len(second) >= 44:
        second[34:36] = bytes(2)
        second[34:36] = struct.pack("!H", checksum(second[24:44]))
    outcomes = []
    for quick in (True, False):
        stack = new_stack()
        stack.receive(bytes(first), 0.0)
        stack.take_events()
        if quick:
            stack.receive(bytes(second), 1.0)
        else:
            try:
                stack._receive(memoryview(bytes(second)), 1.0)
            except WireError:
                stack.malformed += 1
        outcomes.append((
            [
                (event.flow.key, event.flow.head, event.flow.hop_limit, event.flow.dont_fragment, bytes(event.payload))
                for event in stack.take_events() if isinstance(event, Datagram)
            ],
            stack.malformed, [b"".join(out) for out in stack.poll(1.0)],
        ))  # fmt: skip
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("size", [0, 1, 1232, 1252])
def test_datagrams_to_the_guest(six: bool, size: int) -> None:
    link = Link(MAC, GUEST_MAC, 1280)
    flow = UdpFlow(GUEST6, 4000, FAR6, 53) if six else UdpFlow(GUEST, 4000, FAR, 53)
    made = flow.frame(bytes(size), link)
    if size + (48 if six else 28) > 1280:
        assert made is None
    else:
        assert made is not None
        (plain,) = link.datagram(flow.far, 53, flow.guest, 4000, bytes(size))
        assert b"".join(made) == b"".join(plain)


@pytest.mark.parametrize("six", [False, True])
def test_runs_of_datagrams_are_one_frame_where_they_fit(six: bool) -> None:
    stack = new_stack()
    flow = stack.open_udp(GUEST6 if six else GUEST, 80, FAR6 if six else FAR, 9000, 0.0)
    stack.send_run(flow, bytes(2500), 1000, 1.0)
    (run,) = stack.poll(1.0)
    header = VnetHeader.parse(run[0])
    start = 54 if six else 34
    assert header == VnetHeader(NEEDS_CSUM, 5, start + 8, 1000, start, 6)
    assert len(b"".join(run)) == 10 + start + 8 + 2500
    assert (flow.to_guest, flow.last_used) == (2500, 1.0)
    stack.send_run(flow, bytes(65 * 100), 100, 1.0)  # more than a kernel cuts
    assert len(stack.poll(1.0)) == 65
    stack.send_run(flow, bytes(3000), 2000, 1.0)  # larger than the link's MTU: cut twice
    assert [VnetHeader.parse(out[0]).gso_type for out in stack.poll(1.0)] == [0, 0, 0]
    assert flow.to_guest == 2500 + 6500 + 3000


@pytest.mark.parametrize("six", [False, True])
def test_a_frame_of_many_datagrams(six: bool) -> None:
    """What a guest leaves to be cut (udp(7), UDP_SEGMENT) comes as it would have been cut."""
    packet = udp6(bytes(range(250))) if six else udp4(bytes(range(250)))
    stack = new_stack()
    for _ in range(2):  # an unknown flow, a known one
        stack.receive(VnetHeader(NEEDS_CSUM, 5, 0, 100).to_bytes() + frame(packet)[10:], 0.0)
        events = stack.take_events()
        assert [bytes(event.payload) for event in events if isinstance(event, Datagram)] == [
            bytes(range(100)), bytes(range(100, 200)), bytes(range(200, 250))
        ]  # fmt: skip
    for size in (0, 1):  # endless, and more than a kernel cuts
        stack.receive(VnetHeader(NEEDS_CSUM, 5, 0, size).to_bytes() + frame(packet)[10:], 0.0)
    assert not stack.take_events() and stack.malformed == 2
    stack.receive(frame(packet), 0.0)
    assert len(stack.take_events()) == 1
