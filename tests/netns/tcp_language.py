"""A language for tests of one connection: say what the peer sends, and what must come back.

    test = Dialogue.passive()
    test.receive(SYN, seq=0)
    test.expect("SA 1000:1000 ack 1")

A segment is written `FLAGS first:after ack N`, numbers relative to each side's start, `data` in its own argument.
"""

from __future__ import annotations

from netns.tcp.connection import Connection
from netns.tcp.state import Signal, State
from netns.wire.tcp import ACK, FIN, PSH, RST, SYN, TcpSegment

ISS = 0xFFFFFF00  # so that every test crosses the wrap of sequence numbers
IRS = 0xFFFFFFF0
MASK = 0xFFFFFFFF
MSS = 1000

_LETTERS = {"F": FIN, "S": SYN, "R": RST, "P": PSH, "A": ACK}


def text(segment: TcpSegment) -> str:
    """`segment` in the language; PSH is left out, being a hint."""
    letters = "".join(letter for letter, bit in _LETTERS.items() if segment.flags & bit and letter != "P")
    first = segment.seq - ISS & MASK
    after = first + segment.length
    result = f"{letters} {first}:{after}" if segment.length else f"{letters} {first}"
    return f"{result} ack {segment.ack - IRS & MASK}" if segment.flags & ACK else result


class Dialogue:
    """A connection, a clock, and everything it said that was not yet expected."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.now = 0.0
        self.said: list[TcpSegment] = []
        self.heard = bytearray()
        self.signals: list[Signal] = []

    @classmethod
    def passive(
        cls, *, mss: int = MSS, window: int = 65535, scale: int | None = 0, capacity: int = 1 << 16
    ) -> Dialogue:
        """The peer's SYN came, and the far side answered."""
        syn = TcpSegment(IRS, 0, SYN, window, mss=mss, scale=scale)
        dialogue = cls(Connection.passive(syn, 0.0, iss=ISS, mss=MSS, capacity=capacity))
        dialogue.connection.accept()
        return dialogue

    @classmethod
    def established(cls, *, mss: int = MSS, window: int = 65535, capacity: int = 1 << 16) -> Dialogue:
        """The handshake is behind us."""
        dialogue = cls.passive(mss=mss, window=window, capacity=capacity)
        dialogue.expect("SA 0 ack 1")
        dialogue.receive("A", seq=1, ack=1, window=window)
        dialogue.expect()
        assert dialogue.connection.state is State.ESTABLISHED
        dialogue.signals.clear()
        return dialogue

    @classmethod
    def active(cls, *, capacity: int = 1 << 16) -> Dialogue:
        """We are about to connect."""
        return cls(Connection.active(0.0, iss=ISS, mss=MSS, capacity=capacity))

    def receive(
        self, flags: str, *, seq: int, ack: int = 0, data: bytes = b"", window: int = 65535,
        mss: int | None = None, scale: int | None = None,
    ) -> None:  # fmt: skip
        """The peer says this; numbers are relative."""
        bits = sum(_LETTERS[letter] for letter in flags)
        self.connection.on_segment(
            TcpSegment(
                seq + IRS & MASK, ack + ISS & MASK, bits, window, [data] if data else [], len(data), mss, scale
            ),
            self.now,
        )  # fmt: skip
        self._collect()

    def _collect(self) -> None:
        for piece in self.connection.received:
            self.heard += piece
        self.connection.received.clear()
        self.signals += self.connection.signals
        self.connection.signals.clear()

    def expect(self, *segments: str) -> list[TcpSegment]:
        """A poll now says exactly this."""
        said = self.connection.poll(self.now)
        self._collect()
        assert [text(segment) for segment in said] == list(segments)
        return said

    def wait(self, limit: float = 1e6) -> float:
        """Let the time run to the deadline; the seconds that took."""
        due = self.connection.deadline()
        assert due is not None and due - self.now < limit
        waited = due - self.now
        self.now = max(self.now, due)
        return waited

    def consume(self) -> None:
        """The owner passes on everything it got."""
        self.connection.consumed(self.connection.window.unconsumed)
