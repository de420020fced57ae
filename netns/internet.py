"""From frames to what is in them, and back: ARP, NDP, IP and its fragments, ICMP, UDP. Sans I/O.

ARP, NDP, DHCP, RA     answered here
echo to our addresses  answered here; to others an event
UDP                    a flow per pair of ports; payloads are events
TCP                    whoever inherits this
anything else          an ICMP error, as is a packet that may cross no router: our addresses are on the link, all
                       others behind one
"""

from __future__ import annotations

import struct
import sys
from abc import ABC, abstractmethod

from netns.answers import ALL_NODES, ROUTER_LINK_LOCAL, Answers
from netns.configuration import dhcp_answer, dhcpv6_answer
from netns.events import Datagram, EchoRequested, Event, UdpExpired
from netns.fragments import Fragments
from netns.icmperrors import (
    IcmpError,
    is_error,
    time_exceeded,
    unknown_protocol,
)
from netns.link import GSO_UDP_L4, Link
from netns.settings import Addresses
from netns.tcp.flow import flow_key
from netns.udp import UdpFlow
from netns.wire import dhcp, dhcpv6, icmp, icmpv6
from netns.wire.arp import REPLY, REQUEST, ArpPacket
from netns.wire.dhcp import DhcpMessage
from netns.wire.dhcpv6 import Dhcpv6Message
from netns.wire.error import Buffer, WireError
from netns.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6
from netns.wire.ethernet import HEADER_LENGTH as ETHERNET_LENGTH
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Ipv4Packet
from netns.wire.ipv6 import NEXT_FRAGMENT, NEXT_ICMPV6, NEXT_NONE, Ipv6Fragment, Ipv6Packet, step_over
from netns.wire.udp import UdpDatagram
from netns.wire.vnet import DATA_VALID, NEEDS_CSUM, PLAIN
from netns.wire.vnet import HEADER_LENGTH as VNET_LENGTH

_IP = VNET_LENGTH + ETHERNET_LENGTH
_SEGMENT_SIZE = slice(4, 6)  # in the virtio header, in the machine's byte order
_SOURCE_MAC = slice(VNET_LENGTH + 6, VNET_LENGTH + 12)
_CHECKED = NEEDS_CSUM | DATA_VALID

# The virtio header's flags, the sender's hardware address, the type, the IP header's fields, addresses and ports (a
# flow's name), the length of the datagram. The second begins with the IP header.
_DATAGRAM4 = struct.Struct("!B15x6sHBxHxxHBBxx12sHxx")
_DATAGRAM6 = struct.Struct("!IHBB36sHxx")
_SHORTEST = _DATAGRAM4.size
_SHORTEST6 = _IP + _DATAGRAM6.size

_QUOTED = 1280  # no error quotes more
_MAX_SEGMENTS = 128  # UDP_MAX_SEGMENTS of linux/udp.h


