"""The same playbooks for our TCP and for the kernel's, in the way of packetdrill: both must say the same (RFC 9293).

The kernel's end is a listening socket behind a TAP of the test's, in a network namespace; segments are written to and
read from the device. Options, windows and when something is sent again are each side's own business and not compared.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Protocol

import pytest

from netns import netlink
from netns.wire.error import WireError
from netns.wire.ethernet import ETHERTYPE_IPV4
from netns.wire.ipv4 import PROTOCOL_TCP, Ipv4Packet
from netns.wire.tcp import TcpSegment
from tests.kit.userns import Clone, in_namespaces
from tests.netns.tcp_language import _LETTERS, IRS, ISS, MASK, MSS, Dialogue, text

pytestmark = [pytest.mark.userns, pytest.mark.tun]

OURS, THEIRS = socket.inet_aton("198.51.100.1"), socket.inet_aton("198.51.100.2")
PORT, THEIR_PORT = 80, 4000
PATIENCE = 20.0
SILENCE = 0.05  # seconds in which the kernel would have answered: it does so before write(2) returns
HEADER = 14


class End(Protocol):
    """One implementation, with an established connection; numbers are relative to each side's start."""

    def receive(self, flags: str, *, seq: int, ack: int = 0, data: bytes = b"") -> None: ...
    def expect(self, *segments: str) -> object: ...
    def send(self, data: bytes) -> None: ...
    def shut(self) -> None: ...


class Ours(Dialogue):
    def send(self, data: bytes) -> None:
        self.connection.send(data)

    def shut(self) -> None:
        self.connection.close()


class Kernels:
    def __init__(self) -> None:
        for name in ("tcp_invalid_ratelimit", "tcp_timestamps", "tcp_sack"):
            with open(f"/proc/sys/net/ipv4/{name}", "w") as file:
                file.write("0")
        self._tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self._tap, 0x400454CA, struct.pack("16sH22x", b"tap0", 0x1002))  # TUNSETIFF, TAP without a header
        index = socket.if_nametoindex("tap0")
        with open("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "w") as file:
            file.write("1")
        netlink.configure([netlink.add_address(index, OURS, 24), netlink.link_up(index)], [])
        self._mac = fcntl.ioctl(self._tap, 0x8927, bytes(40))[18:24]  # SIOCGIFHWADDR
        self._listener = socket.create_server(("198.51.100.1", PORT))
        self._iss = 0
        self.receive("S", seq=0)
        self.expect("SA 0 ack 1")
        self.receive("A", seq=1, ack=1)
        self._sock = self._listener.accept()[0]
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self, flags: str, *, seq: int, ack: int = 0, data: bytes = b"") -> None:
        bits = sum(_LETTERS[letter] for letter in flags)
        if "S" not in flags:
            self._sock_option()
        segment = TcpSegment(
            seq + IRS & MASK, ack + self._iss & MASK, bits, 65535, [data] if data else [], len(data),
            MSS if "S" in flags else None, None, THEIR_PORT, PORT,
        )  # fmt: skip
        packet = Ipv4Packet(THEIRS, OURS, PROTOCOL_TCP, segment.to_bytes(THEIRS, OURS)).to_bytes()
        os.write(self._tap, self._mac + b"\2" * 6 + ETHERTYPE_IPV4.to_bytes(2, "big") + packet)

    def _sock_option(self) -> None:
        sock = getattr(self, "_sock", None)
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def expect(self, *segments: str) -> None:
        said = []
        while select.select([self._tap], [], [], PATIENCE if len(said) < len(segments) else SILENCE)[0]:
            segment = self._segment(os.read(self._tap, 65536))
            if segment is not None:
                if segments == ("SA 0 ack 1",):
                    self._iss = segment.seq
                segment.seq = segment.seq - self._iss + ISS & MASK
                said.append(text(segment))
        assert said == list(segments)

    def _segment(self, frame: bytes) -> TcpSegment | None:
        """The TCP segment in a frame; questions for our hardware address are answered."""
        if frame[12:14] == b"\x08\x06":
            answer = b"\0\1\x08\0\6\4\0\2" + b"\2" * 6 + THEIRS + self._mac + OURS
            os.write(self._tap, self._mac + b"\2" * 6 + b"\x08\x06" + answer)
            return None
        try:
            packet = Ipv4Packet.parse(memoryview(frame)[HEADER:])
            return TcpSegment.parse(packet.payload) if packet.protocol == PROTOCOL_TCP else None
        except WireError:
            return None

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def shut(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)


def data_in_order(end: End) -> None:
    end.receive("A", seq=1, ack=1, data=b"abc")
    end.expect("A 1 ack 4")
    end.receive("PA", seq=4, ack=1, data=b"def")
    end.expect("A 1 ack 7")


def data_out_of_order(end: End) -> None:
    end.receive("A", seq=4, ack=1, data=b"def")
    end.expect("A 1 ack 1")
    end.receive("A", seq=1, ack=1, data=b"abc")
    end.expect("A 1 ack 7")


