"""Initial sequence numbers (RFC 9293 section 3.4.1): unpredictable, so that nobody off the link can guess them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

_BLOCK = struct.Struct("1024I")


def initial_numbers() -> Iterator[int]:
    """32 random bits at a time, for ever. The kernel is asked for a thousand at once: a system call costs more."""
    while True:
        yield from _BLOCK.unpack(os.urandom(_BLOCK.size))
