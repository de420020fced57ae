"""IPv6 packets and the extension headers that a host must step over (RFC 8200)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.error import Buffer, WireError

_HEADER = struct.Struct("!IHBB16s16s")
_FRAGMENT = struct.Struct("!BBHI")
HEADER_LENGTH = _HEADER.size
FRAGMENT_LENGTH = _FRAGMENT.size

NEXT_HOP_BY_HOP = 0
NEXT_TCP = 6
NEXT_UDP = 17
NEXT_ROUTING = 43
NEXT_FRAGMENT = 44
NEXT_ICMPV6 = 58
NEXT_NONE = 59
NEXT_DESTINATION = 60

_EXTENSIONS = (NEXT_HOP_BY_HOP, NEXT_ROUTING, NEXT_DESTINATION)
_NEXT_HEADER_AT = 6


@dataclass(slots=True)
class Ipv6Packet:
    """One packet; `next_header` and `payload` are those after hop-by-hop, routing and destination options.

    `next_header_at` is where in the packet that next header is named: what a parameter problem points at.
    """

    source: bytes
    destination: bytes
    next_header: int
    payload: Buffer
    hop_limit: int = 64
    next_header_at: int = _NEXT_HEADER_AT

    @classmethod
    def parse(cls, data: Buffer) -> Ipv6Packet:
        if len(data) < HEADER_LENGTH:
            raise WireError(f"an IPv6 packet of {len(data)} bytes has no header")
        first, length, next_header, hop_limit, source, destination = _HEADER.unpack_from(data)
        if first >> 28 != 6:
            raise WireError(f"an IPv6 packet starts with {first:#010x}")
        if HEADER_LENGTH + length > len(data):
            raise WireError(f"an IPv6 packet says it has {length} bytes of payload and is {len(data)} bytes long")
        payload = memoryview(data)[HEADER_LENGTH : HEADER_LENGTH + length]
        if next_header not in _EXTENSIONS:
            return cls(source, destination, next_header, payload, hop_limit)
        next_header, upper, place = step_over(next_header, payload)
        return cls(source, destination, next_header, upper, hop_limit, HEADER_LENGTH + place)

    def header(self, payload_length: int) -> bytes:
        """The header of this packet for a payload of `payload_length` bytes."""
        if payload_length > 65535:
            raise WireError(f"an IPv6 packet cannot carry {payload_length} bytes")
        return _HEADER.pack(0x60000000, payload_length, self.next_header, self.hop_limit, self.source, self.destination)

    def to_bytes(self) -> bytes:
        return self.header(len(self.payload)) + bytes(self.payload)


@dataclass(slots=True)
class Ipv6Fragment:
    """The fragment header (RFC 8200 section 4.5) and what follows it. `offset` is in bytes."""

    next_header: int
    offset: int
    more: bool
    identification: int
    payload: Buffer

    @classmethod
    def parse(cls, data: Buffer) -> Ipv6Fragment:
        if len(data) < FRAGMENT_LENGTH:
            raise WireError("an IPv6 fragment header is cut short")
        next_header, _, place, identification = _FRAGMENT.unpack_from(data)
        return cls(next_header, place & 0xFFF8, bool(place & 1), identification, memoryview(data)[FRAGMENT_LENGTH:])

    def to_bytes(self) -> bytes:
        return _FRAGMENT.pack(self.next_header, 0, self.offset | self.more, self.identification) + bytes(self.payload)


def step_over(next_header: int, payload: Buffer) -> tuple[int, Buffer, int]:
    """What follows the extension headers at the start of `payload`: its kind, itself, and where its kind is named."""
    view = memoryview(payload)
    place = start = 0
    while next_header in _EXTENSIONS:
        rest = len(view) - start
        if rest < 8 or rest < (size := view[start + 1] * 8 + 8):
            raise WireError("an IPv6 extension header is cut short")
        next_header, place, start = view[start], start, start + size
    return next_header, view[start:], place
