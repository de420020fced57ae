"""UDP flows: who talks to whom, and for how long that is remembered. Sans I/O."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from netns.link import UDP4, UDP6, Frame, Link, run_header
from netns.tcp.flow import flow_key
from netns.wire.checksum import ones_sum, pseudo_sum
from netns.wire.error import Buffer
from netns.wire.ipv4 import PROTOCOL_UDP

IDLE_SECONDS = 30.0  # of a flow that only one end has spoken in, as Linux's conntrack has it
ANSWERED_SECONDS = 120.0  # RFC 4787 requirement 5: at least two minutes
NAMES_SECONDS = 10.0  # of an answered flow to a name server, which serves one question

_MAX_FLOWS = 4096
_NAMES_PORT = 53
_HOP_LIMIT = 64  # what guests send, unless they look for a path
_HEAD = struct.Struct("!HHHH")
_HEAD4 = struct.Struct("!BBHHHBBH4s4sHHHH")
_HEAD6 = struct.Struct("!IHBB16s16sHHHH")
_MAX_PACKET = 65535  # bytes, of IPv4 with its header and of IPv6 without
_DONT_FRAGMENT = 0x4000
_FIXED4 = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, _DONT_FRAGMENT, _HOP_LIMIT, PROTOCOL_UDP, 0)


class DatagramRelay(Protocol):
    """The host's side of a UDP flow."""

    def forward(self, payload: Buffer) -> None:
        """Pass a payload from the guest on."""

    def expired(self) -> None:
        """The flow is forgotten: let go of what it holds."""


class UdpFlow:
    """Datagrams between a port of the guest and one far port. Times are those of the stack's clock.

    `head`, `hop_limit` and `dont_fragment` are of the guest's last datagram: its UDP header, and what its IP header
    asked for. `inbound` says that the far end spoke first; `spoke` and `heard` that the guest has, and was spoken to.
    """

    __slots__ = (
        "_ip_sum", "_pseudo", "_queue", "dont_fragment", "far", "far_port", "from_guest", "guest", "guest_port", "head",
        "heard", "hop_limit", "inbound", "key", "last_used", "relay", "since", "spoke", "to_guest",
    )  # fmt: skip

    def __init__(self, guest: bytes, guest_port: int, far: bytes, far_port: int, *, inbound: bool = False) -> None:
        self.guest = guest
        self.guest_port = guest_port
        self.far = far
        self.far_port = far_port
        self.inbound = inbound
        self.key = flow_key(guest, far, guest_port, far_port)
        self.last_used = self.since = 0.0
        self.from_guest = self.to_guest = 0  # bytes of payload
        self.head = _HEAD.pack(guest_port, far_port, _HEAD.size, 0)
        self.hop_limit = _HOP_LIMIT
        self.dont_fragment = self.spoke = self.heard = False
        self.relay: DatagramRelay | None = None
        self._queue: OrderedDict[UdpFlow, None] | None = None
        self._pseudo = pseudo_sum(far, guest, PROTOCOL_UDP, 0)
        fixed = _FIXED4 + far + guest
        self._ip_sum = ones_sum(fixed) if len(far) == 4 else 0

    def frame(self, payload: bytes, link: Link, size: int = 0) -> Frame | None:
        """`payload` from the far end to the guest; None where it does not fit the link. Its checksum is left open.

        With `size` it is many datagrams of so many bytes each, of which the last may be shorter.
        """
        length = len(payload) + _HEAD.size
        each = size + _HEAD.size if size else length
        check = (self._pseudo + length) % 65535
        if len(self.far) == 4:
            total = length + 20
            if each + 20 > link.mtu or total > _MAX_PACKET:
                return None
            head = _HEAD4.pack(
                0x45, 0, total, 0, _DONT_FRAGMENT, _HOP_LIMIT, PROTOCOL_UDP, 65535 - (self._ip_sum + total) % 65535,
                self.far, self.guest, self.far_port, self.guest_port, length, check,
            )  # fmt: skip
            return ((run_header(size, six=False) if size else UDP4) + link.ethernet4 + head, payload)
        if each + 40 > link.mtu or length > _MAX_PACKET:
            return None
        head = _HEAD6.pack(
            0x60000000, length, PROTOCOL_UDP, _HOP_LIMIT,
            self.far, self.guest, self.far_port, self.guest_port, length, check,
        )  # fmt: skip
        return ((run_header(size, six=True) if size else UDP6) + link.ethernet6 + head, payload)

    def __repr__(self) -> str:
        return f"<UdpFlow {self.guest.hex()}:{self.guest_port} {self.far.hex()}:{self.far_port}>"


