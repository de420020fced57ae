"""From frames to what is in them, and back: ARP, NDP, IP and its fragments, ICMP, UDP. Sans I/O.

ARP, NDP, DHCP, RA     answered here
echo to our addresses  answered here; to others an event
UDP                    a flow per pair of ports; payloads are events
TCP                    whoever inherits this
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod

from netns.configuration import dhcp_answer
from netns.events import Datagram, EchoRequested, Event, UdpExpired
from netns.fragments import Fragments
from netns.link import Frame, Link
from netns.settings import Addresses
from netns.tcp.flow import TcpFlow, flow_key
from netns.udp import UdpFlow, UdpFlows
from netns.wire import dhcp, icmp, icmpv6
from netns.wire.arp import REPLY, REQUEST, ArpPacket
from netns.wire.dhcp import DhcpMessage
from netns.wire.error import Buffer, WireError
from netns.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6
from netns.wire.ethernet import HEADER_LENGTH as ETHERNET_LENGTH
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Ipv4Packet
from netns.wire.ipv6 import NEXT_FRAGMENT, NEXT_ICMPV6, Ipv6Fragment, Ipv6Packet
from netns.wire.udp import UdpDatagram
from netns.wire.vnet import DATA_VALID, NEEDS_CSUM, PLAIN
from netns.wire.vnet import HEADER_LENGTH as VNET_LENGTH

_IP = VNET_LENGTH + ETHERNET_LENGTH
_SOURCE_MAC = slice(VNET_LENGTH + 6, VNET_LENGTH + 12)
_CHECKED = NEEDS_CSUM | DATA_VALID

_ROUTER_LINK_LOCAL = bytes.fromhex("fe80") + bytes(13) + b"\x02"
_ALL_NODES = bytes.fromhex("ff02") + bytes(13) + b"\x01"
_MASK = 0xFFFFFFFF


class Internet(ABC):
    """All of a link's layers below TCP. `advertise` makes it answer router solicitations."""

    def __init__(self, addresses: Addresses, link: Link, *, dns: bool, advertise: bool) -> None:
        self.addresses = addresses
        self.link = link
        self.malformed = 0
        self.udp = UdpFlows()
        self._dns = dns
        self._advertise = advertise
        self._fragments = Fragments()
        self._events: list[Event] = []
        self._frames: list[Frame] = []
        self._ours = {addresses.gateway, addresses.resolver}
        if addresses.gateway6 is not None and addresses.resolver6 is not None:
            self._ours |= {addresses.gateway6, addresses.resolver6, _ROUTER_LINK_LOCAL}

    # In and out

    def receive(self, frame: Buffer, now: float) -> None:
        """One frame from the TAP, virtio header included."""
        try:
            self._receive(memoryview(frame), now)
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
            flow = UdpFlow(guest, guest_port, far, far_port)
            self._add_udp(flow, now)
        return flow

    def knows_udp(self, guest: bytes, guest_port: int, far: bytes, far_port: int) -> bool:
        """Whether there is a flow between the two."""
        return flow_key(guest, far, guest_port, far_port) in self.udp

    def send_datagram(self, flow: UdpFlow, payload: bytes, now: float) -> None:
        """Send `payload` to the guest from the flow's far end."""
        self.udp.use(flow.key, now)
        self._frames += self.link.datagram(flow.far, flow.far_port, flow.guest, flow.guest_port, payload)

    def send_echo_reply(self, guest: bytes, far: bytes, identifier: int, number: int, payload: bytes) -> None:
        """Answer the guest's ping in the name of `far`."""
        if len(guest) == 4:
            message = IcmpMessage(icmp.ECHO_REPLY, 0, identifier, number, payload).to_bytes()
            self._frames.append(self.link.packet(far, guest, PROTOCOL_ICMP, message))
        else:
            answer = Icmpv6Message(icmpv6.ECHO_REPLY, 0, identifier, number, payload).to_bytes(far, guest)
            self._frames.append(self.link.packet(far, guest, NEXT_ICMPV6, answer))

    def send_unreachable(self, flow: TcpFlow | UdpFlow, *, port: bool = False, prohibited: bool = False) -> None:
        """Tell the guest by ICMP that the flow's far end cannot be reached."""
        tcp = isinstance(flow, TcpFlow)
        protocol = PROTOCOL_TCP if tcp else PROTOCOL_UDP
        # The guest's kernel finds the socket by the quoted ports, and for TCP checks the quoted sequence number.
        seq = flow.connection.window.nxt - 1 & _MASK if isinstance(flow, TcpFlow) else 0x00080000
        quoted = struct.pack("!HHI", flow.guest_port, flow.far_port, seq)
        gateway = self.addresses.gateway if len(flow.guest) == 4 else self.addresses.gateway6
        if gateway is None:
            return
        if len(flow.guest) == 4:
            code = icmp.PORT if port else icmp.PROHIBITED if prohibited else icmp.HOST
            packet = Ipv4Packet(flow.guest, flow.far, protocol, quoted).to_bytes()
            message = icmp.unreachable(code, packet).to_bytes()
            self._frames.append(self.link.packet(flow.far if port else gateway, flow.guest, PROTOCOL_ICMP, message))
        else:
            code = icmpv6.PORT if port else icmpv6.PROHIBITED if prohibited else icmpv6.ADDRESS
            source = flow.far if port else gateway
            packet = Ipv6Packet(flow.guest, flow.far, protocol, quoted + bytes(12)).to_bytes()
            answer = icmpv6.unreachable(code, packet).to_bytes(source, flow.guest)
            self._frames.append(self.link.packet(source, flow.guest, NEXT_ICMPV6, answer))

    def forget_udp(self, flow: UdpFlow) -> None:
        """The owner is done with `flow`."""
        self.udp.forget(flow)

    # Layer by layer

    def _receive(self, frame: memoryview, now: float) -> None:
        if len(frame) < _IP:
            raise WireError("a frame is cut short")
        source = frame[_SOURCE_MAC]
        if source != self.link.guest_mac and not source[0] & 1:
            self.link.learn(bytes(source))
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
        if packet.more_fragments or packet.fragment_offset:
            name = (packet.source, packet.destination, packet.protocol, packet.identification)
            whole = self._fragments.add(name, packet.fragment_offset, packet.more_fragments, payload, now)
            if whole is None:
                return
            payload, checked = whole, False
        if packet.protocol == PROTOCOL_TCP:
            self._on_tcp(packet.source, packet.destination, payload, checked, now)
        elif packet.protocol == PROTOCOL_UDP:
            self._on_udp(packet.source, packet.destination, payload, checked, now)
        elif packet.protocol == PROTOCOL_ICMP:
            message = IcmpMessage.parse(payload)
            if message.kind == icmp.ECHO_REQUEST:
                self._on_echo(packet.source, packet.destination, message)

    def _on_ipv6(self, data: memoryview, checked: bool, now: float) -> None:
        packet = Ipv6Packet.parse(data)
        payload = packet.payload
        protocol = packet.next_header
        if protocol == NEXT_FRAGMENT:
            part = Ipv6Fragment.parse(payload)
            name = (packet.source, packet.destination, part.next_header, part.identification)
            whole = self._fragments.add(name, part.offset, part.more, part.payload, now)
            if whole is None:
                return
            protocol, payload, checked = part.next_header, whole, False
        if protocol == PROTOCOL_TCP:
            self._on_tcp(packet.source, packet.destination, payload, checked, now)
        elif protocol == PROTOCOL_UDP:
            self._on_udp(packet.source, packet.destination, payload, checked, now)
        elif protocol == NEXT_ICMPV6:
            self._on_icmpv6(packet, Icmpv6Message.parse(payload, packet.source, packet.destination))

    def _on_icmpv6(self, packet: Ipv6Packet, message: Icmpv6Message) -> None:
        if message.kind == icmpv6.ECHO_REQUEST:
            self._on_echo(packet.source, packet.destination, message)
        elif message.kind == icmpv6.NEIGHBOUR_SOLICITATION and packet.hop_limit == 255:
            target = icmpv6.solicited_target(message)
            if target not in self._ours:
                return
            probe = not any(packet.source)  # duplicate address detection
            asker = _ALL_NODES if probe else packet.source
            answer = icmpv6.neighbour_advertisement(target, self.link.mac, solicited=not probe)
            self._frames.append(self.link.packet(target, asker, NEXT_ICMPV6, answer.to_bytes(target, asker), 255))
        elif message.kind == icmpv6.ROUTER_SOLICITATION and self._advertise and packet.hop_limit == 255:
            network = self.addresses.network6
            assert network is not None  # _receive drops IPv6 otherwise
            dns = self.addresses.resolver6 if self._dns else None
            offer = icmpv6.router_advertisement(network.network_address.packed, self.link.mac, self.link.mtu, dns)
            body = offer.to_bytes(_ROUTER_LINK_LOCAL, _ALL_NODES)
            self._frames.append(self.link.packet(_ROUTER_LINK_LOCAL, _ALL_NODES, NEXT_ICMPV6, body, 255))

    def _on_echo(self, source: bytes, destination: bytes, message: IcmpMessage | Icmpv6Message) -> None:
        if destination in self._ours:
            self.send_echo_reply(source, destination, message.first, message.second, bytes(message.payload))
        elif is_unicast(destination):
            self._events.append(EchoRequested(source, destination, message.first, message.second, message.payload))

    def _on_udp(self, source: bytes, destination: bytes, data: Buffer, checked: bool, now: float) -> None:
        datagram = UdpDatagram.parse(data, None if checked else (source, destination))
        if datagram.destination_port == dhcp.SERVER_PORT and len(source) == 4:
            self._on_dhcp(datagram)
            return
        if not is_unicast(destination) or destination == self.addresses.broadcast or not is_unicast(source):
            return
        key = source + destination + bytes(data[:4])
        flow = self.udp.use(key, now)
        if flow is None:
            flow = UdpFlow(source, datagram.source_port, destination, datagram.destination_port)
            self._add_udp(flow, now)
        self._events.append(Datagram(flow, datagram.payload))

    def _on_dhcp(self, datagram: UdpDatagram) -> None:
        request = DhcpMessage.parse(datagram.payload)
        answer = dhcp_answer(request, self.addresses, self.link.mtu, dns=self._dns)
        if answer is not None:
            self._frames += self.link.datagram(
                self.addresses.gateway, dhcp.SERVER_PORT, b"\xff" * 4, dhcp.CLIENT_PORT, answer.to_bytes()
            )

    def _add_udp(self, flow: UdpFlow, now: float) -> None:
        evicted = self.udp.add(flow, now)
        if evicted is not None:
            self._events.append(UdpExpired(evicted))

    @abstractmethod
    def _on_tcp(self, source: bytes, destination: bytes, data: Buffer, checked: bool, now: float) -> None:
        """A TCP segment; `checked` says that its checksum need not be looked at."""


def is_unicast(address: bytes) -> bool:
    """Whether `address` names one host: not multicast, broadcast, reserved or unspecified."""
    if len(address) == 4:
        return 0 < address[0] < 224
    return address[0] != 0xFF and any(address)
