"""The states of a connection (RFC 9293 section 3.3.2), and what a connection tells its owner."""

from __future__ import annotations

from enum import IntEnum, auto


class State(IntEnum):
    """RFC 9293's names. LISTEN stands for a SYN that arrived and is not yet answered."""

    LISTEN = auto()
    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    ESTABLISHED = auto()
    FIN_WAIT_1 = auto()
    FIN_WAIT_2 = auto()
    CLOSE_WAIT = auto()
    CLOSING = auto()
    LAST_ACK = auto()
    TIME_WAIT = auto()
    CLOSED = auto()


class Signal(IntEnum):
    """Something happened to the connection; received bytes are handed over separately."""

    CONNECTED = auto()  # the handshake is complete
    PEER_CLOSED = auto()  # the peer's FIN: no more bytes will come
    REFUSED = auto()  # our SYN was answered by a RST
    RESET = auto()  # the peer's RST
    TIMED_OUT = auto()  # the peer does not answer
    CLOSED = auto()  # both directions are done
