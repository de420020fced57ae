"""TCP segments (RFC 9293 section 3.1), with the options maximum segment size and window scale (RFC 7323)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from netns.wire.checksum import checksum, is_valid, pseudo_sum
from netns.wire.error import Buffer, WireError
from netns.wire.ipv4 import PROTOCOL_TCP

_HEADER = struct.Struct("!HHIIHHHH")
HEADER_LENGTH = _HEADER.size
CHECKSUM_OFFSET = 16

# Plain integers: IntFlag arithmetic costs a microsecond, and these are tested for every segment.
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20

_OPTION_END = 0
_OPTION_NOP = 1
_OPTION_MSS = 2
_OPTION_SCALE = 3
_MAX_SCALE = 14  # RFC 7323 section 2.3


@dataclass(slots=True)
class TcpSegment:
    """One segment. `seq` and `ack` are 32-bit; `window` is the field as sent, before scaling.

    `payload` is one buffer when parsed, and a list of buffers (to be gathered by writev) when a connection emits it;
    `length` is its size in bytes.
    """

    seq: int
    ack: int
    flags: int
    window: int
    payload: list[Buffer] = field(default_factory=list)
    length: int = 0
    mss: int | None = None
    scale: int | None = None
    source_port: int = 0
    destination_port: int = 0

    @classmethod
    def parse(cls, data: Buffer, addresses: tuple[bytes, bytes] | None = None) -> TcpSegment:
        """Parse; with `addresses` (source, destination) the checksum is verified."""
        if len(data) < HEADER_LENGTH:
            raise WireError(f"a TCP segment of {len(data)} bytes has no header")
        source_port, destination_port, seq, ack, offset_flags, window, _, _ = _HEADER.unpack_from(data)
        start = offset_flags >> 12 << 2
        if not HEADER_LENGTH <= start <= len(data):
            raise WireError(f"a TCP segment of {len(data)} bytes says its header has {start}")
        if addresses is not None and not is_valid(data, pseudo_sum(*addresses, PROTOCOL_TCP, len(data))):
            raise WireError("a TCP segment has a wrong checksum")
        length = len(data) - start
        view = memoryview(data)
        segment = cls(
            seq, ack, offset_flags & 0x3F, window, [view[start:]] if length else [], length,
            None, None, source_port, destination_port,
        )  # fmt: skip
        if start > HEADER_LENGTH and segment.flags & SYN:
            segment.parse_options(view[HEADER_LENGTH:start])
        return segment

    def parse_options(self, options: memoryview) -> None:
        """Take maximum segment size and window scale; others are stepped over. A malformed list ends the reading."""
        place = 0
        after = len(options)
        while place < after:
            kind = options[place]
            if kind == _OPTION_NOP:
                place += 1
                continue
            if kind == _OPTION_END or place + 2 > after or (size := options[place + 1]) < 2 or place + size > after:
                return
            if kind == _OPTION_MSS and size == 4:
                self.mss = options[place + 2] << 8 | options[place + 3]
            elif kind == _OPTION_SCALE and size == 3:
                self.scale = min(options[place + 2], _MAX_SCALE)
            place += size

    def options(self) -> bytes:
        """The options, padded to a multiple of four bytes."""
        result = b""
        if self.mss is not None:
            result += struct.pack("!BBH", _OPTION_MSS, 4, self.mss)
        if self.scale is not None:
            result += struct.pack("!BBBB", _OPTION_NOP, _OPTION_SCALE, 3, self.scale)
        return result

    def header(self, check: int) -> bytes:
        """Header and options, with `check` as the checksum field."""
        options = self.options()
        offset_flags = (HEADER_LENGTH + len(options)) << 10 | self.flags
        return (
            _HEADER.pack(
                self.source_port, self.destination_port, self.seq, self.ack, offset_flags, self.window, check, 0
            )
            + options
        )

    def to_bytes(self, source: bytes, destination: bytes) -> bytes:
        """The segment in one piece with its checksum computed."""
        body = b"".join(self.payload)
        bare = self.header(0) + body
        return self.header(checksum(bare, pseudo_sum(source, destination, PROTOCOL_TCP, len(bare)))) + body
