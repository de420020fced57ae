"""Published ports: what connects to the host is connected to the guest, with the client's own source address.

Clients on the host's loopback have an address that means something else in the guest. Their connections are joined to
the guest's by netns.splice where that can be, and appear as the guest itself; else, and with UDP, they appear as the
gateway, and so does a client whose address lies on the guest's link. An application often listens on one family only,
so a connection that it refuses is tried over the other one before the client is.
"""

from __future__ import annotations

import errno
import select
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netns import unixport
from netns.errors import NetworkError
from netns.relay import TcpRelay
from netns.settings import Addresses, PublishedPort, Settings
from netns.splice import Splicer
from netns.stack import Stack
from netns.udp import UdpFlow
from netns.wire.error import Buffer

if TYPE_CHECKING:
    from netns.driver import Driver

_BACKLOG = 1024
_ACCEPTS = 32
_DATAGRAMS = 64
_PAUSE = 0.5  # seconds, when descriptors have run out
_FIRST_EPHEMERAL = 49152
_ANCILLARY = 64
_IP_PKTINFO = 8  # ip(7); the socket module of Python 3.11 lacks it
_IPV6_PKTINFO_SIZE = 20
_IPV4_PKTINFO_SIZE = 12


@dataclass(frozen=True, slots=True)
class Reservation:
    """A bound (and, for TCP, listening) host socket for one published port; `port` has the actual host port."""

    sock: socket.socket
    port: PublishedPort
    identity: unixport.Identity | None = None

    def close(self) -> None:
        """Let go of the socket. One of AF_UNIX keeps its name, for whoever else has the socket."""
        self.sock.close()

    def remove(self) -> None:
        """Let go of the socket and of its name: nobody serves it any more."""
        self.sock.close()
        if self.identity is not None:
            unixport.remove(self.port.path, self.identity)


def reserve_ports(settings: Settings) -> tuple[Reservation, ...]:
    """Bind everything that `settings` publish, or nothing. Raises NetworkError."""
    result: list[Reservation] = []
    try:
        for published in settings.publish:
            for port in published.expanded():
                result += _reserve(port)
    except BaseException:
        for reservation in result:
            reservation.remove()
        raise
    return tuple(result)


def _reserve(port: PublishedPort) -> list[Reservation]:
    if port.path:
        return [_listen(port)]
    if port.host_ip:
        return [_bind(port, port.host_ip)]
    first = _bind(port, "0.0.0.0")
    same = PublishedPort(port.container_port, first.port.host_port, port.host_ip, port.protocol)
    try:
        return [first, _bind(same, "::")]
    except NetworkError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return [first]  # a host without IPv6
        first.close()
        raise


