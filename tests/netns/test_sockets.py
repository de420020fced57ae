"""Sockets for the guest's traffic: room is made when descriptors run out."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterator

import pytest

from netns.sockets import Sockets


@pytest.fixture
def limit() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_room_is_made_before_and_when_descriptors_run_out(limit: int) -> None:
    held: list[socket.socket] = []
    freed: list[int] = []

    def make_room() -> bool:
        freed.append(held[0].fileno())
        held.pop(0).close()
        return True

    sockets = Sockets(None, None, make_room)
    for _ in range(limit):
        held.append(sockets.open(socket.AF_INET, socket.SOCK_DGRAM))
    assert max(sock.fileno() for sock in held) < limit - 25  # so that others find some
    assert freed
    for sock in held:
        sock.close()


def test_without_room_it_is_an_error(limit: int) -> None:
    sockets = Sockets(None, None, lambda: False)
    held: list[socket.socket] = []
    with pytest.raises(OSError) as caught:
        for _ in range(limit):
            held.append(sockets.open(socket.AF_INET, socket.SOCK_STREAM))
    assert caught.value.errno == errno.EMFILE
    for sock in held:
        sock.close()


def test_an_outbound_address_is_bound_and_one_that_is_not_ours_an_error() -> None:
    with Sockets("127.0.0.5", None, lambda: False).open(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert sock.getsockname()[0] == "127.0.0.5"
        assert not sock.getblocking()
    with pytest.raises(OSError):
        Sockets("203.0.113.77", None, lambda: False).open(socket.AF_INET, socket.SOCK_DGRAM)


def test_loopback_is_behind_no_interface() -> None:
    sockets = Sockets("nowhere", None, lambda: False)
    with pytest.raises(OSError) as caught:
        sockets.open(socket.AF_INET, socket.SOCK_STREAM, far="192.0.2.1")
    assert caught.value.errno == errno.ENODEV
    sockets.open(socket.AF_INET, socket.SOCK_STREAM, far="127.0.0.53").close()
    sockets.open(socket.AF_INET6, socket.SOCK_STREAM, far="2001:db8::1").close()
