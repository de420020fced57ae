"""Sockets that stay on this machine do not pace what they send."""

from __future__ import annotations

import socket

import pytest

from netns import pacing


class Pacer(socket.socket):
    """A socket of a host whose TCP paces, whatever this host's does; what it is set to is its own."""

    rule = b"bbr"

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:  # type: ignore[override]
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_CONGESTION)
        return self.rule.ljust(size, b"\0")


def rule(sock: socket.socket) -> bytes:
    return socket.socket.getsockopt(sock, socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.mark.parametrize("name", [b"bbr", b"bbr2"])
def test_what_paces_is_made_plain(name: bytes) -> None:
    with Pacer() as sock:
        sock.rule = name
        pacing.leave_out(sock)
        assert rule(sock) == b"reno"


def test_what_does_not_stays_as_it_is() -> None:
    with Pacer() as sock:
        before = rule(sock)
        sock.rule = b"cubic"
        pacing.leave_out(sock)
        assert rule(sock) == before


def test_a_new_socket_of_this_host() -> None:
    with socket.socket() as sock:
        pacing.leave_out(sock)
        assert not rule(sock).startswith(b"bbr")
