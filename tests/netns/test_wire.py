"""Round trips, malformed input, and checksums against the sum of RFC 1071 written out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.wire import dns, icmp, icmpv6
from netns.wire.arp import ArpPacket
from netns.wire.checksum import checksum, is_valid, pseudo_sum
from netns.wire.dhcp import DhcpMessage
from netns.wire.dns import DnsHeader
from netns.wire.error import WireError
from netns.wire.ethernet import EthernetFrame, format_mac, parse_mac
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv4 import Ipv4Packet
from netns.wire.ipv6 import Ipv6Fragment, Ipv6Packet
from netns.wire.tcp import SYN, TcpSegment
from netns.wire.udp import UdpDatagram
from netns.wire.vnet import VnetHeader

mac = st.binary(min_size=6, max_size=6)
four = st.binary(min_size=4, max_size=4)
sixteen = st.binary(min_size=16, max_size=16)
word = st.integers(0, 65535)
double = st.integers(0, 2**32 - 1)
octet = st.integers(0, 255)
payload = st.binary(max_size=300)


def plain_checksum(data: bytes) -> int:
    """RFC 1071 section 4.1, as it is written there."""
    total = 0
    for (value,) in struct.iter_unpack("!H", data + b"\0" * (len(data) & 1)):
        total += value
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=200))
def test_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    assert checksum(data) % 65535 == plain_checksum(data) % 65535
    if len(data) % 2 == 0:
        assert is_valid(data + struct.pack("!H", checksum(data)))


@given(mac, mac, word, payload)
def test_ethernet(destination: bytes, source: bytes, ethertype: int, data: bytes) -> None:
    frame = EthernetFrame(destination, source, ethertype, data)
    assert EthernetFrame.parse(frame.to_bytes()) == frame


@given(word, mac, four, mac, four)
def test_arp(operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> None:
    packet = ArpPacket(operation, sender_mac, sender, target_mac, target)
    assert ArpPacket.parse(packet.to_bytes()) == packet


@given(four, four, octet, payload, octet, word, st.booleans(), st.booleans(), st.integers(0, 8191))
def test_ipv4(
    source: bytes, destination: bytes, protocol: int, data: bytes, ttl: int, ident: int, keep: bool, more: bool, at: int
) -> None:
    packet = Ipv4Packet(source, destination, protocol, data, ttl, ident, keep, more, at * 8)
    assert Ipv4Packet.parse(packet.to_bytes()) == packet
    assert Ipv4Packet.parse(packet.to_bytes() + b"trailer") == packet


@given(sixteen, sixteen, st.integers(61, 255), payload, octet)
def test_ipv6(source: bytes, destination: bytes, next_header: int, data: bytes, hop_limit: int) -> None:
    packet = Ipv6Packet(source, destination, next_header, data, hop_limit)
    assert Ipv6Packet.parse(packet.to_bytes()) == packet


def test_ipv6_extension_headers_are_stepped_over() -> None:
    options = bytes((60, 0)) + bytes(6) + bytes((6, 1)) + bytes(14)
    packet = Ipv6Packet(b"\xfd" * 16, b"\xfc" * 16, 0, options + b"tcp").to_bytes()
    parsed = Ipv6Packet.parse(packet)
    assert (parsed.next_header, bytes(parsed.payload)) == (6, b"tcp")


@given(octet, st.integers(0, 8191), st.booleans(), double, payload)
def test_ipv6_fragment(next_header: int, at: int, more: bool, ident: int, data: bytes) -> None:
    fragment = Ipv6Fragment(next_header, at * 8, more, ident, data)
    assert Ipv6Fragment.parse(fragment.to_bytes()) == fragment


@given(octet, octet, word, word, payload)
def test_icmp(kind: int, code: int, first: int, second: int, data: bytes) -> None:
    message = IcmpMessage(kind, code, first, second, data)
    assert IcmpMessage.parse(message.to_bytes()) == message


@given(octet, octet, word, word, payload, sixteen, sixteen)
def test_icmpv6(kind: int, code: int, first: int, second: int, data: bytes, source: bytes, destination: bytes) -> None:
    message = Icmpv6Message(kind, code, first, second, data)
    assert Icmpv6Message.parse(message.to_bytes(source, destination), source, destination) == message


@given(word, word, payload, four, four)
def test_udp(source_port: int, destination_port: int, data: bytes, source: bytes, destination: bytes) -> None:
    datagram = UdpDatagram(source_port, destination_port, data)
    wire = datagram.to_bytes(source, destination)
    assert UdpDatagram.parse(wire, (source, destination)) == datagram
    assert is_valid(wire, pseudo_sum(source, destination, 17, len(wire)))


@given(double, double, st.integers(0, 63), word, payload, word, st.integers(0, 14), four, four)
def test_tcp(
    seq: int, ack: int, flags: int, window: int, data: bytes, mss: int, scale: int, source: bytes, destination: bytes
) -> None:
    syn = bool(flags & SYN)
    segment = TcpSegment(
        seq, ack, flags, window, [data] if data else [], len(data), mss if syn else None, scale if syn else None, 1, 2
    )
    assert TcpSegment.parse(segment.to_bytes(source, destination), (source, destination)) == segment


def test_tcp_options_are_read_as_far_as_they_make_sense() -> None:
    good = struct.pack("!BBH", 2, 4, 1460) + bytes((1, 3, 3, 99))
    bad = bytes((2, 4, 5, 180, 8, 0, 3, 3))
    for options, expected in ((good, (1460, 14)), (bad, (1460, None))):
        header = struct.pack("!HHIIHHHH", 1, 2, 0, 0, (20 + len(options)) << 10 | SYN, 0, 0, 0)
        segment = TcpSegment.parse(header + options)
        assert (segment.mss, segment.scale) == expected


@given(octet, octet, word, word, word, word)
def test_vnet(flags: int, kind: int, header: int, size: int, start: int, offset: int) -> None:
    record = VnetHeader(flags, kind, header, size, start, offset)
    assert VnetHeader.parse(record.to_bytes()) == record


@given(st.tuples(word, word, word, word, word, word))
def test_dns(fields: tuple[int, int, int, int, int, int]) -> None:
    header = DnsHeader(*fields)
    assert DnsHeader.parse(header.to_bytes()) == header
    answer = DnsHeader.parse(dns.failure(header.to_bytes() + b"question"))
    assert (answer.identifier, answer.is_response, answer.flags & 15) == (header.identifier, True, dns.SERVFAIL)


@given(double, mac, st.dictionaries(st.integers(1, 254), st.binary(max_size=20), max_size=6))
def test_dhcp(transaction: int, hardware: bytes, options: dict[int, bytes]) -> None:
    message = DhcpMessage(1, transaction, hardware, options=options)
    assert DhcpMessage.parse(message.to_bytes()) == message


def test_mac_addresses() -> None:
    assert format_mac(parse_mac("52:54:0a:00:02:0f")) == "52:54:0a:00:02:0f"
    for text in ("", "52:54", "01:00:00:00:00:00", "gg:00:00:00:00:00", "1:2:3:4:5:6:7", "fff:0:0:0:0:0"):
        with pytest.raises(WireError):
            parse_mac(text)


@given(st.binary(max_size=120))
def test_nothing_but_wire_error_escapes(data: bytes) -> None:
    for parse in (
        EthernetFrame.parse, ArpPacket.parse, Ipv4Packet.parse, Ipv6Packet.parse, Ipv6Fragment.parse, IcmpMessage.parse,
        UdpDatagram.parse, TcpSegment.parse, VnetHeader.parse, DnsHeader.parse, DhcpMessage.parse, dns.failure,
        lambda wire: Icmpv6Message.parse(wire, bytes(16), bytes(16)),
    ):  # fmt: skip
        try:
            parse(data)  # type: ignore[operator]
        except WireError:
            continue


def test_only_ipv4_leaves_a_checksum_out() -> None:
    wire = UdpDatagram(1, 2, b"abc").to_bytes(bytes(4), bytes(4))
    wire = wire[:6] + bytes(2) + wire[8:]
    assert bytes(UdpDatagram.parse(wire, (bytes(4), bytes(4))).payload) == b"abc"
    with pytest.raises(WireError):
        UdpDatagram.parse(wire, (bytes(16), bytes(16)))


def test_unreachables_quote_the_packet() -> None:
    packet = Ipv4Packet(b"\n\0\0\1", b"\n\0\0\2", 6, b"12345678rest").to_bytes()
    assert bytes(icmp.error(icmp.UNREACHABLE, icmp.PORT, packet).payload) == packet[:548]
    assert len(icmpv6.error(icmpv6.UNREACHABLE, icmpv6.PORT, bytes(5000)).payload) == 1232
