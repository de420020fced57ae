"""What a connection has received and is ready to receive (RFC 9293 section 3.3.1, the variables RCV.*)."""

from __future__ import annotations

from netns.tcp.reassembly import Reassembly
from netns.wire.error import Buffer

UNSCALED_LIMIT = 65535  # the largest window without the window scale option


class ReceiveWindow:
    """Puts bytes in order and decides which window to announce. Sequence numbers are unwrapped.

    `nxt` is the next byte expected and `edge` the right edge last announced. `unconsumed` bytes were delivered and are
    not passed on yet: they count against `capacity`. `step` is the smallest advance of the edge worth announcing.
    """

    __slots__ = ("_reassembly", "_step", "_worthwhile", "capacity", "delivered", "edge", "fin", "nxt", "unconsumed")

    def __init__(self, capacity: int, step: int) -> None:
        self.capacity = capacity
        self.nxt = 0
        self.edge = 0
        self.unconsumed = 0
        self.delivered: list[Buffer] = []
        self._step = step
        self._worthwhile = min(capacity // 2, step)
        self._reassembly: Reassembly | None = None  # made when something is ahead of its turn
        self.fin: int | None = None  # where the peer's stream ends

    def start(self, first: int, *, scaled: bool) -> None:
        """The peer's first byte will have number `first`."""
        self.nxt = self.edge = first
        if not scaled:
            self.capacity = min(self.capacity, UNSCALED_LIMIT)
            self._worthwhile = min(self.capacity // 2, self._step)

    def announce_at_once(self) -> int:
        """The window for a SYN, which is never scaled."""
        window = min(self.capacity, UNSCALED_LIMIT)
        self.edge = max(self.edge, self.nxt + window)
        return window

    def announce(self) -> int:
        """The window to announce from now on, in bytes."""
        self.edge = self.next_edge()
        return self.edge - self.nxt

    def next_edge(self) -> int:
        """The edge to announce; it never retreats, and advances by worthwhile steps (RFC 9293 section 3.8.6.2.2)."""
        room = self.capacity - self.unconsumed
        edge = self.nxt + room if room > 0 else self.nxt
        return edge if edge - self.edge >= self._worthwhile else self.edge

    def accepts(self, seq: int, length: int, *, fin: bool) -> bool:
        """Whether a segment has something for the window (RFC 9293 section 3.10.7.4, first check).

        At a window of zero, segments that begin at the edge are let in for their ACK and RST; their bytes are cut off.
        """
        if seq > self.edge:
            return False
        end = seq + length
        return end > self.nxt or (seq >= self.nxt and not length) or (fin and end == self.nxt)

    def take(self, payload: Buffer, seq: int) -> None:
        """Bytes from `seq` on: what is in order is delivered, what is ahead is kept, the rest is dropped."""
        if seq + len(payload) > self.edge:
            payload = payload[: max(0, self.edge - seq)]
        if seq > self.nxt:
            if payload:
                if self._reassembly is None:
                    self._reassembly = Reassembly()
                self._reassembly.add(seq, payload)
            return
        if seq < self.nxt:
            payload = payload[self.nxt - seq :]
        if not payload:
            return
        self._deliver(payload)
        while self._reassembly is not None and (piece := self._reassembly.take(self.nxt)) is not None:
            self._deliver(piece)

    def _deliver(self, data: Buffer) -> None:
        self.nxt += len(data)
        self.unconsumed += len(data)
        self.delivered.append(data)

    def end_at(self, position: int) -> None:
        """The peer's FIN has number `position`."""
        self.fin = position

    def take_fin(self) -> bool:
        """Whether the FIN is the next to be received; then it is."""
        if self.fin != self.nxt:
            return False
        self.fin = None
        self.nxt += 1
        self.edge = max(self.edge, self.nxt)
        return True

    @property
    def gaps(self) -> bool:
        """Whether bytes are kept that are ahead of their turn."""
        return bool(self._reassembly)

    def clear(self) -> None:
        """Let go of what is kept."""
        self._reassembly = None
