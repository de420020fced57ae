"""More of what is done to a network in the fuzz tests, one room at a time and deeper than by frames alone.

Names over TCP, and a host whose network changes; each with a clock in the source's hands. As in
tests/netns/ordeal.py, each function takes a `Source` and raises what the network should not have raised.
"""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from unittest import mock

from netns import hostchanges, process
from netns.driver import Driver
from netns.process import Settings
from netns.resolver import Resolver
from netns.tcp.connection import Connection
from netns.tcp.state import Signal, State
from netns.wire.ipv4 import PROTOCOL_TCP, Ipv4Packet
from netns.wire.tcp import TcpSegment
from tests.netns.hostile import GUEST, GUEST_MAC, MAC, RESOLVER, Guest, Source
from tests.netns.ordeal import RESET, Host, a_driver, answer, look_at, turn

LONG = (0.0, 0.0, 0.0, 0.01, 0.3, 1.1, 2.5, 31.0)
"""Seconds that pass between two turns."""


class Clock:
    """Time that also passes when told so."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@contextmanager
def a_clock() -> Iterator[Clock]:
    """What loops that are made inside go by."""
    clock = Clock()
    with mock.patch("netns.loop.time", SimpleNamespace(monotonic=clock.monotonic)):
        yield clock


def drain(link: socket.socket) -> list[bytes]:
    """Every frame that waits for the guest, looked at."""
    frames = []
    with suppress(BlockingIOError):
        while True:
            frames.append(link.recv(70000))
            look_at(frames[-1])
    return frames


NAME_SERVERS = ("127.0.0.3", "127.0.0.4")
_LENGTH = struct.Struct("!H")
_QUESTION = b"\3www\7example\0\0%c\0\1"


class NameServers:
    """Two that serve TCP, if they like."""

    def __init__(self) -> None:
        self._listeners = [socket.create_server((address, 53)) for address in NAME_SERVERS]
        for listener in self._listeners:
            listener.setblocking(False)
        self._connections: list[tuple[socket.socket, bytearray]] = []

    def act(self, source: Source) -> None:
        """One thing, if it is possible now."""
        with suppress(OSError):
            if source.integer(0, 2) == 0 or not self._connections:
                sock = source.pick(self._listeners).accept()[0]
                sock.setblocking(False)
                self._connections.append((sock, bytearray()))
            else:
                self._serve(source, source.integer(0, len(self._connections) - 1))

    def _serve(self, source: Source, place: int) -> None:
        sock, heard = self._connections[place]
        match source.integer(0, 9):
            case 0 | 1 | 2 | 3 | 4:
                with suppress(BlockingIOError):
                    heard += sock.recv(65536)
                while len(heard) >= 2 and len(heard) >= 2 + (size := _LENGTH.unpack_from(heard)[0]):
                    message = answer(source, bytes(heard[2 : 2 + size]))
                    del heard[: 2 + size]
                    framed = _LENGTH.pack(len(message)) + message
                    sock.send(framed * source.pick((1, 1, 1, 2, 40)))
            case 5:
                sock.send(source.octets(60))
            case 6:
                sock.send(_LENGTH.pack(source.pick((0, 1, 11, 12, 65535))))
            case 7:
                sock.shutdown(socket.SHUT_WR)
            case _:
                if source.integer(0, 1):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self._connections.pop(place)[0].close()

    def forget(self) -> None:
        """Close what was accepted, and take what waits."""
        for sock, _ in self._connections:
            sock.close()
        self._connections.clear()
        for listener in self._listeners:
            with suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()

    def close(self) -> None:
        self.forget()
        for listener in self._listeners:
            listener.close()


class Asker:
    """The guest's end of a connection to the name server; its TCP is right, what it says is not always."""

    def __init__(self, port: int, now: Callable[[], float]) -> None:
        self.port = port
        self._now = now
        self._tcp = Connection.active(now(), iss=7, mss=1460, capacity=1 << 18)
        self._asked: set[bytes] = set()
        self._well = True  # nothing but questions was said so far
        self._heard = bytearray()
        self._unsaid = bytearray()

    def ask(self, source: Source) -> None:
        """One thing more."""
        identifier = bytes((0, source.integer(0, 90)))
        match source.integer(0, 11):
            case 0:
                self._well = False
                self._unsaid += source.octets(60)
            case 1:
                self._well = False
                self._unsaid += _LENGTH.pack(source.pick((0, 1, 11, 12, 65535)))
            case 2:
                self._tcp.close()
                return
            case 3 if source.integer(0, 3) == 0:
                self._tcp.abort()
                return
            case _:
                kind = source.pick((1, 1, 1, 28, 252, 251, 255))
                flags = source.pick((b"\1\0", b"\1\0", b"\1\0", b"\0\0", b"\x81\x80", b"\xff\xff"))
                message = identifier + flags + b"\0\1\0\0\0\0\0\0" + _QUESTION % kind
                self._asked.add(identifier)
                self._unsaid += (_LENGTH.pack(len(message)) + message) * source.pick((1, 1, 1, 1, 3, 70))
        size = len(self._unsaid) if source.integer(0, 3) else source.integer(0, len(self._unsaid))
        size = min(size, self._tcp.send_room())
        if size:
            self._tcp.send(bytes(self._unsaid[:size]))
            del self._unsaid[:size]

    def said(self) -> list[bytes]:
        """Frames to the network."""
        result = []
        for segment in self._tcp.poll(self._now()):
            segment.source_port, segment.destination_port = self.port, 53
            packet = Ipv4Packet(GUEST, RESOLVER, PROTOCOL_TCP, segment.to_bytes(GUEST, RESOLVER)).to_bytes()
            result.append(bytes(10) + MAC + GUEST_MAC + b"\x08\x00" + packet)
        return result

    def hear(self, segment: TcpSegment) -> None:
        tcp = self._tcp
        tcp.on_segment(segment, self._now())
        for piece in tcp.received:
            self._heard += piece
            tcp.consumed(len(piece))
        tcp.received.clear()
        over = Signal.PEER_CLOSED in tcp.signals
        tcp.signals.clear()
        while len(self._heard) >= 2 and len(self._heard) >= 2 + (size := _LENGTH.unpack_from(self._heard)[0]):
            assert size >= 12, "an answer that is none"
            assert not self._well or bytes(self._heard[2:4]) in self._asked, "an answer to what was not asked"
            del self._heard[: 2 + size]
        assert not over or not self._heard, "an answer was cut"

    @property
    def over(self) -> bool:
        return self._tcp.state in (State.CLOSED, State.TIME_WAIT)


