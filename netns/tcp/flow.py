"""A connection with its addresses, and how its segments become frames.

This is the hot path of everything the guest receives: one struct.pack for the IP and TCP headers, whose
unchanging sums are computed once. Payload is never copied or summed.
"""

from __future__ import annotations

import struct
from typing import Protocol

from netns.link import Frame, Link
from netns.tcp.connection import Connection
from netns.wire import ipv4, ipv6, tcp
from netns.wire.checksum import ones_sum, pseudo_sum
from netns.wire.ethernet import HEADER_LENGTH as ETHERNET_LENGTH
from netns.wire.ipv4 import PROTOCOL_TCP
from netns.wire.tcp import TcpSegment
from netns.wire.vnet import GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, VnetHeader

_TCP4 = struct.Struct("!BBHHHBBH4s4sHHIIHHHH")
_TCP6 = struct.Struct("!IHBB16s16sHHIIHHHH")
_START4 = ETHERNET_LENGTH + ipv4.HEADER_LENGTH
_START6 = ETHERNET_LENGTH + ipv6.HEADER_LENGTH
_PLAIN4 = VnetHeader(NEEDS_CSUM, csum_start=_START4, csum_offset=tcp.CHECKSUM_OFFSET).to_bytes()
_PLAIN6 = VnetHeader(NEEDS_CSUM, csum_start=_START6, csum_offset=tcp.CHECKSUM_OFFSET).to_bytes()
_DONT_FRAGMENT = 0x4000
_TTL = 64
HOP_LIMIT = 64  # what guests send unless they look for a path


class Relay(Protocol):
    """The host's side of a flow, as far as the stack's owner attaches one."""

    def received(self) -> None:
        """The connection has received bytes or signals."""

    def changed(self) -> None:
        """The connection may have room to send."""


class TcpFlow:
    """One connection between the guest and a far end. `key` is guest and far address, guest and far port, packed."""

    __slots__ = (
        "_ip_sum", "_pseudo", "connection", "far", "far_port", "from_guest", "guest", "guest_port", "hop_limit",
        "inbound", "key", "relay", "scheduled", "since", "to_guest", "waiting",
    )  # fmt: skip

    def __init__(self, guest: bytes, guest_port: int, far: bytes, far_port: int, connection: Connection) -> None:
        self.guest = guest
        self.guest_port = guest_port
        self.far = far
        self.far_port = far_port
        self.connection = connection
        self.hop_limit = HOP_LIMIT  # of the guest's SYN
        self.inbound = False  # the far end started it
        self.waiting = False  # the relay wants to hear when there may be room to send
        self.key = flow_key(guest, far, guest_port, far_port)
        self.relay: Relay | None = None
        self.scheduled: float | None = None
        self.since = 0.0  # of the owner's clock
        self.from_guest = self.to_guest = 0  # bytes that the relay has moved
        self._pseudo = pseudo_sum(far, guest, PROTOCOL_TCP, 0)
        self._ip_sum = 0
        if len(far) == 4:
            self._ip_sum = 0x4500 + _DONT_FRAGMENT + (_TTL << 8 | PROTOCOL_TCP) + ones_sum(far) + ones_sum(guest)

    def __repr__(self) -> str:
        return f"<TcpFlow {self.guest.hex()}:{self.guest_port} {self.far.hex()}:{self.far_port} {self.connection!r}>"

    def frame(self, segment: TcpSegment, link: Link) -> Frame:
        """The frame that carries `segment` to the guest."""
        length = segment.length
        options = segment.options() if segment.flags & tcp.SYN else b""
        upper = tcp.HEADER_LENGTH + len(options) + length
        mss = self.connection.mss
        offset_flags = (tcp.HEADER_LENGTH + len(options)) << 10 | segment.flags
        partial = (self._pseudo + upper) % 65535  # the kernel adds the rest, or finds that nobody needs it
        if len(self.far) == 4:
            vnet = _PLAIN4 if length <= mss else VnetHeader(
                NEEDS_CSUM, GSO_TCPV4, _START4 + tcp.HEADER_LENGTH, mss, _START4, tcp.CHECKSUM_OFFSET
            ).to_bytes()  # fmt: skip
            total = ipv4.HEADER_LENGTH + upper
            head = _TCP4.pack(
                0x45, 0, total, 0, _DONT_FRAGMENT, _TTL, PROTOCOL_TCP, 65535 - (self._ip_sum + total) % 65535,
                self.far, self.guest, self.far_port, self.guest_port, segment.seq, segment.ack, offset_flags,
                segment.window, partial, 0,
            )  # fmt: skip
            return (vnet + link.ethernet4 + head + options, *segment.payload)
        vnet = _PLAIN6 if length <= mss else VnetHeader(
            NEEDS_CSUM, GSO_TCPV6, _START6 + tcp.HEADER_LENGTH, mss, _START6, tcp.CHECKSUM_OFFSET
        ).to_bytes()  # fmt: skip
        head = _TCP6.pack(
            0x60000000, upper, PROTOCOL_TCP, _TTL, self.far, self.guest, self.far_port, self.guest_port,
            segment.seq, segment.ack, offset_flags, segment.window, partial, 0,
        )  # fmt: skip
        return (vnet + link.ethernet6 + head + options, *segment.payload)


def flow_key(guest: bytes, far: bytes, guest_port: int, far_port: int) -> bytes:
    """The bytes from the source address to the destination port of a packet from the guest: a flow's name."""
    return guest + far + guest_port.to_bytes(2, "big") + far_port.to_bytes(2, "big")
