"""Which error the guest hears, from whom, and about what."""

from __future__ import annotations

import errno
import socket

import pytest

from netns.errorqueue import QueuedError
from netns.icmperrors import (
    ErrorLimit,
    IcmpError,
    is_error,
    offender,
    passed_on,
    quote_datagram,
    quote_echo,
    too_big,
    unreachable,
)
from netns.reach import Reach
from netns.settings import Settings
from netns.udp import UdpFlow
from netns.wire import icmp, icmpv6
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv4 import Ipv4Packet
from netns.wire.ipv6 import Ipv6Packet
from netns.wire.udp import UdpDatagram

GUEST, FAR = bytes((10, 0, 2, 100)), bytes((192, 0, 2, 9))
GUEST6, FAR6 = socket.inet_pton(socket.AF_INET6, "fd00::100"), socket.inet_pton(socket.AF_INET6, "2001:db8::9")
ROUTER = bytes((198, 18, 0, 1))


def queued(kind: int, code: int, info: int = 0, source: bytes | None = ROUTER) -> QueuedError:
    return QueuedError(errno.EHOSTUNREACH, True, kind, code, info, source, b"")


def test_errors_are_limited() -> None:
    limit = ErrorLimit()
    assert sum(limit.allows(10.0) for _ in range(1000)) == 200
    assert sum(limit.allows(10.05) for _ in range(1000)) == 50
    assert not limit.allows(9.0)
    assert sum(limit.allows(100.0) for _ in range(1000)) == 200


@pytest.mark.parametrize(
    ("number", "code", "code6"),
    [
        (errno.ECONNREFUSED, icmp.PORT, icmpv6.PORT),
        (errno.EPERM, icmp.PROHIBITED, icmpv6.PROHIBITED),
        (errno.ENETUNREACH, icmp.NET, icmpv6.NO_ROUTE),
        (errno.ETIMEDOUT, icmp.HOST, icmpv6.ADDRESS),
    ],
)
def test_unreachable_by_errno(number: int, code: int, code6: int) -> None:
    assert unreachable(number, six=False) == IcmpError(icmp.UNREACHABLE, code)
    assert unreachable(number, six=True) == IcmpError(icmpv6.UNREACHABLE, code6, six=True)
    assert unreachable(number, six=True).by_the_far_end == (number == errno.ECONNREFUSED)


def test_what_is_passed_on() -> None:
    assert passed_on(queued(icmp.TIME_EXCEEDED, 1), six=False) == IcmpError(icmp.TIME_EXCEEDED, 1)
    assert passed_on(queued(3, 4, 1400), six=False) == too_big(1400, six=False)
    assert passed_on(queued(2, 0, 1400), six=True) == too_big(1400, six=True)
    assert passed_on(queued(5, 0), six=False) is None  # a redirect is for the host
    assert passed_on(queued(137, 0), six=True) is None
    own = QueuedError(errno.EMSGSIZE, False, 0, 0, 1300, None, b"")
    assert passed_on(own, six=True) == too_big(1300, six=True)


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("198.18.0.1", "198.18.0.1"),
        ("127.0.0.1", "192.0.2.9"),  # what we sent to
        ("127.0.0.2", None),
        ("10.0.2.15", None),  # of the guest's own link
        ("10.0.2.3", None),
        (None, None),
    ],
)
def test_who_the_guest_hears_it_from(source: str | None, seen: str | None) -> None:
    error = queued(3, 1, 0, socket.inet_aton(source) if source else None)
    result = offender(error, FAR, "127.0.0.1", Reach(Settings()))
    assert result == (socket.inet_aton(seen) if seen else None)


def test_a_datagram_is_quoted_as_the_guest_sent_it() -> None:
    flow = UdpFlow(GUEST, 4000, FAR, 53)
    flow.head = UdpDatagram(4000, 53, b"question").to_bytes(GUEST, FAR)[:8]
    flow.hop_limit = 3
    packet = Ipv4Packet.parse(quote_datagram(flow, b"question"))
    assert (packet.source, packet.destination, packet.protocol, packet.ttl) == (GUEST, FAR, 17, 3)
    assert bytes(UdpDatagram.parse(packet.payload, (GUEST, FAR)).payload) == b"question"
    short = IcmpError(icmp.TIME_EXCEEDED, 0).message(ROUTER, GUEST, quote_datagram(flow))
    quoted = bytes(IcmpMessage.parse(short).payload)
    assert len(quoted) == 28 and quoted[2:4] == b"\0\x24"  # its length is that of the whole
    flow6 = UdpFlow(GUEST6, 4000, FAR6, 53)
    message = too_big(1280, six=True).message(FAR6, GUEST6, quote_datagram(flow6))
    error = Icmpv6Message.parse(message, FAR6, GUEST6)
    assert (error.kind, error.second, bytes(error.payload[8:24])) == (icmpv6.PACKET_TOO_BIG, 1280, GUEST6)


def test_an_echo_request_is_quoted_with_the_guests_numbers() -> None:
    packet = Ipv4Packet.parse(quote_echo(GUEST, FAR, 7, 9, b"payload", 2))
    echo = IcmpMessage.parse(packet.payload)
    assert (packet.ttl, echo.kind, echo.first, echo.second) == (2, icmp.ECHO_REQUEST, 7, 9)
    packet6 = Ipv6Packet.parse(quote_echo(GUEST6, FAR6, 7, 9, b"payload", 2))
    echo6 = Icmpv6Message.parse(packet6.payload, GUEST6, FAR6)
    assert (packet6.hop_limit, echo6.kind, echo6.first, echo6.second) == (2, icmpv6.ECHO_REQUEST, 7, 9)


def test_errors_cause_no_errors() -> None:
    assert is_error(icmp.UNREACHABLE, six=False) and not is_error(icmp.ECHO_REQUEST, six=False)
    assert is_error(icmpv6.TIME_EXCEEDED, six=True) and not is_error(icmpv6.ECHO_REPLY, six=True)
