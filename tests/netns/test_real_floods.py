"""A guest that floods its network keeps another flow from nothing but time; afterwards nothing is left of it."""

from __future__ import annotations

import errno
import itertools
import os
import random
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from netns.wire.arp import REQUEST, ArpPacket
from netns.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetFrame
from netns.wire.icmp import ECHO_REQUEST, IcmpMessage
from netns.wire.icmpv6 import NEIGHBOUR_SOLICITATION, Icmpv6Message
from netns.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Ipv4Packet
from netns.wire.ipv6 import NEXT_ICMPV6, NEXT_UDP, Ipv6Packet
from netns.wire.tcp import SYN, TcpSegment
from netns.wire.udp import UdpDatagram
from tests.netns.hostile import GATEWAY, GATEWAY6, GUEST, GUEST6, MAC
from tests.netns.network import GATEWAY as GATEWAY_NAME
from tests.netns.network import HOST, PATIENCE, Network, connect, on_a_host, serve_tcp

pytestmark = [pytest.mark.userns, pytest.mark.tun, pytest.mark.slow]

AT_LEAST = 5000  # frames of each flood
BURST, PAUSE = 16, 0.005
FEW = 20  # descriptors more than before: they are watched for less than they are made for
MEMORY = 48 << 20  # bytes that a network may have grown by
TURNS = 60
BLACK_HOLE = "198.51.100.9"
HARDWARE = b"\x02\0\0\0\0\1"

Frames = Iterator[bytes]


def ethernet(kind: int, payload: bytes) -> bytes:
    return EthernetFrame(MAC, HARDWARE, kind, payload).to_bytes()


def syns(far: str) -> Frames:
    """From every port to every port."""
    target = socket.inet_aton(far)
    for number in itertools.count():
        segment = TcpSegment(number & 0xFFFFFFFF, 0, SYN, 65535, mss=1460)
        segment.source_port, segment.destination_port = 1024 + number % 50000, 1 + number % 7919
        packet = Ipv4Packet(GUEST, target, PROTOCOL_TCP, segment.to_bytes(GUEST, target))
        yield ethernet(ETHERTYPE_IPV4, packet.to_bytes())


def datagrams(far: str) -> Frames:
    """To one port after the other."""
    target = socket.inet_aton(far)
    for number in itertools.count():
        body = UdpDatagram(5000, 1 + number % 65535, b"flood").to_bytes(GUEST, target)
        yield ethernet(ETHERTYPE_IPV4, Ipv4Packet(GUEST, target, PROTOCOL_UDP, body).to_bytes())


def fragments() -> Frames:
    """Of packets that never become whole: first ones, last ones, and ones that overlap."""
    chance = random.Random(0)
    body = bytes(1400)
    for number in itertools.count():
        place, more = chance.choice(((0, True), (1400, True), (64000, False), (704, True)))
        name = number if number % 3 else number % 5
        packet = Ipv4Packet(GUEST, socket.inet_aton(HOST), PROTOCOL_UDP, body, 64, name & 0xFFFF, False, more, place)
        yield ethernet(ETHERTYPE_IPV4, packet.to_bytes())


def neighbours() -> Frames:
    """Who has the gateway, who has anybody, over and over."""
    group = b"\xff\x02" + bytes(9) + b"\1\xff\0\0\2"
    solicitation = Icmpv6Message(NEIGHBOUR_SOLICITATION, 0, 0, 0, GATEWAY6).to_bytes(GUEST6, group)
    for number in itertools.count():
        target = GATEWAY if number % 2 else bytes((10, 0, 2, number % 256))
        yield ethernet(ETHERTYPE_ARP, ArpPacket(REQUEST, HARDWARE, GUEST, bytes(6), target).to_bytes())
        yield ethernet(ETHERTYPE_IPV6, Ipv6Packet(GUEST6, group, NEXT_ICMPV6, solicitation, 255).to_bytes())


