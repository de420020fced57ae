"""UDP datagrams (RFC 768)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.checksum import checksum, is_valid, pseudo_sum
from netns.wire.error import Buffer, WireError
from netns.wire.ipv4 import PROTOCOL_UDP

_HEADER = struct.Struct("!HHHH")
HEADER_LENGTH = _HEADER.size
CHECKSUM_OFFSET = 6


@dataclass(slots=True)
class UdpDatagram:
    """One datagram between two ports."""

    source_port: int
    destination_port: int
    payload: Buffer

    @classmethod
    def parse(cls, data: Buffer, addresses: tuple[bytes, bytes] | None = None) -> UdpDatagram:
        """Parse; with `addresses` (source, destination) the checksum is verified, which only IPv4 may leave out."""
        if len(data) < HEADER_LENGTH:
            raise WireError(f"a UDP datagram of {len(data)} bytes has no header")
        source, destination, length, check = _HEADER.unpack_from(data)
        if not HEADER_LENGTH <= length <= len(data):
            raise WireError(f"a UDP datagram says it has {length} bytes and has {len(data)}")
        view = memoryview(data)[:length]
        summed = addresses is not None and (check or len(addresses[0]) == 16)  # RFC 8200 section 8.1
        if summed and addresses and not is_valid(view, pseudo_sum(*addresses, PROTOCOL_UDP, length)):
            raise WireError("a UDP datagram has a wrong checksum")
        return cls(source, destination, view[HEADER_LENGTH:])

    def header(self, check: int) -> bytes:
        """The header, with `check` as its checksum field."""
        return _HEADER.pack(self.source_port, self.destination_port, HEADER_LENGTH + len(self.payload), check)

    def to_bytes(self, source: bytes, destination: bytes) -> bytes:
        """The datagram with its checksum computed."""
        body = bytes(self.payload)
        initial = pseudo_sum(source, destination, PROTOCOL_UDP, HEADER_LENGTH + len(body))
        return self.header(checksum(self.header(0) + body, initial)) + body
