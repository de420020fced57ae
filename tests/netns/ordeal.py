"""What is done to a network in the fuzz tests: everything that its guest, its host and its owner may, in any order.

Each function takes a `Source` and raises what the network should not have raised. contrib/fuzz/network runs the same.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from unittest import mock

from netns import process
from netns.api import ApiSocket
from netns.control import Control
from netns.driver import Driver
from netns.events import Datagram, TcpOpened, TcpReceived
from netns.guestsockets import GuestSockets
from netns.link import Link
from netns.process import Settings
from netns.settings import PublishedPort
from netns.stack import Stack
from netns.tcp.connection import Connection
from netns.wire.ipv4 import Ipv4Packet
from netns.wire.ipv6 import Ipv6Packet
from tests.netns.hostile import ADDRESSES, GUEST_MAC, MAC, Guest, Source, Value

LOOPBACK = "127.0.0.1"
SERVED = (80, 443, 53)
PUBLISHED = (8080, 8053)
RESET = struct.pack("ii", 1, 0)  # struct linger: close(2) resets
ASKED: tuple[object, ...] = ("flows", "flows", "", None, 3, [], {"ask": 1}, "x" * 5000)
SAY: tuple[Callable[[Connection], object], ...] = (
    lambda connection: connection.send(b"x" * min(50, connection.send_room())),
    lambda connection: connection.send(b"x" * min(50000, connection.send_room())),
    lambda connection: connection.close(),
    lambda connection: connection.abort(),
)
"""What the far side may do to a connection."""


class Chance:
    """A `Source` out of one number, for long runs."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def octets(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, most))

    def pick(self, values: Sequence[Value]) -> Value:
        return self._random.choice(values)


def look_at(frame: bytes) -> None:
    """What leaves for the guest is well-formed."""
    assert len(frame) >= 24 + 8
    assert frame[16:22] == MAC
    if frame[22:24] == b"\x08\x00":
        packet = Ipv4Packet.parse(frame[24:])
        assert len(packet.payload) == len(frame) - 24 - 20
    elif frame[22:24] == b"\x86\xdd":
        assert len(Ipv6Packet.parse(frame[24:]).payload) <= len(frame) - 24 - 40
    else:
        assert frame[22:24] == b"\x08\x06"


def stack(source: Source, steps: int) -> None:
    """Frames and an owner that answers, refuses or is slow, with the time in the source's hands."""
    tested = Stack(
        ADDRESSES, Link(MAC, GUEST_MAC, source.pick((1500, 65520))), lambda: 1000, advertise=True, max_flows=6
    )
    guest = Guest(source)
    now = 0.0
    for _ in range(source.integer(1, steps)):
        tested.receive(guest.frame(), now)
        for event in tested.take_events():
            if isinstance(event, TcpOpened):
                event.flow.connection.accept() if source.integer(0, 3) else event.flow.connection.abort()
                tested.touch(event.flow)
            elif isinstance(event, TcpReceived):
                connection = event.flow.connection
                connection.received.clear()
                connection.signals.clear()
                connection.consumed(source.integer(0, 1) * connection.window.unconsumed)
            elif isinstance(event, Datagram) and source.integer(0, 1):
                tested.send_datagram(event.flow, source.octets(40) * source.pick((1, 100)), now)
        for flow in list(tested.tcp.values())[:2]:
            if source.integer(0, 3) == 0:
                SAY[source.integer(0, len(SAY) - 1)](flow.connection)
                tested.touch(flow)
        for frame in tested.poll(now):
            octets = b"".join(frame)
            look_at(octets)
            guest.heard(octets)
        if source.integer(0, 3) == 0:
            now += source.pick((0.001, 0.001, 0.05, 0.05, 0.3, 1.5, 61.0, 130.0))
        deadline = tested.deadline()
        assert deadline is None or deadline >= 0
        assert len(tested.tcp) <= 6


