"""The stack of the guest's link: frames and the time in; frames, events and the next deadline out. Sans I/O.

`receive(frame, now)` for each frame of a batch, handling `take_events()` after each one because received bytes are
views of the frame; then `poll(now)` once. Malformed, unknown and forbidden packets are counted and dropped, never
raised. TCP is here: a flow per connection; a SYN is held until the owner has dialled. The rest is in `netns.internet`.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable
from itertools import count

from netns.events import TcpOpened, TcpReady, TcpReceived, UdpExpired
from netns.internet import Internet, is_unicast
from netns.link import Frame, Link
from netns.settings import Addresses
from netns.tcp.connection import Connection
from netns.tcp.flow import TcpFlow, flow_key
from netns.tcp.state import State
from netns.wire.error import Buffer
from netns.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from netns.wire.ipv4 import PROTOCOL_TCP
from netns.wire.tcp import ACK, FIN, HEADER_LENGTH, RST, SYN, URG, TcpSegment
from netns.wire.vnet import DATA_VALID, NEEDS_CSUM

_MAX_CAPACITY = 1 << 20  # bytes buffered in one direction of a connection
_MIN_CAPACITY = 1 << 16
_TOTAL_CAPACITY = 1 << 28  # shared by all connections: the more there are, the less each gets
_MAX_HALF_OPEN = 1024
_HALF_OPEN_SECONDS = 30.0
_HALF_OPEN = frozenset({State.LISTEN, State.SYN_RECEIVED})
_UNSYNCHRONIZED = frozenset({State.LISTEN, State.SYN_SENT, State.CLOSED})
_SWEEP_SECONDS = 0.5
_SPARE_TIMERS = 256  # entries without effect that may lie about
_MASK = 0xFFFFFFFF

# An ordinary frame at one go: the virtio header's flags, the sender's hardware address, the type, fields of the IP
# header, addresses and ports (a flow's name), sequence number, acknowledgement, offset and flags, window.
_FRAME4 = struct.Struct("!B15x6sHBxHxxHBBxx12sIIHH")
_FRAME6 = struct.Struct("!B15x6sHIHBB36sIIHH")
_IP = 24
_TCP4 = _IP + 20
_TCP6 = _IP + 40
_SHORTEST = _TCP4 + 20
_CHECKED = NEEDS_CSUM | DATA_VALID
_KINDS = FIN | SYN | RST | ACK | URG


class Stack(Internet):
    """Everything on the host's side of one link. `random` gives 32 unpredictable bits (for initial sequence numbers).

    `advertise` makes it answer router solicitations; leave it off where the guest's addresses are set from outside.
    `max_flows` bounds the TCP connections, TIME-WAIT included. Of those that the guest asks for, no more than a quarter
    (and 1024) wait to be established, none for longer than 30 s: the oldest are forgotten without a word, and a guest
    that means it sends its SYN again. So a flood of SYNs leaves room for others.
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
        super().__init__(addresses, link, dns=dns, advertise=advertise)
        self.tcp: dict[bytes, TcpFlow] = {}
        self._random = random
        self._max_flows = max_flows
        self._half_open: dict[TcpFlow, float] = {}  # and until when, the oldest first
        self._sweep_at = 0.0  # when UDP flows are looked at again
        self.on_fault: Callable[[Exception], None] | None = None
        self.ack_patience = 0.0  # seconds that an acknowledgement waits for data to go with
        self._owing: dict[TcpFlow, float] = {}  # and since when, the oldest first
        self._max_half_open = max(16, min(_MAX_HALF_OPEN, max_flows // 4))
        self._dirty: dict[TcpFlow, None] = {}
        self._timers: list[tuple[float, int, TcpFlow]] = []
        self._order = count()

    # In and out

    def poll(self, now: float) -> list[Frame]:
        """Frames to write now; connections that are due, or were touched since the last call, are polled."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            due, _, flow = heapq.heappop(timers)
            if flow.scheduled == due:
                flow.scheduled = None
                self._dirty[flow] = None
        if self._half_open:
            self._forget_half_open(now)
        if self._owing:
            self._acknowledge(now)
        if self._dirty:
            dirty, self._dirty = self._dirty, {}
            hold = self.ack_patience > 0.0
            for flow in dirty:
                connection = flow.connection
                quiet = flow.scheduled is not None and not (flow.waiting or connection.signals)
                if hold and quiet and connection.is_quiet(now):
                    if connection.owes_ack:
                        self._owing.setdefault(flow, now)
                    if self._half_open:
                        self._half_open.pop(flow, None)
                else:
                    try:
                        self._poll_flow(flow, now, hold)
                    except Exception as error:  # noqa: BLE001  one flow ends, not all
                        self._give_up(flow, error)
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            for expired in self.udp.expire(now):
                self._events.append(UdpExpired(expired))
        frames = self._frames
        if frames:
            self._frames = []
        return frames

    def deadline(self) -> float | None:
        """When `poll` must be called next if nothing else happens."""
        due = self.udp.deadline()
        if due is not None and due < self._sweep_at:
            due = self._sweep_at
        if self._timers and (due is None or self._timers[0][0] < due):
            due = self._timers[0][0]
        if self._half_open and (due is None or next(iter(self._half_open.values())) < due):
            due = next(iter(self._half_open.values()))
        if self._owing:
            soon = next(iter(self._owing.values())) + self.ack_patience
            if due is None or soon < due:
                due = soon
        return due

    @property
    def pending(self) -> bool:
        """Whether `poll` has something to do at once."""
        return bool(self._dirty or self._frames)

    def _forget_half_open(self, now: float) -> None:
        half_open = self._half_open
        while half_open:
            flow, until = next(iter(half_open.items()))
            if until > now and len(half_open) <= self._max_half_open:
                return
            del half_open[flow]
            if flow.connection.state in _HALF_OPEN:
                flow.connection.drop()
                self.tcp.pop(flow.key, None)
                self._dirty[flow] = None

    def _acknowledge(self, now: float) -> None:
        """Acknowledge what no data went with."""
        owing = self._owing
        while owing:
            flow, since = next(iter(owing.items()))
            if since + self.ack_patience > now:
                return
            del owing[flow]
            flow.connection.acknowledge()
            self._dirty[flow] = None

    def _give_up(self, flow: TcpFlow, error: Exception) -> None:
        """End a flow by a fault of ours, which `on_fault` hears of; without one it is the caller's."""
        if self.on_fault is None:
            raise error
        flow.connection.drop()
        self.tcp.pop(flow.key, None)
        self._events.append(TcpReceived(flow))
        self.on_fault(error)

    def _poll_flow(self, flow: TcpFlow, now: float, hold: bool) -> None:
        connection = flow.connection
        for segment in connection.poll(now, hold_ack=hold):
            self._frames.append(flow.frame(segment, self.link))
        if connection.owes_ack:
            self._owing.setdefault(flow, now)
        elif self._owing:
            self._owing.pop(flow, None)
        if self._half_open and connection.state not in _HALF_OPEN:
            self._half_open.pop(flow, None)
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
        if connection.signals:
            self._events.append(TcpReceived(flow))
        elif flow.waiting:
            self._events.append(TcpReady(flow))

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
        flow.inbound = True
        flow.since = now
        self.tcp[key] = flow
        self._dirty[flow] = None
        return flow

    # What the guest starts

    def receive(self, frame: Buffer, now: float) -> None:
        """One frame from the TAP, virtio header included."""
        view = frame if type(frame) is memoryview else memoryview(frame)
        if len(view) < _SHORTEST or not self._receive_ordinary(view, now):
            super().receive(view, now)

    def _receive_ordinary(self, frame: memoryview, now: float) -> bool:
        """Take a TCP segment in a packet without options or fragments whose checksums the guest's kernel vouches for.

        That is a segment of a known flow, or a SYN that makes one. False where it is anything else.
        """
        checked, mac, ethertype, first, total, fragment, ttl, protocol, key, seq, ack, bits, window = (
            _FRAME4.unpack_from(frame)
        )
        if ethertype == ETHERTYPE_IPV4:
            if first != 0x45 or fragment & 0x3FFF:
                return False
            start = _TCP4
            end = _IP + total
        elif ethertype == ETHERTYPE_IPV6 and len(frame) >= _FRAME6.size and self.addresses.network6 is not None:
            checked, mac, ethertype, first, total, protocol, ttl, key, seq, ack, bits, window = _FRAME6.unpack_from(
                frame
            )
            if first >> 28 != 6:
                return False
            start = _TCP6
            end = _TCP6 + total
        else:
            return False
        if protocol != PROTOCOL_TCP or ttl < 2 or not checked & _CHECKED or bits & RST or bits < 0x5000:
            return False
        payload = start + (bits >> 12 << 2)
        if not payload <= end <= len(frame) or mac != self.link.guest_mac:
            return False
        flow = self.tcp.get(key)
        if flow is None:
            if bits & _KINDS != SYN or payload != end:
                return False
            syn = TcpSegment(
                seq, ack, SYN, window, [], 0, None, None, key[-4] << 8 | key[-3], key[-2] << 8 | key[-1]
            )  # fmt: skip
            syn.parse_options(frame[start + HEADER_LENGTH : payload])
            half = len(key) // 2 - 2
            self._on_unknown_tcp(key[:half], key[half:-4], syn, ttl, now)
            return True
        connection = flow.connection
        if bits & SYN or connection.state in _UNSYNCHRONIZED:
            return False
        connection.receive(seq, ack, bits & 0x3F, window, frame[payload:end], end - payload, now)
        self._dirty[flow] = None
        if connection.window.delivered or connection.signals:
            self._events.append(TcpReceived(flow))
        return True

    def _on_tcp(
        self, source: bytes, destination: bytes, data: Buffer, checked: bool, hop_limit: int, now: float
    ) -> None:
        segment = TcpSegment.parse(data, None if checked else (source, destination))
        key = source + destination + bytes(data[:4])
        flow = self.tcp.get(key)
        if flow is None or (segment.flags & (SYN | ACK) == SYN and self._may_be_replaced(flow, segment)):
            self._on_unknown_tcp(source, destination, segment, hop_limit, now)
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

    def _on_unknown_tcp(
        self, source: bytes, destination: bytes, segment: TcpSegment, hop_limit: int, now: float
    ) -> None:
        flags = segment.flags
        if flags & RST or not is_unicast(destination) or not is_unicast(source):
            return
        fresh = flags & (SYN | ACK) == SYN and segment.source_port and segment.destination_port
        connection = Connection.passive(
            segment, now, iss=self._random(), mss=self._mss(destination), capacity=self._capacity()
        )
        flow = TcpFlow(source, segment.source_port, destination, segment.destination_port, connection)
        if fresh and len(self.tcp) < self._max_flows:
            flow.since = now
            flow.hop_limit = hop_limit
            self.tcp[flow.key] = flow
            self._half_open[flow] = now + _HALF_OPEN_SECONDS
            if len(self._half_open) > self._max_half_open:
                self._forget_half_open(now)
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