def dnsstream(source: Source, steps: int, servers: NameServers) -> None:
    """Questions over TCP, cut anywhere, to servers that answer, lie, hang up or are silent for as long as they like."""
    egress = source.pick(((), (), ("deny", "allow=*.example"), ("deny", "allow=*.test")))
    settings = Settings(dns=("127.0.0.5", *NAME_SERVERS), disable_host_loopback=False, egress=egress)
    with a_clock() as clock, a_driver(settings) as (tested, link):
        askers: dict[int, Asker] = {}
        for step in range(source.integer(1, steps)):
            if not askers or (len(askers) < 3 and source.integer(0, 7) == 0):
                askers[5000 + step] = Asker(5000 + step, clock.monotonic)
            source.pick(list(askers.values())).ask(source)
            for _ in range(source.integer(1, 3)):
                _converse(tested, link, askers)
                servers.act(source)
            if source.integer(0, 7) == 0:
                clock.ahead += source.pick(LONG)
            for port in [port for port, asker in askers.items() if asker.over]:
                del askers[port]
        servers.forget()
        _converse(tested, link, askers)


def _converse(tested: Driver, link: socket.socket, askers: dict[int, Asker]) -> None:
    for asker in askers.values():
        for frame in asker.said():
            with suppress(BlockingIOError):
                link.send(frame)
    turn(tested)
    for frame in drain(link):
        if frame[22:24] == b"\x08\x00":
            packet = Ipv4Packet.parse(frame[24:])
            if packet.protocol == PROTOCOL_TCP:
                segment = TcpSegment.parse(packet.payload)
                if segment.destination_port in askers:
                    askers[segment.destination_port].hear(segment)