class Host:
    """Servers that misbehave as the source says; in a network namespace of the caller's, whose loopback is up."""

    def __init__(self) -> None:
        with open("/proc/sys/net/ipv4/ping_group_range", "w", encoding="ascii") as file:
            file.write("0 0")
        self._listeners = [socket.create_server((LOOPBACK, port)) for port in SERVED]
        self._datagrams = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
        for sock, port in zip(self._datagrams, (4000, 53), strict=True):
            sock.bind((LOOPBACK, port))
        for sock in (*self._listeners, *self._datagrams):
            sock.setblocking(False)
        self._connections: list[socket.socket] = []

    def act(self, source: Source) -> None:
        """One thing, if it is possible now."""
        with suppress(OSError):
            match source.integer(0, 6):
                case 0 | 1:
                    self._accept(source.pick(self._listeners))
                case 2 | 3 if self._connections:
                    self._serve(source, source.integer(0, len(self._connections) - 1))
                case 4:
                    self._answer(source, self._datagrams[0])
                case 5:
                    self._answer(source, self._datagrams[1])
                case _:
                    self._connect(source)

    def _accept(self, listener: socket.socket) -> None:
        self._keep(listener.accept()[0])

    def _keep(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._connections.append(sock)

    def _connect(self, source: Source) -> None:
        kind = source.integer(0, 1)
        sock = socket.socket(type=socket.SOCK_DGRAM if kind else socket.SOCK_STREAM)
        self._keep(sock)
        sock.connect((LOOPBACK, PUBLISHED[kind]))
        sock.send(source.octets(60))

    def _serve(self, source: Source, place: int) -> None:
        sock = self._connections[place]
        match source.integer(0, 5):
            case 0 | 1 if sock.getsockname()[1] == 53:
                message = answer(source, sock.recv(65535)[2:])
                sock.send(struct.pack("!H", len(message)) + message)
            case 0 | 1:
                sock.send(source.octets(60) * source.pick((1, 1, 500)))
            case 2:
                sock.recv(65536)
            case 3:
                sock.shutdown(socket.SHUT_WR)
            case 4:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self._connections.pop(place).close()
            case _:
                self._connections.pop(place).close()

    def _answer(self, source: Source, sock: socket.socket) -> None:
        data, peer = sock.recvfrom(65535)
        sock.sendto(answer(source, data), peer)

    def forget(self) -> None:
        """Close what was accepted and connected, and take what waits."""
        for sock in self._connections:
            sock.close()
        self._connections.clear()
        for listener in self._listeners:
            with suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
        for sock in self._datagrams:
            with suppress(OSError):
                while True:
                    sock.recv(1)

    def close(self) -> None:
        self.forget()
        for sock in (*self._listeners, *self._datagrams):
            sock.close()


def answer(source: Source, question: bytes) -> bytes:
    """To a question of DNS: right, nearly right, or anything (RFC 1035 section 4.1)."""
    rest = source.octets(120)
    match source.integer(0, 4):
        case 0:
            return rest
        case 1:
            return question[:2] + b"\x81\x80" + rest
        case _:
            kind = source.pick((1, 1, 5, 28))
            value = (rest * 16).ljust(16, b"\1")[: {1: 4, 28: 16}.get(kind, len(rest))]
            size = len(value) if source.integer(0, 7) else source.integer(0, 65535)
            counts = struct.pack("!HHHH", 1, source.pick((1, 1, 1, 2, 65535)), 0, 0)
            record = struct.pack("!HHHIH", 0xC00C, kind, 1, source.pick((0, 60, 1 << 31)), size)
            return question[:2] + b"\x81\x80" + counts + question[12:] + record + value


@contextmanager
def a_driver(
    settings: Settings, *, guest: GuestSockets | None = None, control: Callable[[Driver], Control] | None = None
) -> Iterator[tuple[Driver, socket.socket]]:
    """As an engine has it, but over a pair of sockets instead of a TAP; and the guest's end of that."""
    there, here = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    there.setblocking(False)
    here.setblocking(False)
    reservations = process.reserve_ports(settings)
    with mock.patch.object(process, "hardware_address", lambda fd: GUEST_MAC):
        tested = process.build(there.fileno(), settings, reservations, guest=guest, control=control)
    faults: list[Exception] = []
    try:
        with mock.patch.object(tested, "report", faults.append):  # what the loop would otherwise live through
            yield tested, here
            turn(tested)
        if faults:
            raise faults[0]
    finally:
        for flow in list(tested.stack.tcp.values()):
            flow.connection.abort()
            tested.stack.touch(flow)
        turn(tested)
        tested.close()
        for reservation in reservations:
            reservation.close()
        for end in (here, there):
            end.close()


def turn(tested: Driver) -> None:
    """Let the loop do what is to be done now."""
    tested.call_later(0, tested.stop)
    tested.run()


def driver(source: Source, steps: int, host: Host) -> None:
    """The whole network over a pair of sockets in place of the TAP, between a hostile guest and a hostile host."""
    ports = (
        PublishedPort(40000, PUBLISHED[0], LOOPBACK, "tcp"),
        PublishedPort(40000, PUBLISHED[1], LOOPBACK, "udp"),
    )
    mtu = source.pick((1500, 65520, 576))
    egress = source.pick(((), (), ("deny", "allow=*.example:53", "allow=10.0.2.2:80/tcp")))
    settings = Settings(mtu=mtu, disable_host_loopback=False, dns=(LOOPBACK,), publish=ports, egress=egress)
    guest = Guest(source)
    with a_driver(settings) as (tested, link):
        for _ in range(source.integer(1, steps)):
            for _ in range(source.integer(0, 3)):
                with suppress(BlockingIOError):
                    link.send(guest.frame() or b"\0")
            host.act(source)
            turn(tested)
            with suppress(BlockingIOError):
                while True:
                    frame = link.recv(70000)
                    look_at(frame)
                    guest.heard(frame)
        host.forget()
        turn(tested)


def api(source: Source, steps: int) -> None:
    """slirp4netns's API, in pieces and not."""
    with tempfile.TemporaryDirectory() as directory, a_driver(Settings()) as (tested, _):
        path = f"{directory}/api"
        door = ApiSocket(tested, path, Settings())
        for _ in range(source.integer(1, steps)):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                turn(tested)
                for part in request(source):
                    with suppress(BrokenPipeError, ConnectionResetError):
                        client.send(part)
                    turn(tested)
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
                turn(tested)
                client.setblocking(False)
                with suppress(ConnectionResetError):
                    answer = client.recv(1 << 20)
                    assert isinstance(json.loads(answer), dict), answer
        for identifier in range(1, 20):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                client.send(json.dumps({"execute": "remove_hostfwd", "arguments": {"id": identifier}}).encode())
                turn(tested)
        door.close()


VALUES: tuple[object, ...] = (
    "tcp",
    "udp",
    "",
    "127.0.0.1",
    "0.0.0.0",
    "::1",
    "10.0.2.100",
    "x" * 300,
    0,
    1,
    65535,
    70000,
    -1,
    2.5,
    None,
    [],
)
VERBS: tuple[object, ...] = ("add_hostfwd", "list_hostfwd", "remove_hostfwd", "get_info", "", None, 7, {})
KEYS = ("proto", "host_addr", "host_port", "guest_addr", "guest_port", "id", "port", "\ud800")


def request(source: Source) -> list[bytes]:
    """One request, perhaps of JSON, perhaps in parts."""
    if source.integer(0, 4) == 0:
        text = source.octets(80)
    else:
        arguments: object = {source.pick(KEYS): source.pick(VALUES) for _ in range(source.integer(0, 6))}
        if source.integer(0, 2) == 0:
            arguments = {"proto": source.pick(("tcp", "udp")), "host_addr": source.pick(("127.0.0.1", "", "127.0.0.9"))}
            ports = {"host_port": source.integer(0, 3) + 20000, "guest_port": source.integer(0, 70000)}
            arguments = {**arguments, **ports, "guest_addr": source.pick(("", "10.0.2.100", "10.0.2.1"))}
        elif source.integer(0, 7) == 0:
            arguments = source.pick(VALUES)
        verb: object = source.pick(VERBS)
        text = json.dumps({"execute": verb, "arguments": arguments}).encode()
        if source.integer(0, 5) == 0:
            text = source.pick((b"[" * 3000, text * 2, text[:-1], b"{}", b"[]", b"\xff\xfe", b"1e999"))
    at = source.integer(0, len(text))
    return [part for part in (text[:at], text[at:]) if part]


def control(source: Source, steps: int) -> None:
    """The line to the owner, over which come questions and other things."""
    line, owner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner.setblocking(False)
    guest = Guest(source)
    with line, owner, a_driver(Settings()) as (tested, link):
        tested.control = Control(tested, line)
        for _ in range(source.integer(1, steps)):
            link.send(guest.frame() or b"\0")
            message = source.octets(60)
            if source.integer(0, 2):
                asked = source.pick(ASKED)
                message = json.dumps(source.pick(({"ask": asked}, asked, [asked]))).encode()
            with suppress(BlockingIOError):
                owner.send(message or b"\0")
            turn(tested)
            with suppress(BlockingIOError):
                while True:
                    answer, fds, _, _ = socket.recv_fds(owner, 8192, 4)
                    assert isinstance(json.loads(answer), dict)
                    for fd in fds:
                        with open(fd, "rb") as document:
                            json.load(document)


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))
