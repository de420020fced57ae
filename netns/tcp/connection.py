"""One TCP connection, sans I/O (RFC 9293).

Four doors: `on_segment(segment, now)`, `send(data)`, `poll(now)` and `deadline()`. Received bytes are in `received` and
changes of state in `signals` after a call of `on_segment` or `poll`; the owner takes them away. Nothing is emitted
except by `poll` (see Transmitter), so that one call after a batch of segments acknowledges them together. Times are
seconds of any monotonic clock.

Sequence numbers are unwrapped at the door: inside they are ordinary integers that only grow, so they compare with < and
wrap with a mask on their way out.

A passive connection starts in LISTEN with the peer's SYN held: its owner first dials the far side, then calls
`accept()` or `refuse()`. An active one starts in SYN_SENT.

The other end is a kernel on the same machine, behind a device that moves 64 KiB at a time. So, on purpose:
- no congestion window (RFC 5681): the link has no queue to share; what is in flight is limited by the peer's window and
  by the send buffer. Loss is repaired after three duplicate ACKs, one segment for each partial acknowledgement
  (RFC 6582), or after a timeout by sending everything again, slowly at first (as RFC 5681's slow start).
- no Nagle: a segment leaves with the batch it belongs to, and so does an ACK, unless the owner holds it for a moment
  because an answer may carry it.
- no SACK, no timestamps, no urgent pointer (urgent data is delivered in line, RFC 6093).
- TIME-WAIT is short: nothing can linger in the link, and the host's own socket keeps the real one.
"""

from __future__ import annotations

from netns.tcp.state import Signal, State
from netns.tcp.transmitter import DEFAULT_MSS, MASK, Transmitter
from netns.wire.error import Buffer
from netns.wire.tcp import ACK, FIN, PSH, RST, SYN, TcpSegment

_HALF = 0x80000000

TIME_WAIT_SECONDS = 1.0
_DUPLICATES = 3
_MAX_SEGMENT = 65535 - 40  # bytes of payload in one segment, which the kernel cuts where the MSS is smaller
_HURRY = 8192  # unacknowledged bytes that are acknowledged at once: more is to come

_NARROW = 1 << 15  # a window that a peer may wait for to open

_RECEIVING = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})
_UNSYNCHRONIZED = frozenset({State.LISTEN, State.SYN_SENT, State.CLOSED})


def _distance(number: int, reference: int) -> int:
    """How far the 32-bit `number` is ahead (or, negative, behind) of the unwrapped `reference`."""
    return ((number - reference + _HALF) & MASK) - _HALF


