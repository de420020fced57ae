"""A capture of the link for debugging, in the file format of pcap-savefile(5), which tcpdump and Wireshark read."""

from __future__ import annotations

import struct
import time
from typing import BinaryIO

from netns.wire.error import Buffer
from netns.wire.vnet import HEADER_LENGTH as VNET_LENGTH

_FILE_HEADER = struct.Struct("=IHHiIII")
_RECORD = struct.Struct("=IIII")
_MAGIC = 0xA1B2C3D4  # microseconds
_ETHERNET = 1
_LONGEST = 262144


class Capture:
    """Writes frames to `file`, which stays the caller's. Segments appear uncut, with open checksums, as we see them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(_FILE_HEADER.pack(_MAGIC, 2, 4, 0, 0, _LONGEST, _ETHERNET))

    def add(self, frame: tuple[Buffer, ...]) -> None:
        """One frame, in pieces, the first of which starts with the virtio header."""
        data = b"".join(frame)[VNET_LENGTH:]
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        self._file.write(_RECORD.pack(seconds, nanoseconds // 1000, len(data), len(data)) + data)
        self._file.flush()
