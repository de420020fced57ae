"""The one error of `netns.wire`."""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


class WireError(ValueError):
    """The bytes are not what the protocol's standard allows, or are cut short."""