class UdpFlows:
    """The table of flows; never more than a few thousand.

    Flows stand in one of three queues, least recently used first: unanswered, answered, and answered by a name server.
    The unanswered make room for others before the answered do, so that a guest that tries every port of the world
    loses none of its conversations.
    """

    __slots__ = ("_flows", "_limit", "_queues")

    def __init__(self, limit: int = _MAX_FLOWS) -> None:
        self._flows: dict[bytes, UdpFlow] = {}
        self._limit = limit
        self._queues: tuple[tuple[OrderedDict[UdpFlow, None], float], ...] = (
            (OrderedDict(), IDLE_SECONDS),
            (OrderedDict(), NAMES_SECONDS),
            (OrderedDict(), ANSWERED_SECONDS),
        )

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._flows

    def __iter__(self) -> Iterator[UdpFlow]:
        return iter(self._flows.values())

    def use(self, key: bytes, now: float) -> UdpFlow | None:
        """The flow of that name, which thereby counts as used."""
        flow = self._flows.get(key)
        if flow is not None:
            flow.last_used = now
            if flow._queue is not None:
                flow._queue.move_to_end(flow)
        return flow

    def add(self, flow: UdpFlow, now: float) -> UdpFlow | None:
        """Remember `flow`; the flow that had to make room for it, if one had to."""
        evicted = self.evict() if len(self._flows) >= self._limit else None
        flow.last_used = flow.since = now
        self._flows[flow.key] = flow
        self._enter(flow, self._queues[0][0])
        return evicted

    def answered(self, flow: UdpFlow) -> None:
        """Both ends have spoken in `flow`, just now."""
        if self._flows.get(flow.key) is flow:
            names = flow.far_port == _NAMES_PORT or (flow.inbound and flow.guest_port == _NAMES_PORT)
            self._enter(flow, self._queues[1 if names else 2][0])

    def evict(self) -> UdpFlow | None:
        """Remove and return the flow that is missed least; None where there is none."""
        for queue, _ in self._queues:
            if queue:
                flow = next(iter(queue))
                self.forget(flow)
                return flow
        return None

    def forget(self, flow: UdpFlow) -> None:
        """Remove `flow`, if it is still known."""
        if self._flows.get(flow.key) is flow:
            del self._flows[flow.key]
            if flow._queue is not None:
                del flow._queue[flow]
                flow._queue = None

    def expire(self, now: float) -> list[UdpFlow]:
        """Remove and return the flows that were idle too long."""
        result: list[UdpFlow] = []
        for queue, seconds in self._queues:
            while queue:
                flow = next(iter(queue))
                if flow.last_used + seconds > now:
                    break
                self.forget(flow)
                result.append(flow)
        return result

    def deadline(self) -> float | None:
        """When the next flow expires."""
        due = None
        if self._flows:
            for queue, seconds in self._queues:
                if queue and (due is None or next(iter(queue)).last_used + seconds < due):
                    due = next(iter(queue)).last_used + seconds
        return due

    @staticmethod
    def _enter(flow: UdpFlow, queue: OrderedDict[UdpFlow, None]) -> None:
        if flow._queue is not None:
            del flow._queue[flow]
        flow._queue = queue
        queue[flow] = None