class Internet(Answers, ABC):
    """All of a link's layers below TCP. `advertise` makes it answer router solicitations."""

    def __init__(self, addresses: Addresses, link: Link, *, dns: bool, advertise: bool) -> None:
        super().__init__(addresses, link, dns=dns)
        self.malformed = 0
        self._advertise = advertise
        self._fragments = Fragments()
        self._events: list[Event] = []
        self._each: int | None = None  # bytes of each datagram, where the frame at hand holds many
        self._dhcp = {b"\xff" * 4, addresses.broadcast, addresses.gateway}
        self._dhcpv6 = {dhcpv6.ALL_SERVERS, ROUTER_LINK_LOCAL}
        self._ours = {addresses.gateway, addresses.resolver}
        if addresses.gateway6 is not None and addresses.resolver6 is not None:
            self._ours |= {addresses.gateway6, addresses.resolver6, ROUTER_LINK_LOCAL}

    # In and out

    def receive(self, frame: Buffer, now: float) -> None:
        """One frame from the TAP, virtio header included."""
        self._now = now
        view = memoryview(frame)
        if len(view) >= _SHORTEST and self._receive_datagram(view, now):
            return
        try:
            self._receive(view, now)
        except WireError:
            self.malformed += 1

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events = self._events
        if events:
            self._events = []
        return events

    # What the owner starts

    def open_udp(self, guest: bytes, guest_port: int, far: bytes, far_port: int, now: float) -> UdpFlow:
        """The flow from `far` to a port of the guest, made where there is none."""
        key = flow_key(guest, far, guest_port, far_port)
        flow = self.udp.use(key, now)
        if flow is None:
            flow = UdpFlow(guest, guest_port, far, far_port, inbound=True)
            self._add_udp(flow, now)
        return flow

    def knows_udp(self, guest: bytes, guest_port: int, far: bytes, far_port: int) -> bool:
        """Whether there is a flow between the two."""
        return flow_key(guest, far, guest_port, far_port) in self.udp

    def forget_udp(self, flow: UdpFlow) -> None:
        """The owner is done with `flow`."""
        self.udp.forget(flow)

    # A datagram of a flow that is known, at one go

    def _receive_datagram(self, frame: memoryview, now: float) -> bool:
        """False for everything that is not ordinary: that is looked at layer by layer.

        Where the guest's kernel vouches for the datagram it has also made the header, whose checksum is not looked at.
        """
        flags, mac, kind, first, total, fragment, hops, protocol, key, length = _DATAGRAM4.unpack_from(frame)
        if not flags & _CHECKED or mac != self.link.guest_mac or frame[1]:
            return False
        if kind == ETHERTYPE_IPV4:
            if protocol != PROTOCOL_UDP or first != 0x45 or fragment & 0x3FFF or total != length + 20:
                return False
            start, whole = _DATAGRAM4.size, bool(fragment & 0x4000)
        elif kind == ETHERTYPE_IPV6 and len(frame) >= _SHORTEST6:
            first, total, protocol, hops, key, length = _DATAGRAM6.unpack_from(frame, _IP)
            if protocol != PROTOCOL_UDP or first >> 28 != 6 or total != length:
                return False
            start, whole = _SHORTEST6, True
        else:
            return False
        end = start + length - 8
        if hops < 2 or not start <= end <= len(frame):
            return False
        flow = self.udp.use(key, now)
        if flow is None:
            return False
        self._deliver(flow, bytes(frame[start - 8 : start]), hops, whole, frame[start:end])
        return True

    def _deliver(self, flow: UdpFlow, head: bytes, hop_limit: int, whole: bool, payload: Buffer) -> None:
        flow.head = head
        flow.hop_limit = hop_limit
        flow.dont_fragment = whole
        flow.from_guest += len(payload)
        if not flow.spoke:
            flow.spoke = True
            if flow.heard:
                self.udp.answered(flow)
        self._events.append(Datagram(flow, payload))

    # Layer by layer

    def _receive(self, frame: memoryview, now: float) -> None:
        if len(frame) < _IP:
            raise WireError("a frame is cut short")
        source = frame[_SOURCE_MAC]
        if source != self.link.guest_mac and not source[0] & 1:
            self.link.learn(bytes(source))
        self._each = int.from_bytes(frame[_SEGMENT_SIZE], sys.byteorder) if frame[1] == GSO_UDP_L4 else None
        ethertype = frame[_IP - 2] << 8 | frame[_IP - 1]
        checked = bool(frame[0] & _CHECKED)
        if ethertype == ETHERTYPE_IPV4:
            self._on_ipv4(frame[_IP:], checked, now)
        elif ethertype == ETHERTYPE_IPV6:
            if self.addresses.network6 is not None:
                self._on_ipv6(frame[_IP:], checked, now)
        elif ethertype == ETHERTYPE_ARP:
            self._on_arp(ArpPacket.parse(frame[_IP:]))

    def _on_arp(self, packet: ArpPacket) -> None:
        if packet.operation != REQUEST or packet.target not in self._ours:
            return
        mac = self.link.mac
        answer = ArpPacket(REPLY, mac, packet.target, packet.sender_mac, packet.sender).to_bytes()
        self._frames.append((PLAIN + packet.sender_mac + mac + struct.pack("!H", ETHERTYPE_ARP) + answer,))

    def _on_ipv4(self, data: memoryview, checked: bool, now: float) -> None:
        packet = Ipv4Packet.parse(data)
        payload = packet.payload
        protocol = packet.protocol
        if packet.ttl <= 1 and not self._is_delivered(packet.destination):
            if not packet.fragment_offset and not (protocol == PROTOCOL_ICMP and _says_error(payload, six=False)):
                self._reject(packet.source, packet.destination, time_exceeded(six=False), data)
            return
        cut = packet.more_fragments or packet.fragment_offset > 0
        if cut:
            name = (packet.source, packet.destination, protocol, packet.identification)
            whole = self._fragments.add(name, packet.fragment_offset, packet.more_fragments, payload, now)
            if whole is None:
                return
            payload, checked = whole, False
        if protocol == PROTOCOL_TCP:
            self._on_tcp(packet.source, packet.destination, payload, checked, packet.ttl, now)
        elif protocol == PROTOCOL_UDP:
            self._on_udp(packet, packet.ttl, packet.dont_fragment and not cut, payload, checked, now)
        elif protocol == PROTOCOL_ICMP:
            message = IcmpMessage.parse(payload)
            if message.kind == icmp.ECHO_REQUEST:
                self._on_echo(packet, packet.ttl, packet.dont_fragment and not cut, message)
        elif not cut:
            self._reject(packet.source, packet.destination, unknown_protocol(0, six=False), data)

    def _on_ipv6(self, data: memoryview, checked: bool, now: float) -> None:
        packet = Ipv6Packet.parse(data)
        payload = packet.payload
        protocol = packet.next_header
        cut = False
        if packet.hop_limit <= 1 and not self._is_delivered(packet.destination):
            first = protocol != NEXT_FRAGMENT or not Ipv6Fragment.parse(payload).offset
            if first and not (protocol == NEXT_ICMPV6 and _says_error(payload, six=True)):
                self._reject(packet.source, packet.destination, time_exceeded(six=True), data)
            return
        if protocol == NEXT_FRAGMENT:
            part = Ipv6Fragment.parse(payload)
            payload = part.payload
            if part.more or part.offset:
                cut = True
                name = (packet.source, packet.destination, part.next_header, part.identification)
                whole = self._fragments.add(name, part.offset, part.more, payload, now)
                if whole is None:
                    return
                payload, checked = whole, False
            # RFC 6946: a fragment that is all there is meets no others. Destination options may follow either way.
            protocol, payload, _ = step_over(part.next_header, payload)
        if protocol == PROTOCOL_TCP:
            self._on_tcp(packet.source, packet.destination, payload, checked, packet.hop_limit, now)
        elif protocol == PROTOCOL_UDP:
            self._on_udp(packet, packet.hop_limit, not cut, payload, checked, now)
        elif protocol == NEXT_ICMPV6:
            self._on_icmpv6(packet, Icmpv6Message.parse(payload, packet.source, packet.destination), cut)
        elif protocol == packet.next_header != NEXT_NONE:
            error = unknown_protocol(packet.next_header_at, six=True)
            self._reject(packet.source, packet.destination, error, data)

    def _is_delivered(self, destination: bytes) -> bool:
        """Whether no router is between the guest and `destination`: ours, or not one host's at all."""
        return destination in self._ours or destination == self.addresses.broadcast or not is_unicast(destination)

    def _reject(self, source: bytes, destination: bytes, error: IcmpError, data: memoryview) -> None:
        """An error about the packet `data`, unless that was for many or came from nobody (RFC 1122 section 3.2.2)."""
        if is_unicast(source) and is_unicast(destination) and destination != self.addresses.broadcast:
            self.send_error(error, bytes(data[:_QUOTED]))

    def _on_icmpv6(self, packet: Ipv6Packet, message: Icmpv6Message, cut: bool) -> None:
        if message.kind == icmpv6.ECHO_REQUEST:
            self._on_echo(packet, packet.hop_limit, not cut, message)
        elif cut:
            return  # neighbours never fragment (RFC 6980)
        elif message.kind == icmpv6.NEIGHBOUR_SOLICITATION and packet.hop_limit == 255:
            target = icmpv6.solicited_target(message)
            if target not in self._ours:
                return
            probe = not any(packet.source)  # duplicate address detection
            asker = ALL_NODES if probe else packet.source
            answer = icmpv6.neighbour_advertisement(target, self.link.mac, solicited=not probe)
            self._frames.append(self.link.packet(target, asker, NEXT_ICMPV6, answer.to_bytes(target, asker), 255))
        elif message.kind == icmpv6.ROUTER_SOLICITATION and self._advertise and packet.hop_limit == 255:
            self.advertise()

    def _on_echo(
        self, packet: Ipv4Packet | Ipv6Packet, hop_limit: int, whole: bool, message: IcmpMessage | Icmpv6Message
    ) -> None:
        source, destination = packet.source, packet.destination
        if destination in self._ours:
            self.send_echo_reply(source, destination, message.first, message.second, bytes(message.payload))
        elif is_unicast(destination) and is_unicast(source):
            self._events.append(
                EchoRequested(
                    source, destination, message.first, message.second, message.payload, hop_limit, dont_fragment=whole
                )
            )

    def _on_udp(
        self, packet: Ipv4Packet | Ipv6Packet, hop_limit: int, whole: bool, data: Buffer, checked: bool, now: float
    ) -> None:
        source, destination = packet.source, packet.destination
        datagram = UdpDatagram.parse(data, None if checked else (source, destination))
        if datagram.destination_port == dhcp.SERVER_PORT and destination in self._dhcp:
            self._on_dhcp(datagram)
            return
        if datagram.destination_port == dhcpv6.SERVER_PORT and destination in self._dhcpv6:
            self._on_dhcpv6(source, datagram)
            return
        if not is_unicast(destination) or destination == self.addresses.broadcast or not is_unicast(source):
            return
        head = bytes(data[:8])
        flow = self.udp.use(source + destination + head[:4], now)
        if flow is None:
            flow = UdpFlow(source, datagram.source_port, destination, datagram.destination_port)
            self._add_udp(flow, now)
        payload = datagram.payload
        each = self._each if checked else None
        if each is None:
            self._deliver(flow, head, hop_limit, whole, payload)
            return
        if each < 1 or len(payload) > each * _MAX_SEGMENTS:
            raise WireError(f"a frame with datagrams of {each} bytes has {len(payload)}")
        for start in range(0, len(payload), each):
            self._deliver(flow, head, hop_limit, whole, payload[start : start + each])

    def _on_dhcp(self, datagram: UdpDatagram) -> None:
        request = DhcpMessage.parse(datagram.payload)
        answer = dhcp_answer(request, self.addresses, self.link.mtu, dns=self._dns, search=self.search())
        if answer is not None:
            self._frames += self.link.datagram(
                self.addresses.gateway, dhcp.SERVER_PORT, b"\xff" * 4, dhcp.CLIENT_PORT, answer.to_bytes()
            )

    def _on_dhcpv6(self, source: bytes, datagram: UdpDatagram) -> None:
        request = Dhcpv6Message.parse(datagram.payload)
        answer = dhcpv6_answer(request, self.addresses, self.link.mac, dns=self._dns, search=self.search())
        if answer is not None:
            self._frames += self.link.datagram(
                ROUTER_LINK_LOCAL, dhcpv6.SERVER_PORT, source, datagram.source_port, answer.to_bytes()
            )

    def _add_udp(self, flow: UdpFlow, now: float) -> None:
        evicted = self.udp.add(flow, now)
        if evicted is not None:
            self._events.append(UdpExpired(evicted))

    @abstractmethod
    def _on_tcp(
        self, source: bytes, destination: bytes, data: Buffer, checked: bool, hop_limit: int, now: float
    ) -> None:
        """A TCP segment; `checked` says that its checksum need not be looked at."""


def is_unicast(address: bytes) -> bool:
    """Whether `address` names one host: not multicast, broadcast, reserved or unspecified."""
    if len(address) == 4:
        return 0 < address[0] < 224
    return address[0] != 0xFF and any(address)


def _says_error(message: Buffer, *, six: bool) -> bool:
    return not len(message) or is_error(message[0], six=six)