ADDRESSES = tuple(socket.inet_aton(f"192.0.2.{number}") for number in (1, 2, 9))
_RTM_NEWADDR, _RTM_DELADDR = 20, 21


class ChangingHost:
    """The loopback's addresses come and go, and so do name servers and what listens to changes."""

    def __init__(self, source: Source, path: str) -> None:
        self._source = source
        self._path = path
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._netlink.setblocking(False)

    def act(self) -> None:
        """One thing."""
        source = self._source
        with suppress(OSError):
            match source.integer(0, 5):
                case 0 | 1:
                    self.address(_RTM_NEWADDR, source.pick(ADDRESSES))
                case 2 | 3:
                    self.address(_RTM_DELADDR, source.pick(ADDRESSES))
                case 4:
                    servers = source.pick((b"nameserver 127.0.0.1\n", b"nameserver 192.0.2.1\nsearch a.test\n", b""))
                    with open(self._path, "wb") as file:
                        file.write(servers + (source.octets(60) if source.integer(0, 1) else b""))
                case _:
                    # What a process with the same privilege may say to whoever listens: the first socket of this
                    # process has its number as address, the next ones have numbers of the kernel's choice.
                    for line in _netlink_ports():
                        self._netlink.sendto(source.octets(60) or b"\0", (line, 0))

    def address(self, kind: int, address: bytes) -> None:
        """struct ifaddrmsg and its attributes (rtnetlink(7))."""
        body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1)
        for attribute in (1, 2):  # IFA_ADDRESS, IFA_LOCAL
            body += struct.pack("=HH", 8, attribute) + address
        self._netlink.send(struct.pack("=IHHII", 16 + len(body), kind, 0x1 | 0x400, 0, 0) + body)

    def close(self) -> None:
        for address in ADDRESSES:
            with suppress(OSError):
                self.address(_RTM_DELADDR, address)
        self._netlink.close()


def _netlink_ports() -> list[int]:
    """Of the sockets that listen to changes in this network namespace (/proc/net/netlink)."""
    with open("/proc/self/net/netlink", encoding="ascii") as file:
        rows = [line.split() for line in file][1:]
    return [int(row[2]) for row in rows if row[1] == "0" and int(row[3], 16)]


def host_changes(source: Source, steps: int, host: Host) -> None:
    """Flows of a hostile guest over a host whose addresses, routes and name servers change all the time."""
    guest = Guest(source)
    with tempfile.TemporaryDirectory() as directory, a_clock() as clock:
        path = os.path.join(directory, "resolv.conf")
        changing = ChangingHost(source, path)

        def resolver(servers: tuple[str, ...], *, search: tuple[str, ...] = ()) -> Resolver:
            return Resolver(servers, search=search, path=path)

        with (
            mock.patch.object(hostchanges, "_SETTLED", 0.0),
            mock.patch.object(process, "Resolver", resolver),
            a_driver(Settings(disable_host_loopback=False)) as (tested, link),
        ):
            for _ in range(source.integer(1, steps)):
                for _ in range(source.integer(1, 3)):
                    with suppress(BlockingIOError):
                        link.send(guest.frame() or b"\0")
                changing.act()
                host.act(source)
                if source.integer(0, 15) == 0:
                    clock.ahead += source.pick(LONG)
                turn(tested)
                for frame in drain(link):
                    guest.heard(frame)
            host.forget()
            turn(tested)
        changing.close()
