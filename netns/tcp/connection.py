"""One TCP connection, sans I/O (RFC 9293).

Four doors: `on_segment(segment, now)`, `send(data)`, `poll(now)` and `deadline()`. Received bytes are in `received` and
changes of state in `signals` after a call of `on_segment` or `poll`; the owner takes them away. Nothing is emitted
except by `poll`, so that one call after a batch of segments acknowledges them together. Times are seconds of any
monotonic clock.

Sequence numbers are unwrapped at the door: inside they are ordinary integers that only grow, so they compare with < and
wrap with a mask on their way out.

A passive connection starts in LISTEN with the peer's SYN held: its owner first dials the far side, then calls
`accept()` or `refuse()`. An active one starts in SYN_SENT.

The other end is a kernel on the same machine, behind a device that moves 64 KiB at a time. So, on purpose:
- no congestion window (RFC 5681): the link has no queue to share; what is in flight is limited by the peer's window and
  by the send buffer. Loss is repaired after three duplicate ACKs, one segment for each partial acknowledgement
  (RFC 6582), or after a timeout by sending everything again, slowly at first (as RFC 5681's slow start).
- no Nagle, no delayed ACK timer: a segment or an ACK leaves with the batch it belongs to.
- no SACK, no timestamps, no urgent pointer (urgent data is delivered in line, RFC 6093).
- TIME-WAIT is short: nothing can linger in the link, and the host's own socket keeps the real one.
"""

from __future__ import annotations

from netns.tcp.receive_window import UNSCALED_LIMIT, ReceiveWindow
from netns.tcp.send_buffer import SendBuffer
from netns.tcp.state import Signal, State
from netns.tcp.timeout import RetransmissionTimeout
from netns.wire.error import Buffer
from netns.wire.tcp import ACK, FIN, PSH, RST, SYN, TcpSegment

_MASK = 0xFFFFFFFF
_HALF = 0x80000000

DEFAULT_MSS = 536  # RFC 9293 section 3.7.1
_SCALE = 7  # windows up to 8 MiB in steps of 128 bytes
TIME_WAIT_SECONDS = 1.0
_MAX_RETRIES = 10
_MAX_SYN_RETRIES = 5
_KEEPALIVE_IDLE = 7200.0  # RFC 9293 section 3.8.4
_KEEPALIVE_INTERVAL = 75.0
_KEEPALIVE_PROBES = 9
_DUPLICATES = 3
_MAX_SEGMENT = 65535 - 40  # bytes of payload in one segment, which the kernel cuts where the MSS is smaller

_SENDING = frozenset({State.ESTABLISHED, State.CLOSE_WAIT, State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK})
_RECEIVING = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})


def _distance(number: int, reference: int) -> int:
    """How far the 32-bit `number` is ahead (or, negative, behind) of the unwrapped `reference`."""
    return ((number - reference + _HALF) & _MASK) - _HALF


