"""Address resolution for IPv4 over Ethernet (RFC 826)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.error import Buffer, WireError

_PACKET = struct.Struct("!HHBBH6s4s6s4s")
REQUEST = 1
REPLY = 2


@dataclass(slots=True)
class ArpPacket:
    """A request or a reply; hardware addresses are 6 bytes, protocol addresses 4."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes

    @classmethod
    def parse(cls, data: Buffer) -> ArpPacket:
        if len(data) < _PACKET.size:
            raise WireError(f"an ARP packet of {len(data)} bytes is cut short")
        hardware, protocol, hlen, plen, operation, sender_mac, sender, target_mac, target = _PACKET.unpack_from(data)
        if (hardware, protocol, hlen, plen) != (1, 0x0800, 6, 4):
            raise WireError("an ARP packet is not about IPv4 over Ethernet")
        return cls(operation, sender_mac, sender, target_mac, target)

    def to_bytes(self) -> bytes:
        return _PACKET.pack(1, 0x0800, 6, 4, self.operation, self.sender_mac, self.sender, self.target_mac, self.target)
