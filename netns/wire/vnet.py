"""The header before each frame of a TAP opened with IFF_VNET_HDR (struct virtio_net_hdr, linux/virtio_net.h).

It says which checksum is still to be computed and into what size the kernel is to cut a large segment, so that
neither is done here. Fields are in the machine's byte order (legacy virtio).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netns.wire.error import Buffer, WireError

_HEADER = struct.Struct("=BBHHHH")
HEADER_LENGTH = _HEADER.size

NEEDS_CSUM = 1
DATA_VALID = 2

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4


@dataclass(slots=True)
class VnetHeader:
    """`csum_start` counts from the start of the Ethernet frame, `csum_offset` from csum_start; sizes are bytes."""

    flags: int = 0
    gso_type: int = GSO_NONE
    header_length: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    @classmethod
    def parse(cls, data: Buffer) -> VnetHeader:
        if len(data) < HEADER_LENGTH:
            raise WireError(f"a frame of {len(data)} bytes has no virtio header")
        return cls(*_HEADER.unpack_from(data))

    def to_bytes(self) -> bytes:
        return _HEADER.pack(
            self.flags, self.gso_type, self.header_length, self.gso_size, self.csum_start, self.csum_offset
        )


PLAIN = VnetHeader().to_bytes()
