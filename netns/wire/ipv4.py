"""IPv4 packets (RFC 791)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.checksum import checksum, is_valid
from netns.wire.error import Buffer, WireError

_HEADER = struct.Struct("!BBHHHBBH4s4s")
HEADER_LENGTH = _HEADER.size
MAX_LENGTH = 65535

PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17


@dataclass(slots=True)
class Ipv4Packet:
    """One packet or fragment; options are accepted, ignored and never sent. `fragment_offset` is in bytes."""

    source: bytes
    destination: bytes
    protocol: int
    payload: Buffer
    ttl: int = 64
    identification: int = 0
    dont_fragment: bool = True
    more_fragments: bool = False
    fragment_offset: int = 0

    @classmethod
    def parse(cls, data: Buffer) -> Ipv4Packet:
        if len(data) < HEADER_LENGTH:
            raise WireError(f"an IPv4 packet of {len(data)} bytes has no header")
        version, _, total, identification, fragment, ttl, protocol, _, source, destination = _HEADER.unpack_from(data)
        start = (version & 15) * 4
        if version >> 4 != 4 or start < HEADER_LENGTH:
            raise WireError(f"an IPv4 packet starts with {version:#04x}")
        if not start <= total <= len(data):
            raise WireError(f"an IPv4 packet says it has {total} bytes and has {len(data)}")
        view = memoryview(data)
        if not is_valid(view[:start]):
            raise WireError("an IPv4 header has a wrong checksum")
        return cls(
            source,
            destination,
            protocol,
            view[start:total],
            ttl,
            identification,
            bool(fragment & 0x4000),
            bool(fragment & 0x2000),
            (fragment & 0x1FFF) * 8,
        )

    def header(self, payload_length: int) -> bytes:
        """The header of this packet for a payload of `payload_length` bytes."""
        total = HEADER_LENGTH + payload_length
        if total > MAX_LENGTH:
            raise WireError(f"an IPv4 packet cannot have {total} bytes")
        fragment = self.dont_fragment << 14 | self.more_fragments << 13 | self.fragment_offset >> 3
        fields = (0x45, 0, total, self.identification, fragment, self.ttl, self.protocol)
        bare = _HEADER.pack(*fields, 0, self.source, self.destination)
        return _HEADER.pack(*fields, checksum(bare), self.source, self.destination)

    def to_bytes(self) -> bytes:
        return self.header(len(self.payload)) + bytes(self.payload)