def pings() -> Frames:
    """Of the gateway, of the host, and of nobody, with as many identifiers as there are."""
    for number, far in zip(itertools.count(), itertools.cycle((GATEWAY, socket.inet_aton(HOST), b"\xc6\x33\x64\x09"))):
        message = IcmpMessage(ECHO_REQUEST, 0, number & 0xFFFF, 1, bytes(56)).to_bytes()
        yield ethernet(ETHERTYPE_IPV4, Ipv4Packet(GUEST, far, PROTOCOL_ICMP, message).to_bytes())


def datagrams6() -> Frames:
    for number in itertools.count():
        body = UdpDatagram(5000, 1 + number % 65535, b"flood").to_bytes(GUEST6, GATEWAY6)
        yield ethernet(ETHERTYPE_IPV6, Ipv6Packet(GUEST6, GATEWAY6, NEXT_UDP, body).to_bytes())


def pour(frames: Frames, stop: int) -> int:
    """Send frames from the guest until `stop` is readable; how many the device took.

    In bursts: frames without end would fill the guest's own queue before the device, where nobody else finds a place.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("tap0", 0))
        ours = sock.getsockname()[4]  # the network answers to where frames come from
        sent = 0
        while sent < AT_LEAST or not select.select([stop], [], [], 0)[0]:
            for frame in itertools.islice(frames, BURST):
                try:
                    sock.send(frame[:6] + ours + frame[12:])
                    sent += 1
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
            time.sleep(PAUSE)
    return sent


def exchange(sock: socket.socket) -> None:
    """To and fro, and every byte of it right."""
    for number in range(TURNS):
        question = bytes((number,)) * (1 + number * 37 % 3000)
        sock.sendall(question)
        answer = b""
        while len(answer) < len(question):
            part = sock.recv(65536)
            assert part
            answer += part
        assert answer == question


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def resident(pid: int) -> int:
    """Bytes, proc_pid_status(5)."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it holds before patience is out."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(lambda: syns(BLACK_HOLE), id="SYN to a black hole"),
        pytest.param(lambda: syns(GATEWAY_NAME), id="SYN to closed ports"),
        pytest.param(lambda: datagrams(BLACK_HOLE), id="UDP to a black hole"),
        pytest.param(lambda: datagrams(GATEWAY_NAME), id="UDP to closed ports"),
        pytest.param(datagrams6, id="UDP over IPv6"),
        pytest.param(fragments, id="fragments"),
        pytest.param(neighbours, id="ARP and NDP"),
        pytest.param(pings, id="pings"),
    ],
)
def test_other_flows_go_on_and_nothing_stays(frames: Callable[[], Frames]) -> None:
    def work() -> None:
        # What the loopback device gets for an address that is not the host's is dropped without a word.
        subprocess.run(["ip", "route", "add", "198.51.100.0/24", "dev", "lo"], check=True)
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
            file.write("0 0")
        port = serve_tcp("127.0.0.1", echo)
        stop, stop_write = os.pipe()

        def client() -> None:
            with connect(GATEWAY_NAME, port) as before:
                exchange(before)
                started.send()
                exchange(before)
                with connect(GATEWAY_NAME, port) as later:
                    exchange(later)
                exchange(before)

        with Network() as network:
            network.run(lambda: exchange_once(port))
            descriptors, memory = network.descriptors(), resident(network.pid)
            started = Signal()
            other = network.start(client)
            started.wait()
            flood = network.start(lambda: pour(frames(), stop))
            other.wait()
            os.write(stop_write, b"x")
            assert flood.wait() >= AT_LEAST
            assert eventually(lambda: network.descriptors() <= descriptors + FEW), network.descriptors()
            assert resident(network.pid) - memory < MEMORY
            network.run(lambda: exchange_once(port))

    with (
        mock.patch("netns.udp.IDLE_SECONDS", 1.0),
        mock.patch("netns.stack._HALF_OPEN_SECONDS", 1.0),
        mock.patch("netns.icmp._IDLE_SECONDS", 1.0),
    ):
        on_a_host(work)


def exchange_once(port: int) -> None:
    with connect(GATEWAY_NAME, port) as sock:
        exchange(sock)


class Signal:
    """From one process to another, once."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def send(self) -> None:
        os.write(self._write, b"1")

    def wait(self) -> None:
        assert select.select([self._read], [], [], PATIENCE)[0]