def _listen(port: PublishedPort) -> Reservation:
    try:
        sock, identity = unixport.listen(port.path, _BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise NetworkError(f"cannot publish {port}: the name is taken", hint="choose another path") from error
        raise NetworkError(f"cannot publish {port}: {error.strerror}") from error
    return Reservation(sock, port, identity)


def _bind(port: PublishedPort, address: str) -> Reservation:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind((address, port.host_port))
        if port.protocol == "tcp":
            sock.listen(_BACKLOG)
        actual = sock.getsockname()[1]
    except OSError as error:
        if sock is not None:
            sock.close()
        raise _explain(port, address, error) from error
    return Reservation(sock, PublishedPort(port.container_port, actual, port.host_ip, port.protocol))


def _explain(port: PublishedPort, address: str, error: OSError) -> NetworkError:
    what = f"cannot publish port {port}"
    if error.errno == errno.EADDRINUSE:
        return NetworkError(
            f"{what}: the port is in use on this host", hint=f"choose another host port{_such_as(port, address)}"
        )
    if error.errno == errno.EACCES:
        return NetworkError(
            f"{what}: ports below net.ipv4.ip_unprivileged_port_start ({_first_unprivileged()}) are for root",
            hint=f"choose a higher host port{_such_as(port, address)}, or ask an administrator for"
            f" `sysctl net.ipv4.ip_unprivileged_port_start={port.host_port}`",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return NetworkError(f"{what}: {address} is not an address of this host")
    return NetworkError(f"{what}: {error.strerror}")


def _such_as(port: PublishedPort, address: str) -> str:
    """A port that is free at the moment: one that reminds of the one that was wanted, else any."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    for wanted in (port.host_port + 8000, port.host_port % 1000 + 18000, 0):
        try:
            with socket.socket(family, kind | socket.SOCK_CLOEXEC) as sock:
                sock.bind((address, wanted))
                return f" such as {sock.getsockname()[1]}"
        except (OSError, OverflowError):
            continue
    return ""


def _first_unprivileged() -> str:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "1024"


class _Clients:
    """How clients of the host's network appear in the guest."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._mask = int(addresses.network.netmask)
        self._network = int(addresses.network.network_address)

    def appearance(self, client: str, *, six: bool) -> bytes | None:
        """The source address for `client` towards a guest of that family; None where it has no such family."""
        gateway = self._addresses.gateway6 if six else self._addresses.gateway
        if gateway is None or (":" in client) != six:
            return gateway
        packed = socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, client.partition("%")[0])
        if not six:
            on_link = int.from_bytes(packed, "big") & self._mask == self._network
            return gateway if on_link or packed[0] in (0, 127) else packed
        network = self._addresses.network6
        on_link = network is not None and packed[:8] == network.network_address.packed[:8]
        return gateway if on_link or not any(packed[:10]) or packed[0] == 0xFE else packed

    def guest(self, *, six: bool) -> bytes | None:
        return self._addresses.guest6 if six else self._addresses.guest

    def families(self, client: str) -> tuple[bool, bool]:
        """Which family (True is IPv6) to try first: the client's, but for loopback IPv4, where everything listens."""
        six = ":" in client and client != "::1"
        return (six, not six)


class TcpForwarder:
    """Connections to one published port; owns the listening socket."""

    def __init__(
        self, driver: Driver, reservation: Reservation, addresses: Addresses, splicer: Splicer | None = None
    ) -> None:
        self._driver = driver
        self._splicer = splicer
        self._sock = reservation.sock
        self._port = reservation.port
        self._clients = _Clients(addresses)
        self._turn = 0
        driver.watch(self._sock, select.EPOLLIN, self.on_io)

    def close(self) -> None:
        """Stop listening, at once; connections go on."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self._driver.discard(self._sock)

    def on_io(self, mask: int) -> None:
        """Clients are waiting."""
        for _ in range(_ACCEPTS):
            try:
                sock, client = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._driver.note("published ports wait: no descriptors are left (raise `ulimit -n`)")
                    self._driver.watch(self._sock, 0, self.on_io)
                    self._driver.call_later(_PAUSE, self._resume)
                    return
                continue  # the client is gone already
            sock.setblocking(False)
            if sock.family == socket.AF_UNIX:
                self._accepted(sock, self._nobody(), f"unix:{self._port.path}")
                continue
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # urgent bytes are bytes (RFC 6093)
            except OSError:
                sock.close()  # the client is gone already
                continue
            self._accepted(
                sock, client, f"[{client[0]}]:{client[1]}" if ":" in client[0] else f"{client[0]}:{client[1]}"
            )

    def _resume(self) -> None:
        if self._sock.fileno() >= 0:
            self._driver.watch(self._sock, select.EPOLLIN, self.on_io)

    def _nobody(self) -> tuple[str, int]:
        """An address on the loopback for a client that has none."""
        self._turn = (self._turn + 1) % (65536 - _FIRST_EPHEMERAL)
        return "127.0.0.1", _FIRST_EPHEMERAL + self._turn

    def _accepted(self, sock: socket.socket, client: tuple[str, int], name: str) -> None:
        """Leave a client of the host's loopback to the splicer, if there is one and it takes it."""
        if self._splicer is not None and is_loopback(client[0]):
            port = self._port.container_port
            if self._splicer.join(sock, name, port, lambda sock: self._cross(sock, client)):
                return
        self._cross(sock, client)

    def _cross(self, sock: socket.socket, client: tuple[str, int]) -> None:
        """Connect over the TAP."""
        if not self._connect(sock, client, self._clients.families(client[0])):
            sock.close()

    def _connect(self, sock: socket.socket, client: tuple[str, int], families: tuple[bool, ...]) -> bool:
        """Connect to the guest over the first family possible; the rest are for when it refuses."""
        for place, six in enumerate(families):
            far = self._clients.appearance(client[0], six=six)
            guest = self._clients.guest(six=six)
            if far is None or guest is None:
                continue
            rest = families[place + 1 :]

            def refused(sock: socket.socket, rest: tuple[bool, ...] = rest) -> bool:
                return self._connect(sock, client, rest)

            for port in _ports(client[1]):
                flow = self._driver.stack.open_tcp(guest, self._port.container_port, far, port, self._driver.now)
                if flow is not None:
                    TcpRelay(self._driver, flow, sock=sock, refused=refused)
                    return True
        return False


def is_loopback(address: str) -> bool:
    """Whether `address`, as the kernel writes it, is the host's own."""
    return address == "::1" or address.startswith("127.")


def _ports(wanted: int) -> tuple[int, ...]:
    """The client's port, and others to take where that is taken (two loopback addresses may use the same)."""
    spread = (wanted * 40503) % (65536 - _FIRST_EPHEMERAL)
    return (wanted, *(_FIRST_EPHEMERAL + (spread + i * 977) % (65536 - _FIRST_EPHEMERAL) for i in range(16)))


class UdpForwarder:
    """Datagrams to one published port; owns the bound socket. Each client is a flow."""

    def __init__(self, driver: Driver, reservation: Reservation, addresses: Addresses) -> None:
        self.driver = driver
        self.sock = reservation.sock
        self._port = reservation.port
        self._clients = _Clients(addresses)
        self.flows: dict[tuple[str, int], UdpFlow] = {}
        driver.watch(self.sock, select.EPOLLIN, self.on_io)

    def close(self) -> None:
        """Stop receiving, and forget the clients."""
        for flow in list(self.flows.values()):
            self.driver.stack.forget_udp(flow)
            if flow.relay is not None:
                flow.relay.expired()
        self.driver.discard(self.sock)

    def on_io(self, mask: int) -> None:
        """Datagrams are waiting."""
        for _ in range(_DATAGRAMS):
            try:
                payload, ancillary, _, client = self.sock.recvmsg(65535, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an earlier answer
            key = (client[0], client[1])
            flow = self.flows.get(key) or self._open(client)
            if flow is None:
                continue
            if isinstance(flow.relay, _Client):
                flow.relay.remember(ancillary)
            self.driver.stack.send_datagram(flow, payload, self.driver.now)

    def _open(self, client: tuple[str, int]) -> UdpFlow | None:
        stack = self.driver.stack
        for six in self._clients.families(client[0]):
            far = self._clients.appearance(client[0], six=six)
            guest = self._clients.guest(six=six)
            if far is None or guest is None:
                continue
            port = _free_port(stack, guest, self._port.container_port, far, client[1])
            if port is None:
                continue
            flow = stack.open_udp(guest, self._port.container_port, far, port, self.driver.now)
            flow.relay = _Client(self, flow, client)
            self.flows[(client[0], client[1])] = flow
            return flow
        return None


def _free_port(stack: Stack, guest: bytes, guest_port: int, far: bytes, wanted: int) -> int | None:
    for port in _ports(wanted):
        if not stack.knows_udp(guest, guest_port, far, port):
            return port
    return None


class _Client:
    """Answers to one client of a `UdpForwarder`, from the address that the client wrote to."""

    __slots__ = ("_ancillary", "_client", "_flow", "_forwarder")

    def __init__(self, forwarder: UdpForwarder, flow: UdpFlow, client: tuple[str, int]) -> None:
        self._forwarder = forwarder
        self._flow = flow
        self._client = client
        self._ancillary: list[tuple[int, int, bytes]] = []

    def remember(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Note which of our addresses the client wrote to (ip(7), IP_PKTINFO; ipv6(7), IPV6_PKTINFO)."""
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IP and len(data) == _IPV4_PKTINFO_SIZE:
                # struct in_pktinfo: interface, local address to send from, header's address. Routing picks the first.
                self._ancillary = [(level, kind, bytes(4) + data[4:8] + bytes(4))]
            elif level == socket.IPPROTO_IPV6 and len(data) == _IPV6_PKTINFO_SIZE:
                self._ancillary = [(level, kind, data)]

    def forward(self, payload: Buffer) -> None:
        """An answer from the guest."""
        try:
            self._forwarder.sock.sendmsg([payload], self._ancillary, 0, self._client)
        except OSError:
            self._forwarder.driver.lost += 1

    def expired(self) -> None:
        """The flow is forgotten."""
        self._flow.relay = None
        self._forwarder.flows.pop((self._client[0], self._client[1]), None)


def publish(
    driver: Driver, reservation: Reservation, addresses: Addresses, splicer: Splicer | None = None
) -> TcpForwarder | UdpForwarder:
    """Serve one reserved port, whose socket the result owns."""
    if reservation.port.protocol == "tcp":
        return TcpForwarder(driver, reservation, addresses, splicer)
    return UdpForwarder(driver, reservation, addresses)
