"""A capture of the link for debugging: a pcapng file that grows as packets cross, for tshark also while it does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import BinaryIO

from netns import pcapng
from netns.errors import NetworkError
from netns.wire.error import Buffer
from netns.wire.vnet import HEADER_LENGTH as VNET_LENGTH

_SOURCE = slice(6, 12)


class Capture:
    """Writes frames to a file. Segments appear uncut, with open checksums, as the stack sees them.

    An error of the file ends the capture with a note, and nothing else. A reader of a pipe that is too slow
    misses frames rather than stall the network; `lost` counts them.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        mac: bytes = b"",
        note: Callable[[str], None] | None = None,
        interface: str = "tap0",
    ) -> None:
        """`file` stays the caller's until `close`, and nobody else writes to it. `mac` is the hardware address of our
        end: directions are those of the guest's end, which is called `interface`."""
        self.lost = 0
        self._file: BinaryIO | None = file
        self._mac = mac
        self._note = note
        self._rest = b""  # of a frame, where a pipe took the first part only
        self._write(pcapng.section_header("rcontain") + pcapng.interface(interface, "the container's end"))

    @classmethod
    def create(cls, path: str, *, mac: bytes, note: Callable[[str], None], interface: str = "tap0") -> Capture:
        """A capture in a new file, or in a pipe that somebody reads. Raises NetworkError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise NetworkError(f"cannot write a capture to {path}: {error.strerror}") from None
        return cls(open(fd, "wb", buffering=0), mac=mac, note=note, interface=interface)

    def add(self, frame: tuple[Buffer, ...]) -> None:
        """One frame, in pieces, the first of which starts with the virtio header."""
        if self._file is None:
            return
        data = b"".join(frame)[VNET_LENGTH:]
        direction = pcapng.INBOUND if data[_SOURCE] == self._mac else pcapng.OUTBOUND
        self._write(pcapng.packet(data, time.time_ns(), direction))

    def close(self) -> None:
        """No more frames; the file is closed."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write(self, block: bytes) -> None:
        assert self._file is not None  # add looks
        fd = self._file.fileno()
        try:
            if self._rest:
                self._rest = self._rest[os.write(fd, self._rest) :]
            if self._rest:
                self.lost += 1
                return
            self._rest = block[os.write(fd, block) :]
        except BlockingIOError:
            self.lost += 1
        except OSError as error:
            self.close()
            if self._note is not None:
                self._note(f"the capture of packets has ended: {error.strerror}")