def data_that_overlaps(end: End) -> None:
    end.receive("A", seq=1, ack=1, data=b"abc")
    end.expect("A 1 ack 4")
    end.receive("A", seq=2, ack=1, data=b"bcdef")
    end.expect("A 1 ack 7")


def old_data(end: End) -> None:
    end.receive("A", seq=1, ack=1, data=b"abc")
    end.expect("A 1 ack 4")
    end.receive("A", seq=1, ack=1, data=b"abc")
    end.expect("A 1 ack 4")


def data_of_ours(end: End) -> None:
    end.send(b"xyz")
    end.expect("A 1:4 ack 1")
    end.receive("A", seq=1, ack=4)
    end.expect()


def their_end_first(end: End) -> None:
    end.receive("FA", seq=1, ack=1)
    end.expect("A 1 ack 2")
    end.send(b"late")
    end.expect("A 1:5 ack 2")
    end.receive("A", seq=2, ack=5)
    end.shut()
    end.expect("FA 5 ack 2")
    end.receive("A", seq=2, ack=6)
    end.expect()


def our_end_first(end: End) -> None:
    end.shut()
    end.expect("FA 1 ack 1")
    end.receive("A", seq=1, ack=2)
    end.expect()
    end.receive("A", seq=1, ack=2, data=b"abc")
    end.expect("A 2 ack 4")
    end.receive("FA", seq=4, ack=2)
    end.expect("A 2 ack 5")
    end.receive("FA", seq=4, ack=2)  # the acknowledgement was lost: TIME-WAIT repeats it
    end.expect("A 2 ack 5")


def both_ends_at_once(end: End) -> None:
    end.shut()
    end.expect("FA 1 ack 1")
    end.receive("FA", seq=1, ack=1)
    end.expect("A 2 ack 2")
    end.receive("A", seq=2, ack=2)
    end.expect()


def data_with_the_end(end: End) -> None:
    end.receive("FA", seq=1, ack=1, data=b"last")
    end.expect("A 1 ack 6")
    end.receive("FA", seq=1, ack=1, data=b"last")
    end.expect("A 1 ack 6")


def an_end_before_its_turn(end: End) -> None:
    end.receive("FA", seq=4, ack=1, data=b"def")
    end.expect("A 1 ack 1")
    end.receive("A", seq=1, ack=1, data=b"abc")
    end.expect("A 1 ack 8")


def a_reset_that_is_only_near(end: End) -> None:
    end.receive("R", seq=2)
    end.expect("A 1 ack 1")
    end.receive("R", seq=1)
    end.expect()
    end.expect()


def a_reset_from_elsewhere(end: End) -> None:
    end.receive("R", seq=-5)
    end.receive("R", seq=1 << 20)
    end.expect()
    end.receive("A", seq=1, ack=1, data=b"abc")
    end.expect("A 1 ack 4")


def a_syn_in_the_middle(end: End) -> None:
    end.receive("S", seq=1)
    end.expect("A 1 ack 1")
    end.receive("S", seq=9)
    end.expect("A 1 ack 1")


def an_acknowledgement_of_nothing_sent(end: End) -> None:
    end.receive("A", seq=1, ack=9)
    end.expect("A 1 ack 1")


def nothing_acknowledged(end: End) -> None:
    end.receive("P", seq=1, data=b"abc")
    end.expect()


def three_duplicates(end: End) -> None:
    """RFC 5681 section 3.2: the third is answered with what is missing and nothing else."""
    end.send(bytes(4 * MSS))
    end.expect(*(f"A {1 + piece * MSS}:{1 + (piece + 1) * MSS} ack 1" for piece in range(4)))
    end.receive("A", seq=1, ack=1)
    end.receive("A", seq=1, ack=1)
    end.expect()
    end.receive("A", seq=1, ack=1)
    end.expect(f"A 1:{1 + MSS} ack 1")
    end.receive("A", seq=1, ack=1 + MSS)  # a partial acknowledgement: there is another hole (RFC 6582 section 3.2)
    end.expect(f"A {1 + MSS}:{1 + 2 * MSS} ack 1")
    end.receive("A", seq=1, ack=1 + 4 * MSS)
    end.expect()


PLAYBOOKS = (
    data_in_order, data_out_of_order, data_that_overlaps, old_data, data_of_ours, their_end_first, our_end_first,
    both_ends_at_once, data_with_the_end, an_end_before_its_turn, a_reset_that_is_only_near, a_reset_from_elsewhere,
    a_syn_in_the_middle, three_duplicates, an_acknowledgement_of_nothing_sent, nothing_acknowledged,
)  # fmt: skip


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_ours(playbook: Callable[[End], None]) -> None:
    test = Ours.established()
    assert isinstance(test, Ours)
    test.connection.max_segment = MSS  # no device cuts them here
    playbook(test)


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_the_kernels(playbook: Callable[[End], None]) -> None:
    in_namespaces(lambda: playbook(Kernels()), extra=Clone.NEWNET)
