"""Blocks of the capture format pcapng (draft-ietf-opsawg-pcapng), which Wireshark, tshark and tcpdump read. Pure.

A file is `section_header()`, one `interface(...)`, and a `packet(...)` for each frame. Numbers are little-endian.
"""

from __future__ import annotations

import struct

INBOUND = 1
OUTBOUND = 2
LONGEST = 262144  # bytes of one packet that are kept; more than there can be

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE = 1
_ENHANCED_PACKET = 6
_BYTE_ORDER = 0x1A2B3C4D
_LENGTH_UNKNOWN = -1
_ETHERNET = 1
_NANOSECONDS = 9  # if_tsresol: 10 to the minus 9

_OPTION_USER_APPLICATION = 4
_OPTION_NAME = 2
_OPTION_DESCRIPTION = 3
_OPTION_RESOLUTION = 9
_OPTION_FLAGS = 2
_END_OF_OPTIONS = bytes(4)

_PACKET = struct.Struct("<IIIIIII")
_FLAGS = struct.Struct("<HHIII")


def section_header(application: str) -> bytes:
    """The start of a file, made by `application`."""
    body = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, _LENGTH_UNKNOWN)
    return _block(_SECTION_HEADER, body + _option(_OPTION_USER_APPLICATION, application.encode()) + _END_OF_OPTIONS)


def interface(name: str, description: str = "") -> bytes:
    """The Ethernet interface to which the packets that follow belong; their times are in nanoseconds."""
    body = struct.pack("<HHI", _ETHERNET, 0, LONGEST) + _option(_OPTION_NAME, name.encode())
    if description:
        body += _option(_OPTION_DESCRIPTION, description.encode())
    return _block(_INTERFACE, body + _option(_OPTION_RESOLUTION, bytes((_NANOSECONDS,))) + _END_OF_OPTIONS)


def packet(data: bytes, time: int, direction: int) -> bytes:
    """A frame, seen `time` nanoseconds after 1970; `direction` is INBOUND or OUTBOUND."""
    size = len(data)
    kept = data[:LONGEST]
    padding = bytes(-len(kept) % 4)
    total = _PACKET.size + len(kept) + len(padding) + _FLAGS.size
    head = _PACKET.pack(_ENHANCED_PACKET, total, 0, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, len(kept), size)
    return head + kept + padding + _FLAGS.pack(_OPTION_FLAGS, 4, direction, 0, total)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)
