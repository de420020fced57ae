"""Reassembly of IP fragments from the guest (RFC 791 section 3.2, RFC 8200 section 4.5). Sans I/O.

The guest only fragments large UDP datagrams and large pings, so a few at a time are enough.
"""

from __future__ import annotations

from netns.wire.error import Buffer, WireError

_MAX_PACKETS = 32
_MAX_PIECES = 128
_SECONDS = 15.0

Name = tuple[bytes, bytes, int, int]


class _Partial:
    __slots__ = ("expires", "pieces", "received", "total")

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.pieces: dict[int, bytes] = {}
        self.received = 0
        self.total: int | None = None


class Fragments:
    """Packets of which some fragments are missing. Overlaps condemn a packet (RFC 5722)."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: dict[Name, _Partial] = {}

    def add(self, name: Name, offset: int, more: bool, payload: Buffer, now: float) -> bytes | None:
        """Take one fragment (offset in bytes); the whole payload once all are there.

        `name` is source, destination, protocol and identification. Raises WireError for impossible fragments.
        """
        size = len(payload)
        if (more and (size & 7 or not size)) or offset + size > 65535:
            self._partial.pop(name, None)
            raise WireError(f"a fragment of {size} bytes at {offset} is impossible")
        partial = self._partial.get(name)
        if partial is None or partial.expires <= now:
            self._make_room(now)
            partial = self._partial[name] = _Partial(now + _SECONDS)
        if offset in partial.pieces and len(partial.pieces[offset]) == size:
            return None
        if not more:
            if partial.total is not None and partial.total != offset + size:
                del self._partial[name]
                raise WireError("two fragments both claim to be the last")
            partial.total = offset + size
        if offset in partial.pieces or len(partial.pieces) >= _MAX_PIECES:
            del self._partial[name]
            raise WireError("fragments overlap or are too many")
        partial.pieces[offset] = bytes(payload)
        partial.received += size
        if partial.total is None or partial.received < partial.total:
            return None
        del self._partial[name]
        result = b""
        for start, piece in sorted(partial.pieces.items()):
            if start != len(result):
                raise WireError("fragments overlap")
            result += piece
        return result

    def _make_room(self, now: float) -> None:
        for name in [name for name, partial in self._partial.items() if partial.expires <= now]:
            del self._partial[name]
        if len(self._partial) >= _MAX_PACKETS:
            del self._partial[next(iter(self._partial))]
