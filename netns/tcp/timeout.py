"""The retransmission timeout (RFC 6298)."""

from __future__ import annotations

_MINIMUM = 0.2  # seconds; RFC 6298 asks for 1 s, Linux uses this, and the link is a memory copy
_MAXIMUM = 60.0
_INITIAL = 1.0


class RetransmissionTimeout:
    """Smoothed round-trip time and its variation; `value` is the timeout in seconds, back-off included."""

    __slots__ = ("_base", "_smoothed", "_variation", "value")

    def __init__(self) -> None:
        self._smoothed = 0.0
        self._variation = 0.0
        self._base = _INITIAL
        self.value = _INITIAL

    def measured(self, rtt: float) -> None:
        """A segment that was sent once was acknowledged after `rtt` seconds."""
        if not self._smoothed:
            self._smoothed = rtt
            self._variation = rtt / 2
        else:
            self._variation += (abs(self._smoothed - rtt) - self._variation) / 4
            self._smoothed += (rtt - self._smoothed) / 8
        base = self._smoothed + 4 * self._variation
        self._base = self.value = _MINIMUM if base < _MINIMUM else min(base, _MAXIMUM)

    def back_off(self) -> None:
        """The timer expired: wait twice as long for the next."""
        self.value = min(_MAXIMUM, self.value * 2)

    def progress(self) -> None:
        """New data was acknowledged: the back-off ends."""
        self.value = self._base
