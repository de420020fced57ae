"""The stack of the guest's link: frames and the time in; frames, events and the next deadline out. Sans I/O.

`receive(frame, now)` for each frame of a batch, handling `take_events()` after each one because received bytes are
views of the frame; then `poll(now)` once. Malformed, unknown and forbidden packets are counted and dropped, never
raised.

    ARP, NDP, DHCP, RA     answered here
    echo to our addresses  answered here; to others an event
    UDP                    a flow per pair of ports; payloads are events
    TCP                    a flow per connection; a SYN is held until the owner has dialled
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable
from itertools import count

from netns.configuration import dhcp_answer
from netns.events import Datagram, EchoRequested, Event, TcpOpened, TcpReady, TcpReceived, UdpExpired
from netns.fragments import Fragments
from netns.link import Frame, Link
from netns.settings import Addresses
from netns.tcp.connection import Connection
from netns.tcp.flow import TcpFlow, flow_key
from netns.tcp.state import State
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
from netns.wire.tcp import ACK, RST, SYN, TcpSegment
from netns.wire.udp import UdpDatagram
from netns.wire.vnet import DATA_VALID, NEEDS_CSUM, PLAIN
from netns.wire.vnet import HEADER_LENGTH as VNET_LENGTH

_IP = VNET_LENGTH + ETHERNET_LENGTH
_SOURCE_MAC = slice(VNET_LENGTH + 6, VNET_LENGTH + 12)
_CHECKED = NEEDS_CSUM | DATA_VALID

_ROUTER_LINK_LOCAL = bytes.fromhex("fe80") + bytes(13) + b"\x02"
_ALL_NODES = bytes.fromhex("ff02") + bytes(13) + b"\x01"

_MAX_CAPACITY = 1 << 20  # bytes buffered in one direction of a connection
_MIN_CAPACITY = 1 << 16
_TOTAL_CAPACITY = 1 << 28  # shared by all connections: the more there are, the less each gets
_SPARE_TIMERS = 256  # entries without effect that may lie about
_MASK = 0xFFFFFFFF


class Stack:
    """Everything on the host's side of one link. `random` gives 32 unpredictable bits (for initial sequence numbers).

    `advertise` makes it answer router solicitations; leave it off where the guest's addresses are set from outside.
    `max_flows` bounds the TCP connections, TIME-WAIT included.
    """

    def __init__(
        self,
        addresses: Addresses,
        link: Link,
        random: Callable[[], int],
        *,
        dns: bool = True,
        advertise: bool = False,
        max_flows: int = 8192,
    ) -> None:
        self.addresses = addresses
        self.link = link
        self.malformed = 0
        self.tcp: dict[bytes, TcpFlow] = {}
        self.udp = UdpFlows()
        self._random = random
        self._dns = dns
        self._advertise = advertise
        self._max_flows = max_flows
        self._fragments = Fragments()
        self._events: list[Event] = []
        self._frames: list[Frame] = []
        self._dirty: dict[TcpFlow, None] = {}
        self._timers: list[tuple[float, int, TcpFlow]] = []
        self._order = count()
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

    def poll(self, now: float) -> list[Frame]:
        """Frames to write now; connections that are due, or were touched since the last call, are polled."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            due, _, flow = heapq.heappop(timers)
            if flow.scheduled == due:
                flow.scheduled = None
                self._dirty[flow] = None
        if self._dirty:
            dirty, self._dirty = self._dirty, {}
            for flow in dirty:
                self._poll_flow(flow, now)
        for expired in self.udp.expire(now):
            self._events.append(UdpExpired(expired))
        frames, self._frames = self._frames, []
        return frames

    def deadline(self) -> float | None:
        """When `poll` must be called next if nothing else happens."""
        udp = self.udp.deadline()
        if not self._timers:
            return udp
        first = self._timers[0][0]
        return first if udp is None or first < udp else udp

    @property
    def pending(self) -> bool:
        """Whether `poll` has something to do at once."""
        return bool(self._dirty or self._frames)

    def _poll_flow(self, flow: TcpFlow, now: float) -> None:
        connection = flow.connection
        for segment in connection.poll(now):
            self._frames.append(flow.frame(segment, self.link))
        if connection.state is State.CLOSED:
            flow.scheduled = None
            if self.tcp.get(flow.key) is flow:
                del self.tcp[flow.key]
        elif (due := connection.deadline()) is not None and (flow.scheduled is None or due < flow.scheduled):
            # An entry that comes too early finds out when it is due. One that an earlier one replaced is passed over.
            flow.scheduled = due
            heapq.heappush(self._timers, (due, next(self._order), flow))
            if len(self._timers) > 2 * len(self.tcp) + _SPARE_TIMERS:
                self._timers = [entry for entry in self._timers if entry[2].scheduled == entry[0]]
                heapq.heapify(self._timers)
        self._events.append(TcpReceived(flow) if connection.signals else TcpReady(flow))

    # What the owner starts

    def touch(self, flow: TcpFlow) -> None:
        """The owner changed `flow.connection`: poll it."""
        self._dirty[flow] = None

    def open_tcp(self, guest: bytes, guest_port: int, far: bytes, far_port: int, now: float) -> TcpFlow | None:
        """Connect to the guest from `far`; None where that pair is taken or there are too many connections."""
        key = flow_key(guest, far, guest_port, far_port)
        known = self.tcp.get(key)
        if (known is not None and known.connection.state is not State.TIME_WAIT) or len(self.tcp) >= self._max_flows:
            return None
        connection = Connection.active(now, iss=self._random(), mss=self._mss(far), capacity=self._capacity())
        flow = TcpFlow(guest, guest_port, far, far_port, connection)
        self.tcp[key] = flow
        self._dirty[flow] = None
        return flow

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

    def _on_tcp(self, source: bytes, destination: bytes, data: Buffer, checked: bool, now: float) -> None:
        segment = TcpSegment.parse(data, None if checked else (source, destination))
        key = source + destination + bytes(data[:4])
        flow = self.tcp.get(key)
        if flow is None or (segment.flags & (SYN | ACK) == SYN and self._may_be_replaced(flow, segment)):
            self._on_unknown_tcp(source, destination, segment, now)
            return
        connection = flow.connection
        connection.on_segment(segment, now)
        self._dirty[flow] = None
        if connection.received or connection.signals:
            self._events.append(TcpReceived(flow))

    def _may_be_replaced(self, flow: TcpFlow, syn: TcpSegment) -> bool:
        """Whether `syn` starts a new connection on the ports of one in TIME-WAIT (RFC 9293 section 3.6.1)."""
        connection = flow.connection
        return connection.state is State.TIME_WAIT and 0 < syn.seq - connection.window.nxt & _MASK < 0x80000000

    def _on_unknown_tcp(self, source: bytes, destination: bytes, segment: TcpSegment, now: float) -> None:
        flags = segment.flags
        if flags & RST or not is_unicast(destination) or not is_unicast(source):
            return
        fresh = flags & (SYN | ACK) == SYN and segment.source_port and segment.destination_port
        connection = Connection.passive(
            segment, now, iss=self._random(), mss=self._mss(destination), capacity=self._capacity()
        )
        flow = TcpFlow(source, segment.source_port, destination, segment.destination_port, connection)
        if fresh and len(self.tcp) < self._max_flows:
            self.tcp[flow.key] = flow
            self._events.append(TcpOpened(flow))
            return
        if flags & ACK:
            reset = TcpSegment(segment.ack, 0, RST, 0)
        else:
            after = segment.seq + segment.length + bool(flags & SYN) + (flags & 1)
            reset = TcpSegment(0, after & _MASK, RST | ACK, 0)
        self._frames.append(flow.frame(reset, self.link))

    def _mss(self, address: bytes) -> int:
        return self.link.mtu - (40 if len(address) == 4 else 60)

    def _capacity(self) -> int:
        return max(_MIN_CAPACITY, min(_MAX_CAPACITY, _TOTAL_CAPACITY // (len(self.tcp) + 1)))


def is_unicast(address: bytes) -> bool:
    """Whether `address` names one host: not multicast, broadcast, reserved or unspecified."""
    if len(address) == 4:
        return 0 < address[0] < 224
    return address[0] != 0xFF and any(address)
