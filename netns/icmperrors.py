"""Errors that the guest hears by ICMP: which one, about which of its packets, and how many. Sans I/O.

A guest's kernel finds the socket that an error is for by the packet that the error quotes, so what is quoted is the
guest's own packet, with its own addresses, ports and numbers, however it looked on the host's network.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netns.reach import Special
from netns.wire import icmp, icmpv6
from netns.wire.error import Buffer
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Ipv4Packet
from netns.wire.ipv6 import NEXT_ICMPV6, NEXT_UDP, Ipv6Packet

if TYPE_CHECKING:
    from netns.errorqueue import QueuedError
    from netns.reach import Reach
    from netns.tcp.flow import TcpFlow
    from netns.udp import UdpFlow

_RATE = 1000.0  # errors a second: RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f; the same as Linux
_BURST = 200.0
_MASK = 0xFFFFFFFF


class ErrorLimit:
    """A token bucket: whether one more error may be sent now."""

    __slots__ = ("_last", "_tokens")

    def __init__(self) -> None:
        self._tokens = _BURST
        self._last = 0.0

    def allows(self, now: float) -> bool:
        """Take a token, if there is one."""
        if now > self._last:
            self._tokens = min(_BURST, self._tokens + (now - self._last) * _RATE)
            self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(frozen=True, slots=True)
class IcmpError:
    """Kind, code and the 32 bits after the checksum that go with them, of ICMP or (`six`) ICMPv6."""

    kind: int
    code: int
    info: int = 0
    six: bool = False

    @property
    def by_the_far_end(self) -> bool:
        """Whether only the packet's destination says that."""
        port = (icmpv6.UNREACHABLE, icmpv6.PORT) if self.six else (icmp.UNREACHABLE, icmp.PORT)
        return (self.kind, self.code) == port

    def message(self, source: bytes, guest: bytes, quoted: bytes) -> bytes:
        """The message about the packet `quoted`, as `source` sends it to `guest`."""
        if self.six:
            return icmpv6.error(self.kind, self.code, quoted, self.info).to_bytes(source, guest)
        return icmp.error(self.kind, self.code, quoted, self.info).to_bytes()


def unreachable(error: int, *, six: bool) -> IcmpError:
    """What a router says where sending failed with `error`, an errno."""
    if error == errno.ECONNREFUSED:
        code, code6 = icmp.PORT, icmpv6.PORT
    elif error in (errno.EACCES, errno.EPERM):
        code, code6 = icmp.PROHIBITED, icmpv6.PROHIBITED
    elif error in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        code, code6 = icmp.NET, icmpv6.NO_ROUTE
    else:
        code, code6 = icmp.HOST, icmpv6.ADDRESS
    return IcmpError(icmpv6.UNREACHABLE, code6, six=True) if six else IcmpError(icmp.UNREACHABLE, code)


def too_big(mtu: int, *, six: bool) -> IcmpError:
    """The packet does not fit a link of `mtu` bytes and must not be cut."""
    if six:
        return IcmpError(icmpv6.PACKET_TOO_BIG, 0, mtu, six=True)
    return IcmpError(icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, mtu)


def time_exceeded(*, six: bool) -> IcmpError:
    """The packet has crossed as many routers as it may."""
    return IcmpError(icmpv6.TIME_EXCEEDED if six else icmp.TIME_EXCEEDED, 0, six=six)


def unknown_protocol(place: int, *, six: bool) -> IcmpError:
    """Nobody here speaks what the packet carries; in IPv6 that is named at `place` in it."""
    if six:
        return IcmpError(icmpv6.PARAMETER_PROBLEM, icmpv6.UNKNOWN_NEXT_HEADER, place, six=True)
    return IcmpError(icmp.UNREACHABLE, icmp.PROTOCOL)


def is_error(kind: int, *, six: bool) -> bool:
    """Whether a message of that kind is an error, which never causes another one (RFC 1122 section 3.2.2)."""
    return kind < icmpv6.FIRST_INFORMATIONAL if six else kind in icmp.ERRORS


def passed_on(queued: QueuedError, *, six: bool) -> IcmpError | None:
    """What the guest is to hear of an error that the host heard; None where that is nothing for it."""
    if queued.from_network:
        kinds = (
            (icmpv6.UNREACHABLE, icmpv6.PACKET_TOO_BIG, icmpv6.TIME_EXCEEDED, icmpv6.PARAMETER_PROBLEM)
            if six
            else (icmp.UNREACHABLE, icmp.TIME_EXCEEDED, icmp.PARAMETER_PROBLEM)
        )
        return IcmpError(queued.kind, queued.code, queued.info, six) if queued.kind in kinds else None
    return too_big(queued.info, six=six) if queued.errno == errno.EMSGSIZE else unreachable(queued.errno, six=six)


def offender(queued: QueuedError, far: bytes, target: str, reach: Reach) -> bytes | None:
    """Who the guest is told `queued` comes from, where it sent to `far` and we to `target`; None is the gateway.

    The true one, unless its address means something else to the guest.
    """
    if queued.offender is None:
        return None
    if queued.offender_name == target:
        return far
    if len(queued.offender) != len(far) or isinstance(reach.of(queued.offender, 0), Special):
        return None
    return queued.offender


def quote_datagram(flow: UdpFlow, payload: Buffer = b"") -> bytes:
    """The guest's last datagram in `flow`: its headers, and `payload` where that is known."""
    length = int.from_bytes(flow.head[4:6], "big")
    if len(flow.guest) == 4:
        packet = Ipv4Packet(flow.guest, flow.far, PROTOCOL_UDP, b"", flow.hop_limit, dont_fragment=flow.dont_fragment)
        return packet.header(length) + flow.head + bytes(payload)
    return Ipv6Packet(flow.guest, flow.far, NEXT_UDP, b"", flow.hop_limit).header(length) + flow.head + bytes(payload)


def quote_syn(flow: TcpFlow) -> bytes:
    """The SYN that the guest waits with: its kernel finds the socket by the ports, and checks the sequence number."""
    segment = struct.pack("!HHI12x", flow.guest_port, flow.far_port, flow.connection.window.nxt - 1 & _MASK)
    if len(flow.guest) == 4:
        return Ipv4Packet(flow.guest, flow.far, PROTOCOL_TCP, segment, flow.hop_limit).to_bytes()
    return Ipv6Packet(flow.guest, flow.far, PROTOCOL_TCP, segment, flow.hop_limit).to_bytes()


def quote_echo(guest: bytes, far: bytes, identifier: int, number: int, payload: Buffer, hop_limit: int) -> bytes:
    """An echo request of the guest."""
    if len(guest) == 4:
        message = IcmpMessage(icmp.ECHO_REQUEST, 0, identifier, number, payload).to_bytes()
        return Ipv4Packet(guest, far, PROTOCOL_ICMP, message, hop_limit).to_bytes()
    body = Icmpv6Message(icmpv6.ECHO_REQUEST, 0, identifier, number, payload).to_bytes(guest, far)
    return Ipv6Packet(guest, far, NEXT_ICMPV6, body, hop_limit).to_bytes()
