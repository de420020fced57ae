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
PARAMETER_PROBLEM = 12
ERRORS = frozenset({UNREACHABLE, 4, 5, TIME_EXCEEDED, PARAMETER_PROBLEM})  # source quench and redirect among them

# Codes of UNREACHABLE
NET = 0
HOST = 1
PROTOCOL = 2
PORT = 3
FRAGMENTATION_NEEDED = 4
PROHIBITED = 13

_QUOTED = 576 - 20 - HEADER_LENGTH  # RFC 1812 section 4.3.2.3


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


def error(kind: int, code: int, packet: Buffer, info: int = 0) -> IcmpMessage:
    """An error about `packet`, an IPv4 packet, of which it quotes what fits into 576 bytes.

    `info` is the next hop's MTU of FRAGMENTATION_NEEDED (RFC 1191 section 4), or a parameter problem's pointer.
    """
    first, second = (info << 8 & 0xFF00, 0) if kind == PARAMETER_PROBLEM else (0, info & 0xFFFF)
    return IcmpMessage(kind, code, first, second, bytes(packet[:_QUOTED]))
