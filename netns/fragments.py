"""Reassembly of IP fragments from the guest (RFC 791 section 3.2, RFC 8200 section 4.5). Sans I/O.

The guest only fragments large UDP datagrams and large pings, so a few packets at a time are enough. What is kept is
bounded twice: a packet has at most 65535 bytes, because pieces never overlap, and all of them together 2 MiB.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from netns.wire.error import Buffer, WireError

_MAX_PACKETS = 64
_MAX_PIECES = 128  # of one packet: enough for 65535 bytes over an MTU of 576
_MAX_BYTES = 2 << 20  # of all packets
_SECONDS = 15.0  # RFC 791 section 3.2

Name = tuple[bytes, bytes, int, int]


class _Partial:
    """Pieces in the order of their offsets (bytes). A packet that is condemned has none, and takes none."""

    __slots__ = ("condemned", "expires", "pieces", "received", "total")

    def __init__(self, expires: float) -> None:
        self.expires = expires
        self.pieces: list[tuple[int, bytes]] = []
        self.received = 0
        self.total: int | None = None
        self.condemned = False


class Fragments:
    """Packets of which some fragments are missing. An overlap condemns a packet, what comes later included (RFC 5722);
    the same piece once more does not."""

    __slots__ = ("_bytes", "_partial")

    def __init__(self) -> None:
        self._partial: dict[Name, _Partial] = {}
        self._bytes = 0

    @property
    def held(self) -> int:
        """Bytes of payload that wait for others."""
        return self._bytes

    def add(self, name: Name, offset: int, more: bool, payload: Buffer, now: float) -> bytes | None:
        """Take one fragment (offset in bytes); the whole payload once all are there.

        `name` is source, destination, protocol and identification. A fragment that is a whole packet is no matter of
        this table (RFC 6946). Raises WireError for impossible fragments, overlaps and excess.
        """
        size = len(payload)
        end = offset + size
        partial = self._partial.get(name)
        if (more and (size & 7 or not size)) or end > 65535:
            if partial is not None:
                self._condemn(partial)
            raise WireError(f"a fragment of {size} bytes at {offset} is impossible")
        if partial is None or partial.expires <= now:
            self._make_room(now)
            partial = self._partial[name] = _Partial(now + _SECONDS)
        elif partial.condemned:
            raise WireError("a fragment belongs to a packet with overlaps")
        pieces = partial.pieces
        place = bisect_left(pieces, offset, key=_start)
        if place < len(pieces) and pieces[place][0] == offset and len(pieces[place][1]) == size:
            return None
        overlaps = (place < len(pieces) and pieces[place][0] < end) or (
            place > 0 and pieces[place - 1][0] + len(pieces[place - 1][1]) > offset
        )
        last = pieces[-1][0] + len(pieces[-1][1]) if pieces else 0
        total = partial.total if more else end
        beyond = total is not None and (max(last, end) > total or partial.total not in (None, total))
        if overlaps or beyond or len(pieces) >= _MAX_PIECES:
            self._condemn(partial)
            raise WireError("fragments overlap or are too many")
        partial.total = total
        partial.received += size
        if partial.received != total:
            insort(pieces, (offset, bytes(payload)), key=_start)
            self._bytes += size
            self._evict(partial)
            return None
        self._forget(name)
        pieces.insert(place, (offset, bytes(payload)))
        return b"".join([piece for _, piece in pieces])

    def _condemn(self, partial: _Partial) -> None:
        self._bytes -= sum(len(piece) for _, piece in partial.pieces)
        partial.pieces = []
        partial.condemned = True

    def _forget(self, name: Name) -> None:
        partial = self._partial.pop(name)
        self._bytes -= sum(len(piece) for _, piece in partial.pieces)

    def _make_room(self, now: float) -> None:
        for name in [name for name, partial in self._partial.items() if partial.expires <= now]:
            self._forget(name)
        if len(self._partial) >= _MAX_PACKETS:
            self._forget(next(iter(self._partial)))

    def _evict(self, newest: _Partial) -> None:
        """Let the oldest packets go until the rest is within bounds."""
        while self._bytes > _MAX_BYTES:
            name = next(name for name, partial in self._partial.items() if partial is not newest)
            self._forget(name)


def _start(piece: tuple[int, bytes]) -> int:
    return piece[0]