class Connection(Transmitter):
    """One end of a connection. `mss` is what this end announces; `capacity` bounds each direction's buffer in bytes."""

    __slots__ = ("_peer_scale", "_wl1", "_wl2", "signals")

    def __init__(self, *, iss: int, mss: int, capacity: int) -> None:
        super().__init__(iss=iss, mss=mss, capacity=capacity)
        self.signals: list[Signal] = []
        self._peer_scale = 0
        self._wl1 = self._wl2 = 0

    @property
    def received(self) -> list[Buffer]:
        """Bytes in order, for the owner to pass on; whoever takes them clears the list."""
        return self.window.delivered

    @classmethod
    def passive(cls, syn: TcpSegment, now: float, *, iss: int, mss: int, capacity: int) -> Connection:
        """A connection that holds the peer's `syn` unanswered (LISTEN)."""
        connection = cls(iss=iss, mss=mss, capacity=capacity)
        connection.state = State.LISTEN
        connection._last_heard = now
        connection._take_syn(syn)
        return connection

    @classmethod
    def active(cls, now: float, *, iss: int, mss: int, capacity: int) -> Connection:
        """A connection that will send a SYN at the next poll (SYN_SENT)."""
        connection = cls(iss=iss, mss=mss, capacity=capacity)
        connection.state = State.SYN_SENT
        connection._last_heard = now
        connection._scaled = True
        return connection

    def __repr__(self) -> str:
        return (
            f"<Connection {self.state.name} una={self.snd_una} nxt={self.snd_nxt} wnd={self.snd_wnd}"
            f" buffered={len(self.buffer)} rcv={self.window.nxt} unconsumed={self.window.unconsumed}>"
        )

    # What the owner decides

    def accept(self) -> None:
        """The far side answered: let the held SYN be answered."""
        self.state = State.SYN_RECEIVED

    def abort(self) -> None:
        """Reset the connection, or refuse it while its SYN is held. Signals nothing: the owner knows."""
        if self.state in (State.CLOSED, State.TIME_WAIT):
            pass
        elif self.state is State.LISTEN:
            self._rst = TcpSegment(0, self.window.nxt & MASK, RST | ACK, 0)
        elif self.state is not State.SYN_SENT or self._syn_sent:
            self._rst = TcpSegment(self.snd_max & MASK, self.window.nxt & MASK, RST | ACK, 0)
        self._enter_closed()

    def drop(self) -> None:
        """Forget the connection without a word to the peer, which may ask again. Signals TIMED_OUT."""
        self._finish(Signal.TIMED_OUT)

    def send_room(self) -> int:
        """How many bytes `send` takes now."""
        buffer = self.buffer
        room = self.capacity - buffer.end + buffer.start
        return room if room > 0 else 0

    def send(self, data: bytes | memoryview) -> None:
        """Queue `data`, which stays as it is until it is acknowledged; the owner keeps to `send_room()`."""
        if not self._fin_queued and self.state is not State.CLOSED:
            self.buffer.append(data)

    def close(self) -> None:
        """No more will be sent: a FIN follows what is queued. Receiving goes on."""
        self._fin_queued = True

    def consumed(self, count: int) -> None:
        """The owner passed on `count` received bytes: the window may open."""
        window = self.window
        window.unconsumed -= count
        if window.next_edge() != window.edge:
            if window.edge - window.nxt < _NARROW:
                self._ack_now = True
            else:
                self._ack_soon = True

    # What the peer sends

    def on_segment(self, segment: TcpSegment, now: float) -> None:
        """RFC 9293 section 3.10.7."""
        state = self.state
        if state not in _UNSYNCHRONIZED:
            payload = segment.payload[0] if segment.length else b""
            self.receive(segment.seq, segment.ack, segment.flags, segment.window, payload, segment.length, now)
        elif state is State.SYN_SENT:
            self._last_heard = now
            self._in_syn_sent(segment, now)
        elif state is State.LISTEN and segment.flags & RST:
            self._finish(Signal.RESET)

    def receive(
        self, seq: int, ack: int, flags: int, announced: int, payload: Buffer, length: int, now: float
    ) -> None:  # fmt: skip
        """The same by the fields of the segment, `announced` being its window, once both ends have sent a SYN."""
        self._last_heard = now
        self._probes = 0
        window = self.window
        nxt = window.nxt
        seq = nxt + ((seq - nxt + _HALF) & MASK) - _HALF
        if (
            seq == nxt
            and flags & ~PSH == ACK
            and self.state is State.ESTABLISHED
            and length <= window.edge - nxt
            and window.fin is None
        ):
            # Nearly every segment: the next one, with data or an acknowledgement and nothing else.
            if self._on_ack(ack, announced, length, False, seq, now) and length:
                self._take(payload, seq)
            return
        acceptable = window.accepts(seq, length, fin=bool(flags & FIN))
        if not acceptable:
            if flags & RST:
                return
            if self.state is State.SYN_RECEIVED and flags & SYN and seq == nxt - 1:
                self._resend = True
                return
            self._ack_now = True
            # An acknowledgement is good whatever carries it, such as a keep-alive or a duplicate.
            if seq < nxt - self.capacity or not flags & ACK:
                return
        elif flags & RST:
            if seq == nxt:
                self._finish(Signal.RESET)
            else:
                self._ack_now = True  # RFC 5961 section 3.2
            return
        elif flags & SYN:
            self._ack_now = True  # RFC 5961 section 4.2
            return
        if not flags & ACK or not self._on_ack(ack, announced, length, bool(flags & FIN), seq, now):
            return
        if not acceptable or self.state not in _RECEIVING:
            return
        if length:
            self._take(payload, seq)
        if flags & FIN:
            window.end_at(seq + length)
        if window.take_fin():
            self._on_fin(now)

    def _take(self, payload: Buffer, seq: int) -> None:
        window = self.window
        hurry = seq != window.nxt or window.gaps  # RFC 5681 section 4.2
        window.take(payload, seq)
        if hurry:
            self._ahead = self._ahead + 1 if window.gaps else 0
        if hurry or window.nxt - self._acknowledged >= _HURRY:
            self._ack_now = True
        else:
            self._ack_soon = True

    def _take_syn(self, syn: TcpSegment) -> None:
        self.mss = min(self._mss_offer, max(64, syn.mss if syn.mss is not None else DEFAULT_MSS))
        self.max_segment = max(self.mss, _MAX_SEGMENT // self.mss * self.mss)
        self._scaled = syn.scale is not None
        self._peer_scale = syn.scale or 0
        self.window.start(syn.seq + 1, scaled=self._scaled)
        self.snd_wnd = syn.window  # never scaled in a SYN (RFC 7323 section 2.2)
        self._wl1 = syn.seq

    def _in_syn_sent(self, segment: TcpSegment, now: float) -> None:
        flags = segment.flags
        good_ack = flags & ACK and self._syn_sent and _distance(segment.ack, self._iss) == 1
        if flags & ACK and not good_ack:
            if not flags & RST:
                self._rst = TcpSegment(segment.ack, 0, RST, 0)
            return
        if flags & RST:
            if good_ack:
                self._finish(Signal.REFUSED)
            return
        if not flags & SYN:
            return
        self._take_syn(segment)
        self.window.announce_at_once()  # as our SYN did
        if good_ack:
            self.snd_una = self._iss + 1
            self._wl2 = self.snd_una
            self._rto_at = None
            self._retries = 0
            self.state = State.ESTABLISHED
            self._ack_now = True
            self.signals.append(Signal.CONNECTED)
            if segment.length:
                self.window.take(segment.payload[0], self.window.nxt)
        else:
            self.state = State.SYN_RECEIVED  # simultaneous open
            self._resend = True

    def _on_ack(self, field: int, announced: int, length: int, fin: bool, seq: int, now: float) -> bool:
        """The acknowledgement `field`; False where the segment is to be dropped."""
        una = self.snd_una
        ack = una + ((field - una + _HALF) & MASK) - _HALF
        if self.state is State.SYN_RECEIVED:
            if not una < ack <= self.snd_max:
                self._rst = TcpSegment(field, 0, RST, 0)
                return False
            self.state = State.ESTABLISHED
            self.signals.append(Signal.CONNECTED)
        if ack > self.snd_max:
            self._ack_now = True
            return False
        window = announced << self._peer_scale if self._scaled else announced
        if ack > una:
            self._advance(ack, now)
        elif ack == una:
            if not window:
                self._retries = 0  # it lives, and asks us to wait
            if not length and window == self.snd_wnd and self.snd_max > una and not fin:
                self._duplicates += 1
                if self._duplicates == _DUPLICATES and self._recover is None:
                    self._recover = self.snd_max
                    self._resend = True
        else:
            return True
        if self._wl1 < seq or (self._wl1 == seq and self._wl2 <= ack):
            if window > self.snd_wnd:
                self._probe_at = None
            self.snd_wnd = window
            if window > self._max_window:
                self._max_window = window
            self._wl1 = seq
            self._wl2 = ack
        if self._fin_seq is not None and ack > self._fin_seq:
            self._on_fin_acknowledged(now)
        return True

    def _advance(self, ack: int, now: float) -> None:
        una = self.snd_una
        self.snd_una = ack
        if self.snd_nxt < ack:
            self.snd_nxt = ack
        buffer = self.buffer
        if buffer.start < buffer.end and ack > buffer.start:
            buffer.acknowledge(min(ack, buffer.end))
        self._retries = 0
        self._duplicates = 0
        self._rto.progress()
        if self._sampled is not None and ack >= self._sampled:
            self._rto.measured(max(now - self._sampled_at, 1e-6))
            self._sampled = None
        if self._recover is not None:
            if ack >= self._recover:
                self._recover = self._allowance = None
            elif self._allowance is None:
                self._resend = True
            else:
                self._allowance += ack - una
        self._rto_at = None
        if self.snd_max > ack:
            self._rto_at = due = now + self._rto.value
            if due < self._due:
                self._due = due

    def _on_fin(self, now: float) -> None:
        self._ack_soon = True
        if self.state is State.ESTABLISHED:
            self.state = State.CLOSE_WAIT
        elif self.state is State.FIN_WAIT_1:
            self.state = State.CLOSING
        elif self.state is State.FIN_WAIT_2:
            self._enter_time_wait(now)
        self.signals.append(Signal.PEER_CLOSED)

    def _on_fin_acknowledged(self, now: float) -> None:
        if self.state is State.FIN_WAIT_1:
            self.state = State.FIN_WAIT_2
        elif self.state is State.CLOSING:
            self._enter_time_wait(now)
        elif self.state is State.LAST_ACK:
            self._finish(Signal.CLOSED)
        elif self.state is State.TIME_WAIT:
            self._time_wait_at = now + TIME_WAIT_SECONDS

    def _enter_time_wait(self, now: float) -> None:
        self.state = State.TIME_WAIT
        self._rto_at = self._probe_at = None
        self._time_wait_at = due = now + TIME_WAIT_SECONDS
        if due < self._due:
            self._due = due

    def _finish(self, signal: Signal) -> None:
        self._enter_closed()
        self.signals.append(signal)

    def _enter_closed(self) -> None:
        self.state = State.CLOSED
        self._rto_at = self._probe_at = self._time_wait_at = None
        self._ack_now = self._ack_soon = self._resend = False
        self.buffer.clear()
        self.window.clear()
