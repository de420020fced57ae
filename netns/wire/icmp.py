"""ICMP for IPv4 (RFC 792)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.checksum import checksum, is_valid
from netns.wire.error import Buffer, WireError

_HEADER = struct.Struct("!BBHHH")
HEADER_LENGTH = _HEADER.size

ECHO_REPLY = 0
UNREACHABLE = 3
ECHO_REQUEST = 8
TIME_EXCEEDED = 11

# Codes of UNREACHABLE
NET = 0
HOST = 1
PORT = 3
PROHIBITED = 13


@dataclass(slots=True)
class IcmpMessage:
    """One message; `first` and `second` are the halves of the second word: an echo's identifier and number."""

    kind: int
    code: int
    first: int
    second: int
    payload: Buffer

    @classmethod
    def parse(cls, data: Buffer) -> IcmpMessage:
        if len(data) < HEADER_LENGTH:
            raise WireError(f"an ICMP message of {len(data)} bytes has no header")
        if not is_valid(data):
            raise WireError("an ICMP message has a wrong checksum")
        kind, code, _, first, second = _HEADER.unpack_from(data)
        return cls(kind, code, first, second, memoryview(data)[HEADER_LENGTH:])

    def to_bytes(self) -> bytes:
        body = bytes(self.payload)
        bare = _HEADER.pack(self.kind, self.code, 0, self.first, self.second) + body
        return _HEADER.pack(self.kind, self.code, checksum(bare), self.first, self.second) + body


def unreachable(code: int, packet: Buffer) -> IcmpMessage:
    """A destination-unreachable about `packet`, an IPv4 packet: it quotes the header and the first 8 bytes after it."""
    quoted = (packet[0] & 15) * 4 + 8 if len(packet) else 0
    return IcmpMessage(UNREACHABLE, code, 0, 0, bytes(packet[:quoted]))