class Connection:
    """One end of a connection. `mss` is what this end announces; `capacity` bounds each direction's buffer in bytes."""

    __slots__ = (
        "_ack_now", "_allowance", "_duplicates", "_fin_queued", "_fin_seq", "_iss", "_last_heard",
        "_max_window", "_mss_offer", "_peer_scale", "_probe_at", "_probed_at", "_probes", "_recover",
        "_resend", "_retries", "_rst", "_rto", "_rto_at", "_sampled", "_sampled_at", "_scaled", "_syn_sent",
        "_time_wait_at", "_wl1", "_wl2", "buffer", "capacity", "max_segment", "mss", "signals", "snd_max",
        "snd_nxt", "snd_una", "snd_wnd", "state", "window",
    )  # fmt: skip

    def __init__(self, *, iss: int, mss: int, capacity: int) -> None:
        self.state = State.CLOSED
        self.capacity = capacity
        self.mss = self.max_segment = DEFAULT_MSS  # the peer's, and the most that is sent in one segment
        self.signals: list[Signal] = []
        self._mss_offer = mss
        self._iss = iss
        self.snd_una = self.snd_nxt = self.snd_max = iss
        self.snd_wnd = 0
        self._max_window = 0
        self._wl1 = self._wl2 = 0
        self.window = ReceiveWindow(capacity, mss)
        self.buffer = SendBuffer(iss + 1)
        self._fin_queued = False
        self._fin_seq: int | None = None  # where ours does, once sent
        self._syn_sent = False
        self._scaled = False
        self._peer_scale = 0
        self._ack_now = False
        self._resend = False
        self._rst: TcpSegment | None = None
        self._rto = RetransmissionTimeout()
        self._rto_at: float | None = None
        self._probe_at: float | None = None
        self._time_wait_at: float | None = None
        self._retries = 0
        self._probes = 0
        self._duplicates = 0
        self._recover: int | None = None
        self._allowance: int | None = None  # bytes in flight, while everything is sent again after a timeout
        self._sampled: int | None = None
        self._sampled_at = 0.0
        self._last_heard = 0.0
        self._probed_at = 0.0

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
            self._rst = TcpSegment(0, self.window.nxt & _MASK, RST | ACK, 0)
        elif self.state is not State.SYN_SENT or self._syn_sent:
            self._rst = TcpSegment(self.snd_max & _MASK, self.window.nxt & _MASK, RST | ACK, 0)
        self._enter_closed()

    def drop(self) -> None:
        """Forget the connection without a word to the peer, which may ask again. Signals TIMED_OUT."""
        self._finish(Signal.TIMED_OUT)

    def send_room(self) -> int:
        """How many bytes `send` takes now."""
        return max(0, self.capacity - len(self.buffer))

    def send(self, data: bytes) -> None:
        """Queue `data`; the owner keeps to `send_room()`."""
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
            self._ack_now = True

    # What the peer sends

    def on_segment(self, segment: TcpSegment, now: float) -> None:
        """RFC 9293 section 3.10.7."""
        self._last_heard = now
        self._probes = 0
        state = self.state
        if state is State.LISTEN:
            if segment.flags & RST:
                self._finish(Signal.RESET)
            return
        if state is State.SYN_SENT:
            self._in_syn_sent(segment, now)
            return
        if state is State.CLOSED:
            return
        flags = segment.flags
        window = self.window
        seq = window.nxt + _distance(segment.seq, window.nxt)
        acceptable = window.accepts(seq, segment.length, fin=bool(flags & FIN))
        if not acceptable:
            if flags & RST:
                return
            if state is State.SYN_RECEIVED and flags & SYN and seq == window.nxt - 1:
                self._resend = True
                return
            self._ack_now = True
            # An acknowledgement is good whatever carries it, such as a keep-alive or a duplicate.
            if seq < window.nxt - self.capacity or not flags & ACK:
                return
        elif flags & RST:
            if seq == window.nxt:
                self._finish(Signal.RESET)
            else:
                self._ack_now = True  # RFC 5961 section 3.2
            return
        elif flags & SYN:
            self._ack_now = True  # RFC 5961 section 4.2
            return
        if not flags & ACK or not self._on_ack(segment, seq, now):
            return
        if not acceptable:
            return
        if self.state not in _RECEIVING:
            return
        if segment.length:
            window.take(segment.payload[0], seq)
            self._ack_now = True
        if flags & FIN:
            window.end_at(seq + segment.length)
        if window.take_fin():
            self._on_fin(now)

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

    def _on_ack(self, segment: TcpSegment, seq: int, now: float) -> bool:
        """The acknowledgement field; False where the segment is to be dropped."""
        una = self.snd_una
        ack = una + _distance(segment.ack, una)
        if self.state is State.SYN_RECEIVED:
            if not una < ack <= self.snd_max:
                self._rst = TcpSegment(segment.ack, 0, RST, 0)
                return False
            self.state = State.ESTABLISHED
            self.signals.append(Signal.CONNECTED)
        if ack > self.snd_max:
            self._ack_now = True
            return False
        window = segment.window << self._peer_scale if self._scaled else segment.window
        if ack > una:
            self._advance(ack, now)
        elif ack == una:
            if not window:
                self._retries = 0  # it lives, and asks us to wait
            if not segment.length and window == self.snd_wnd and self.snd_max > una and not segment.flags & FIN:
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
        if len(self.buffer) and ack > self.buffer.start:
            self.buffer.acknowledge(min(ack, self.buffer.end))
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
        self._rto_at = now + self._rto.value if self.snd_max > ack else None

    def _on_fin(self, now: float) -> None:
        self._ack_now = True
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
        self._time_wait_at = now + TIME_WAIT_SECONDS

    def _finish(self, signal: Signal) -> None:
        self._enter_closed()
        self.signals.append(signal)

    def _enter_closed(self) -> None:
        self.state = State.CLOSED
        self._rto_at = self._probe_at = self._time_wait_at = None
        self._ack_now = self._resend = False
        self.buffer.clear()
        self.window.clear()

    # What is to be sent

    def poll(self, now: float) -> list[TcpSegment]:
        """Everything to be sent at `now`; timers that have run out are acted upon."""
        result: list[TcpSegment] = []
        if self._rst is not None:
            result.append(self._rst)
            self._rst = None
        state = self.state
        if state is State.CLOSED or state is State.LISTEN:
            return result
        self._run_timers(now, result)
        state = self.state
        if state is State.SYN_SENT or state is State.SYN_RECEIVED:
            self._emit_syn(now, result)
        elif state in _SENDING:
            self._emit_data(now, result)
        if self._ack_now and self.state is not State.CLOSED:
            result.append(self._segment(self.snd_nxt, ACK, [], 0))
        return result

    def _run_timers(self, now: float, result: list[TcpSegment]) -> None:
        if self._time_wait_at is not None and now >= self._time_wait_at:
            self._finish(Signal.CLOSED)
        elif self._rto_at is not None and now >= self._rto_at:
            self._retries += 1
            handshake = self.state in (State.SYN_SENT, State.SYN_RECEIVED)
            if self._retries > (_MAX_SYN_RETRIES if handshake else _MAX_RETRIES):
                self._give_up(result)
                return
            self._rto.back_off()
            self._sampled = None
            self._resend = True
            self._recover = self.snd_max
            self._allowance = self.max_segment
            self.snd_nxt = self.snd_una
            self._duplicates = 0
            self._rto_at = now + self._rto.value
        elif self._probe_at is not None and now >= self._probe_at:
            # A segment before the window must be acknowledged, with the window as it is now.
            self._rto.back_off()
            self._probe_at = now + self._rto.value
            result.append(self._segment(self.snd_una - 1, ACK, [], 0))
        elif now >= self._keepalive_at():
            if self._probes >= _KEEPALIVE_PROBES:
                self._give_up(result)
                return
            self._probes += 1
            self._probed_at = now
            result.append(self._segment(self.snd_una - 1, ACK, [], 0))

    def _give_up(self, result: list[TcpSegment]) -> None:
        if self._syn_sent:
            result.append(TcpSegment(self.snd_max & _MASK, self.window.nxt & _MASK, RST | ACK, 0))
        self._finish(Signal.TIMED_OUT)

    def _emit_syn(self, now: float, result: list[TcpSegment]) -> None:
        if self._syn_sent and not self._resend:
            return
        active = self.state is State.SYN_SENT
        window = min(self.capacity, UNSCALED_LIMIT) if active else self.window.announce_at_once()
        result.append(
            TcpSegment(
                self._iss & _MASK,
                0 if active else self.window.nxt & _MASK,
                SYN if active else SYN | ACK,
                window,
                mss=self._mss_offer,
                scale=_SCALE if self._scaled else None,
            )
        )
        if not self._syn_sent:
            self._sampled, self._sampled_at = self._iss + 1, now
            self._rto_at = now + self._rto.value
        self._syn_sent = True
        self._resend = False
        self._ack_now = False
        self.snd_nxt = self.snd_max = self._iss + 1

    def _emit_data(self, now: float, result: list[TcpSegment]) -> None:
        buffer = self.buffer
        end = buffer.end
        if self._resend:
            self._resend = False
            if self.snd_max > self.snd_una:
                self._sampled = None
                length = min(self.mss, end - self.snd_una)
                # Never more than was sent before: new data goes the ordinary way, inside the window.
                length = max(0, min(length, self.snd_max - self.snd_una))
                self._emit(self.snd_una, length, result, now)
        window = self.snd_wnd if self._allowance is None else min(self.snd_wnd, self._allowance)
        edge = self.snd_una + window
        while (nxt := self.snd_nxt) < end:
            length = min(end - nxt, edge - nxt, self.max_segment)
            if length <= 0:
                if self.snd_max == self.snd_una and self._probe_at is None:
                    self._probe_at = now + self._rto.value
                break
            if length < end - nxt and length < min(self.mss, self._max_window // 2) and nxt > self.snd_una:
                break  # RFC 9293 section 3.8.6.2.1: the ACK of what is in flight brings a window worth filling
            self._emit(nxt, length, result, now)
        if self._fin_queued and self.snd_nxt == end:
            self._emit(end, 0, result, now)

    def _emit(self, seq: int, length: int, result: list[TcpSegment], now: float) -> None:
        """Emit `length` bytes from `seq`, and the FIN where they end the stream."""
        after = seq + length
        flags = ACK | PSH if after == self.buffer.end and length else ACK
        payload = self.buffer.gather(seq, length) if length else []
        if self._fin_queued and after == self.buffer.end:
            flags |= FIN
            if self._fin_seq is None:
                self._fin_seq = after
                self.state = State.FIN_WAIT_1 if self.state is State.ESTABLISHED else State.LAST_ACK
            after += 1
        result.append(self._segment(seq, flags, payload, length))
        if after > self.snd_max:
            if self._sampled is None:
                self._sampled, self._sampled_at = after, now
            self.snd_max = after
        if after > self.snd_nxt:
            self.snd_nxt = after
        self._probe_at = None
        if self._rto_at is None:
            self._rto_at = now + self._rto.value

    def _segment(self, seq: int, flags: int, payload: list[Buffer], length: int) -> TcpSegment:
        window = self.window.announce()
        window = min(UNSCALED_LIMIT, window >> _SCALE if self._scaled else window)
        self._ack_now = False
        return TcpSegment(seq & _MASK, self.window.nxt & _MASK, flags, window, payload, length)

    def _keepalive_at(self) -> float:
        return self._probed_at + _KEEPALIVE_INTERVAL if self._probes else self._last_heard + _KEEPALIVE_IDLE

    def deadline(self) -> float | None:
        """When `poll` must be called next if nothing else happens."""
        if self.state is State.CLOSED or self.state is State.LISTEN:
            return None
        if self._time_wait_at is not None:
            return self._time_wait_at
        if self._rto_at is not None:
            return self._rto_at
        if self._probe_at is not None:
            return self._probe_at
        return self._keepalive_at()
