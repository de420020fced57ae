"""The Internet checksum (RFC 1071).

2**16 is 1 modulo 65535, so the ones' complement sum of 16-bit words is the whole buffer, read as one number, modulo
65535. That lets CPython's long division do the work, at about a gigabyte a second.
"""

from __future__ import annotations

import struct

from netns.wire.error import Buffer


def ones_sum(data: Buffer) -> int:
    """The ones' complement sum of `data` in 0..65534 (65535 is represented by 0)."""
    value = int.from_bytes(data, "big")
    return ((value << 8) if len(data) & 1 else value) % 65535


def checksum(data: Buffer, initial: int = 0) -> int:
    """The checksum to store for `data` (whose checksum field is zero) and a pseudo-header that sums to `initial`."""
    return 65535 - (ones_sum(data) + initial) % 65535


def is_valid(data: Buffer, initial: int = 0) -> bool:
    """Whether `data`, checksum field included, sums to minus zero."""
    return (ones_sum(data) + initial) % 65535 == 0


def pseudo_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The pseudo-header's sum for TCP, UDP (RFC 9293 section 3.1) and, over IPv6, everything (RFC 8200 section 8.1)."""
    return (ones_sum(source) + ones_sum(destination) + protocol + length) % 65535


def store(message: bytearray, offset: int, value: int) -> None:
    """Write a 16-bit checksum into `message`."""
    struct.pack_into("!H", message, offset, value)
