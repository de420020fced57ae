"""Pacing, which a socket that stays on this machine is better without.

A host may make BBR its TCP's rule (tcp(7), tcp_congestion_control). That estimates a rate and spreads over time what is
sent, by timers: right on the Internet, and half of what a loopback can do. There is nothing to share the loopback with.
"""

from __future__ import annotations

import socket

_PACING = b"bbr"  # and its later versions
_PLAIN = b"reno"  # in every kernel, and always allowed
_NAME_SIZE = 16  # TCP_CA_NAME_MAX


def leave_out(sock: socket.socket) -> None:
    """Let `sock`, a TCP socket whose other end is on this machine, send without; nothing changes where it does."""
    if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_SIZE).startswith(_PACING):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _PLAIN)
