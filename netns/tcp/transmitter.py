"""The sending half of a connection: SYN, data, FIN, acknowledgements and timers (RFC 9293 section 3.8, RFC 6298).

`poll` is the one place where segments come from. What the receiving half finds out is in the variables SND.* of
RFC 9293 (`snd_una`, `snd_wnd`) and in flags: `_ack_now` (this poll acknowledges), `_ack_soon` (one of the next does,
alone or with data), `_resend` (what is oldest goes again).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from netns.tcp.receive_window import UNSCALED_LIMIT, ReceiveWindow
from netns.tcp.send_buffer import SendBuffer
from netns.tcp.state import Signal, State
from netns.tcp.timeout import RetransmissionTimeout
from netns.wire.error import Buffer
from netns.wire.tcp import ACK, FIN, PSH, RST, SYN, TcpSegment

MASK = 0xFFFFFFFF
DEFAULT_MSS = 536  # RFC 9293 section 3.7.1
_SCALE = 7  # windows up to 8 MiB in steps of 128 bytes
_MAX_RETRIES = 10
_MAX_SYN_RETRIES = 5
_ENOUGH_DUPLICATES = 3
_KEEPALIVE_IDLE = 7200.0  # RFC 9293 section 3.8.4
_KEEPALIVE_INTERVAL = 75.0
_KEEPALIVE_PROBES = 9

_SENDING = frozenset({State.ESTABLISHED, State.CLOSE_WAIT, State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK})
_SYNCHRONIZED = _SENDING | {State.FIN_WAIT_2, State.TIME_WAIT}


class Transmitter(ABC):
    """What is sent, and when. `mss` is what this end announces; `capacity` bounds each direction's buffer in bytes."""

    __slots__ = (
        "_ack_now", "_ack_soon", "_acknowledged", "_ahead", "_allowance", "_due", "_duplicates", "_fin_queued",
        "_fin_seq", "_iss", "_last_heard", "_max_window", "_mss_offer", "_probe_at", "_probed_at", "_probes",
        "_recover", "_resend", "_retries", "_rst", "_rto", "_rto_at", "_sampled", "_sampled_at", "_scaled",
        "_syn_sent", "_time_wait_at", "buffer", "capacity", "max_segment", "mss", "snd_max", "snd_nxt", "snd_una",
        "snd_wnd", "state", "window",
    )  # fmt: skip

    def __init__(self, *, iss: int, mss: int, capacity: int) -> None:
        self.state = State.CLOSED
        self.capacity = capacity
        self.mss = self.max_segment = DEFAULT_MSS  # the peer's, and the most that is sent in one segment
        self.snd_una = self.snd_nxt = self.snd_max = iss
        self.snd_wnd = 0
        self.window = ReceiveWindow(capacity, mss)
        self.buffer = SendBuffer(iss + 1)
        self._mss_offer = mss
        self._iss = iss
        self._max_window = 0
        self._fin_queued = False
        self._fin_seq: int | None = None  # where ours does, once sent
        self._syn_sent = False
        self._scaled = False
        self._ack_now = False
        self._ack_soon = False
        self._acknowledged = 0  # the peer's bytes before this one, by us
        self._ahead = 0  # segments that came ahead of their turn, since the last poll
        self._resend = False
        self._rst: TcpSegment | None = None
        self._rto = RetransmissionTimeout()
        self._rto_at: float | None = None
        self._probe_at: float | None = None
        self._time_wait_at: float | None = None
        self._due = 0.0  # no timer runs out before
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
    def owes_ack(self) -> bool:
        """Whether something is still to be acknowledged, now that `poll` has held an acknowledgement back."""
        return self._ack_soon

    def is_quiet(self, now: float) -> bool:
        """Whether `poll`, holding acknowledgements, would have nothing to do. Costs a fraction of it."""
        return (
            now < self._due
            and self.snd_nxt >= self.buffer.end + self._fin_queued
            and not (self._ack_now or self._resend or self._rst is not None)
            and self.state in _SYNCHRONIZED
        )

    def acknowledge(self) -> None:
        """Let the next `poll` say what was held back."""
        self._ack_now |= self._ack_soon

    @abstractmethod
    def _finish(self, signal: Signal) -> None:
        """The connection is over, for the reason `signal`."""

    # What is to be sent

    def poll(self, now: float, *, hold_ack: bool = False) -> list[TcpSegment]:
        """Everything to be sent at `now`; timers that have run out are acted upon.

        With `hold_ack`, an acknowledgement that nobody is in a hurry for waits for data that carries it, or for the
        owner to call `acknowledge` and this again, within 0.5 s (RFC 9293 section 3.8.6.3).
        """
        result: list[TcpSegment] = []
        if self._rst is not None:
            result.append(self._rst)
            self._rst = None
        state = self.state
        if state is State.CLOSED or state is State.LISTEN:
            return result
        if now >= self._due:
            self._run_timers(now, result)
            state = self.state
        if state is State.SYN_SENT or state is State.SYN_RECEIVED:
            self._emit_syn(now, result)
        elif state in _SENDING and (self._fin_queued or self._resend or self.snd_nxt < self.buffer.end):
            self._emit_data(now, result)
        if (self._ack_now or (self._ack_soon and not hold_ack)) and self.state is not State.CLOSED:
            result.append(self._segment(self.snd_nxt, ACK, [], 0))
            # One for each segment that came ahead of its turn (RFC 5681 section 4.2): three make the peer repair the
            # loss at once, and a batch may be all there is to say them for.
            result += result[-1:] * (min(self._ahead, _ENOUGH_DUPLICATES) - 1)
        self._ahead = 0
        due = self.deadline()
        self._due = due if due is not None else now
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
            result.append(TcpSegment(self.snd_max & MASK, self.window.nxt & MASK, RST | ACK, 0))
        self._finish(Signal.TIMED_OUT)

    def _emit_syn(self, now: float, result: list[TcpSegment]) -> None:
        if self._syn_sent and not self._resend:
            return
        active = self.state is State.SYN_SENT
        window = min(self.capacity, UNSCALED_LIMIT) if active else self.window.announce_at_once()
        result.append(
            TcpSegment(
                self._iss & MASK,
                0 if active else self.window.nxt & MASK,
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
        self._acknowledged = self.window.nxt
        self._resend = self._ack_now = self._ack_soon = False
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
        self._ack_now = self._ack_soon = False
        self._acknowledged = self.window.nxt
        return TcpSegment(seq & MASK, self._acknowledged & MASK, flags, window, payload, length)

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
