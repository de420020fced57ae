"""Ethernet II frames (IEEE 802.3), without a frame check sequence, as a TAP device carries them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.error import Buffer, WireError

_HEADER = struct.Struct("!6s6sH")
HEADER_LENGTH = _HEADER.size

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
BROADCAST = b"\xff" * 6


@dataclass(slots=True)
class EthernetFrame:
    """One frame; addresses are 6 bytes."""

    destination: bytes
    source: bytes
    ethertype: int
    payload: Buffer

    @classmethod
    def parse(cls, data: Buffer) -> EthernetFrame:
        if len(data) < HEADER_LENGTH:
            raise WireError(f"an Ethernet frame of {len(data)} bytes has no header")
        destination, source, ethertype = _HEADER.unpack_from(data)
        return cls(destination, source, ethertype, memoryview(data)[HEADER_LENGTH:])

    def to_bytes(self) -> bytes:
        return _HEADER.pack(self.destination, self.source, self.ethertype) + bytes(self.payload)


def format_mac(address: bytes) -> str:
    """`address` as aa:bb:cc:dd:ee:ff."""
    return address.hex(":")


def parse_mac(text: str) -> bytes:
    """The six bytes of aa:bb:cc:dd:ee:ff; must be a unicast address."""
    try:
        address = bytes(int(part, 16) for part in text.split(":"))
    except ValueError:
        raise WireError(f"{text!r} is not a MAC address") from None
    if len(address) != 6 or address[0] & 1:
        raise WireError(f"{text!r} is not a unicast MAC address")
    return address
