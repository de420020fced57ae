"""What a kernel says in a socket's queue of errors."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns import errorqueue, netlink
from tests.kit.userns import Clone, in_namespaces


def test_parse() -> None:
    from_network = struct.pack("=IBBBBII", errno.EHOSTUNREACH, 2, 11, 0, 0, 7, 0)
    address = struct.pack("=HH4s8x", socket.AF_INET, 0, bytes((192, 0, 2, 1)))
    error = errorqueue.parse(from_network + address, b"quoted")
    assert error is not None and error.from_network and error.offender_name == "192.0.2.1"
    assert (error.errno, error.kind, error.code, error.info, error.payload) == (errno.EHOSTUNREACH, 11, 0, 7, b"quoted")
    own = struct.pack("=IBBBBII", errno.EMSGSIZE, 1, 0, 0, 0, 1400, 0)
    error = errorqueue.parse(own + bytes(16), b"")
    assert error is not None and not error.from_network and (error.info, error.offender) == (1400, None)
    assert error.offender_name is None


@given(st.binary(max_size=60))
def test_nothing_raises(data: bytes) -> None:
    error = errorqueue.parse(data, b"")
    assert (error is None) == (len(data) < 16)


@pytest.mark.userns
@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_a_refusal_is_queued_and_no_longer_pending_once_it_is_read(loopback: str) -> None:
    def work() -> None:
        netlink.configure([netlink.link_up(1)], [])
        with socket.socket(socket.AF_INET6 if ":" in loopback else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            errorqueue.enable(sock)
            assert errorqueue.drain(sock) == []
            sock.connect((loopback, 9))
            sock.send(b"question")
            (error,) = errorqueue.drain(sock)
            assert error.from_network and error.errno == errno.ECONNREFUSED and error.payload == b"question"
            assert error.offender_name == loopback
            sock.send(b"again")  # would raise what is pending

            errorqueue.drain(sock)
            errorqueue.set_hop_limit(sock, 7)
            errorqueue.set_hop_limit(sock, -1)
            errorqueue.forbid_fragments(sock, True)
            subprocess.run(["ip", "link", "set", "lo", "mtu", "1400"], check=True)
            with pytest.raises(OSError, match="too long"):
                sock.send(bytes(1400))
            assert [(error.from_network, error.info) for error in errorqueue.drain(sock)] == [(False, 1400)]
            errorqueue.forbid_fragments(sock, False)
            sock.send(bytes(1400))

    in_namespaces(work, extra=Clone.NEWNET)
