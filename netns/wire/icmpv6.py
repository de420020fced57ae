"""ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.checksum import checksum, is_valid, pseudo_sum
from netns.wire.error import Buffer, WireError
from netns.wire.ipv6 import NEXT_ICMPV6

_HEADER = struct.Struct("!BBHHH")
HEADER_LENGTH = _HEADER.size

UNREACHABLE = 1
PACKET_TOO_BIG = 2
TIME_EXCEEDED = 3
PARAMETER_PROBLEM = 4
FIRST_INFORMATIONAL = 128  # kinds below are errors
ECHO_REQUEST = 128
ECHO_REPLY = 129
ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
NEIGHBOUR_SOLICITATION = 135
NEIGHBOUR_ADVERTISEMENT = 136

# Codes of UNREACHABLE
NO_ROUTE = 0
PROHIBITED = 1
ADDRESS = 3
PORT = 4

UNKNOWN_NEXT_HEADER = 1  # code of PARAMETER_PROBLEM

_QUOTED = 1280 - 40 - HEADER_LENGTH  # RFC 4443 section 2.4 c: up to the minimum MTU

_OPTION_SOURCE_MAC = 1
_OPTION_TARGET_MAC = 2
_OPTION_PREFIX = 3
_OPTION_MTU = 5
_OPTION_RDNSS = 25  # RFC 8106
_OPTION_DNSSL = 31
_MANAGED = 0x80
_OTHER = 0x40
_LIFETIME = 1800  # seconds
_NAMES_LIFETIME = 3600


@dataclass(slots=True)
class Icmpv6Message:
    """One message; `first` and `second` are the halves of the header's second word."""

    kind: int
    code: int
    first: int
    second: int
    payload: Buffer

    @classmethod
    def parse(cls, data: Buffer, source: bytes, destination: bytes) -> Icmpv6Message:
        if not is_valid(data, pseudo_sum(source, destination, NEXT_ICMPV6, len(data))):
            raise WireError("an ICMPv6 message has a wrong checksum")
        return cls.without_checksum(data)

    @classmethod
    def without_checksum(cls, data: Buffer) -> Icmpv6Message:
        """Parse what a kernel has verified already."""
        if len(data) < HEADER_LENGTH:
            raise WireError(f"an ICMPv6 message of {len(data)} bytes has no header")
        kind, code, _, first, second = _HEADER.unpack_from(data)
        return cls(kind, code, first, second, memoryview(data)[HEADER_LENGTH:])

    def to_bytes(self, source: bytes, destination: bytes) -> bytes:
        body = bytes(self.payload)
        bare = _HEADER.pack(self.kind, self.code, 0, self.first, self.second) + body
        initial = pseudo_sum(source, destination, NEXT_ICMPV6, len(bare))
        return _HEADER.pack(self.kind, self.code, checksum(bare, initial), self.first, self.second) + body


def error(kind: int, code: int, packet: Buffer, info: int = 0) -> Icmpv6Message:
    """An error about `packet`, quoted. `info` is the MTU of PACKET_TOO_BIG or the pointer of a PARAMETER_PROBLEM."""
    return Icmpv6Message(kind, code, info >> 16 & 0xFFFF, info & 0xFFFF, bytes(packet[:_QUOTED]))


def solicited_target(message: Icmpv6Message) -> bytes:
    """The address that a neighbour solicitation asks for."""
    if len(message.payload) < 16:
        raise WireError("a neighbour solicitation is cut short")
    return bytes(message.payload[:16])


def neighbour_advertisement(target: bytes, mac: bytes, *, solicited: bool) -> Icmpv6Message:
    """Says that `target` is at `mac`; the router and override flags are set (RFC 4861 section 4.4)."""
    flags = 0xA000 | (0x4000 if solicited else 0)
    return Icmpv6Message(
        NEIGHBOUR_ADVERTISEMENT, 0, flags, 0, target + struct.pack("!BB6s", _OPTION_TARGET_MAC, 1, mac)
    )


def router_advertisement(prefix: bytes, mac: bytes, mtu: int, dns: bytes | None, search: bytes = b"") -> Icmpv6Message:
    """Offers a /64 `prefix`, ourselves at `mac`, the link's `mtu`, a name server (RFC 4861 section 4.2) and domains
    for short names, which are `search` in DNS's format."""
    body = struct.pack("!II", 0, 0)
    body += struct.pack("!BB6s", _OPTION_SOURCE_MAC, 1, mac)
    body += struct.pack("!BBHI", _OPTION_MTU, 1, 0, mtu)
    body += struct.pack("!BBBBIII16s", _OPTION_PREFIX, 4, 64, 0xC0, 86400, 14400, 0, prefix)
    if dns is not None:
        body += struct.pack("!BBHI16s", _OPTION_RDNSS, 3, 0, _NAMES_LIFETIME, dns)
        if search:
            padded = search + bytes(-len(search) % 8)
            body += struct.pack("!BBHI", _OPTION_DNSSL, 1 + len(padded) // 8, 0, _NAMES_LIFETIME) + padded
    # hop limit 64; a managed address and other configuration are to be had by DHCPv6
    return Icmpv6Message(ROUTER_ADVERTISEMENT, 0, 64 << 8 | _MANAGED | _OTHER, _LIFETIME, body)
