"""UDP flows: who talks to whom, and for how long that is remembered. Sans I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from netns.tcp.flow import flow_key
from netns.wire.error import Buffer

IDLE_SECONDS = 120.0  # RFC 4787 requirement 5: at least two minutes
_MAX_FLOWS = 4096


class DatagramRelay(Protocol):
    """The host's side of a UDP flow."""

    def forward(self, payload: Buffer) -> None:
        """Pass a payload from the guest on."""

    def expired(self) -> None:
        """The flow is forgotten: let go of what it holds."""


class UdpFlow:
    """Datagrams between a port of the guest and one far port. Times are those of the stack's clock."""

    __slots__ = (
        "far", "far_port", "from_guest", "guest", "guest_port", "key", "last_used", "relay", "since", "to_guest",
    )  # fmt: skip

    def __init__(self, guest: bytes, guest_port: int, far: bytes, far_port: int) -> None:
        self.guest = guest
        self.guest_port = guest_port
        self.far = far
        self.far_port = far_port
        self.key = flow_key(guest, far, guest_port, far_port)
        self.last_used = self.since = 0.0
        self.from_guest = self.to_guest = 0  # bytes that the relay has moved
        self.relay: DatagramRelay | None = None

    def __repr__(self) -> str:
        return f"<UdpFlow {self.guest.hex()}:{self.guest_port} {self.far.hex()}:{self.far_port}>"


class UdpFlows:
    """The table of flows, least recently used first; never more than a few thousand."""

    __slots__ = ("_flows", "_limit")

    def __init__(self, limit: int = _MAX_FLOWS) -> None:
        self._flows: OrderedDict[bytes, UdpFlow] = OrderedDict()
        self._limit = limit

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._flows

    def use(self, key: bytes, now: float) -> UdpFlow | None:
        """The flow of that name, which thereby counts as used."""
        flow = self._flows.get(key)
        if flow is not None:
            flow.last_used = now
            self._flows.move_to_end(key)
        return flow

    def add(self, flow: UdpFlow, now: float) -> UdpFlow | None:
        """Remember `flow`; the flow that had to make room for it, if one had to."""
        evicted = self._flows.popitem(last=False)[1] if len(self._flows) >= self._limit else None
        flow.last_used = now
        self._flows[flow.key] = flow
        return evicted

    def forget(self, flow: UdpFlow) -> None:
        """Remove `flow`, if it is still known."""
        if self._flows.get(flow.key) is flow:
            del self._flows[flow.key]

    def expire(self, now: float) -> list[UdpFlow]:
        """Remove and return the flows that were idle too long."""
        result: list[UdpFlow] = []
        while self._flows:
            flow = next(iter(self._flows.values()))
            if flow.last_used + IDLE_SECONDS > now:
                break
            del self._flows[flow.key]
            result.append(flow)
        return result

    def deadline(self) -> float | None:
        """When the next flow expires."""
        if not self._flows:
            return None
        return next(iter(self._flows.values())).last_used + IDLE_SECONDS
