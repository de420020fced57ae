"""The name server that the guest sees: a relay to the host's, over UDP and TCP.

/etc/resolv.conf is looked at again when it changes, so that a VPN or another network is followed. A query goes to the
first server; if that refuses or is silent the next one is asked, and when none is left the guest hears SERVFAIL rather
than nothing. Loopback servers (systemd-resolved, dnsmasq) work: the relay is on the host's network.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import time
from typing import TYPE_CHECKING

from netns.reach import HostAddress
from netns.udp import UdpFlow
from netns.wire.dns import DnsHeader, failure
from netns.wire.error import Buffer, WireError

if TYPE_CHECKING:
    from netns.driver import Driver, Timer

_PATH = "/etc/resolv.conf"
_PORT = 53
_MAX_SERVERS = 3  # resolv.conf(5), MAXNS
_LOOK_AGAIN = 1.0  # seconds between two looks at the file
_PATIENCE = 2.0  # seconds that one server has to answer; resolvers in the guest wait five
_MAX_PENDING = 64  # queries of one port of the guest
_ANSWERS = 16


def nameservers(text: str) -> list[HostAddress]:
    """The servers of a resolv.conf(5), of which there may be none."""
    result: list[HostAddress] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and len(result) < _MAX_SERVERS:
            try:
                ipaddress.ip_address(words[1])
            except ValueError:
                continue  # as the C library does
            result.append((words[1], _PORT))
    return result


class Resolver:
    """Knows the servers, and relays for each flow to our name server's address."""

    def __init__(self, servers: tuple[str, ...] = (), *, path: str = _PATH) -> None:
        """`servers` take the place of what `path` says."""
        self._fixed: list[HostAddress] = [(server, _PORT) for server in servers]
        self._path = path
        self._known: list[HostAddress] = []
        self._looked = float("-inf")
        self._stamp: tuple[int, int, int] | None = None
        self._driver: Driver | None = None

    def attach(self, driver: Driver) -> None:
        """Use `driver` from now on."""
        self._driver = driver

    def servers(self) -> list[HostAddress]:
        """The servers to ask, in order, in a list of the caller's own; the C library's default if the file has none."""
        if self._fixed:
            return list(self._fixed)
        now = time.monotonic()
        if now - self._looked >= _LOOK_AGAIN:
            self._looked = now
            self._look()
        return list(self._known) or [("127.0.0.1", _PORT)]

    def _look(self) -> None:
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                self._known = nameservers(file.read(65536))
            self._stamp = stamp
        except OSError:
            # Being replaced, or gone: what was known is the best there is.
            self._stamp = None

    def attach_flow(self, flow: UdpFlow) -> None:
        """Relay `flow`'s queries."""
        assert self._driver is not None  # the driver attaches itself when it is made
        DnsRelay(self._driver, flow, self)


class _Query:
    __slots__ = ("payload", "timer", "tried")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.tried = 0
        self.timer: Timer | None = None


class DnsRelay:
    """The queries that one port of the guest waits for. Sockets live only while there are some."""

    __slots__ = ("_driver", "_flow", "_queries", "_resolver", "_sockets")

    def __init__(self, driver: Driver, flow: UdpFlow, resolver: Resolver) -> None:
        self._driver = driver
        self._flow = flow
        self._resolver = resolver
        self._queries: dict[int, _Query] = {}
        self._sockets: dict[HostAddress, socket.socket] = {}
        flow.relay = self

    def forward(self, payload: Buffer) -> None:
        """One query from the guest. What is not a query is dropped."""
        data = bytes(payload)
        try:
            header = DnsHeader.parse(data)
        except WireError:
            return
        if header.is_response:
            return
        known = self._queries.pop(header.identifier, None)
        if known is not None and known.timer is not None:
            known.timer.cancel()
        elif len(self._queries) >= _MAX_PENDING:
            return
        query = self._queries[header.identifier] = _Query(data)
        if known is not None and known.payload == data:
            query.tried = known.tried  # the guest grew impatient: the next server
        self._ask(header.identifier)

    def _ask(self, identifier: int) -> None:
        query = self._queries[identifier]
        servers = self._resolver.servers()
        while query.tried < len(servers):
            address = servers[query.tried]
            query.tried += 1
            try:
                self._socket(address).send(query.payload)
            except OSError:
                continue
            query.timer = self._driver.call_later(_PATIENCE, lambda: self._ask(identifier))
            return
        self._answer(identifier, failure(query.payload))

    def _socket(self, address: HostAddress) -> socket.socket:
        sock = self._sockets.get(address)
        if sock is None:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            sock = self._driver.open_socket(family, socket.SOCK_DGRAM)
            try:
                sock.connect(address)
            except OSError:
                sock.close()
                raise
            self._sockets[address] = sock
            self._driver.watch(sock, select.EPOLLIN, lambda mask: self._on_io(address))
        return sock

    def _on_io(self, address: HostAddress) -> None:
        for _ in range(_ANSWERS):
            sock = self._sockets.get(address)
            if sock is None:
                return
            try:
                data = sock.recv(65535)
                header = DnsHeader.parse(data)
            except BlockingIOError:
                return
            except WireError:
                continue
            except OSError:
                self._refused(address)
                return
            if header.is_response and header.identifier in self._queries:
                self._answer(header.identifier, data)

    def _refused(self, address: HostAddress) -> None:
        """The server says it is none: whoever was waiting for it asks the next."""
        servers = self._resolver.servers()
        for identifier, query in list(self._queries.items()):
            if 0 < query.tried <= len(servers) and servers[query.tried - 1] == address:
                if query.timer is not None:
                    query.timer.cancel()
                self._ask(identifier)

    def _answer(self, identifier: int, data: bytes) -> None:
        query = self._queries.pop(identifier)
        if query.timer is not None:
            query.timer.cancel()
        self._driver.stack.send_datagram(self._flow, data, self._driver.now)
        if not self._queries:
            self._close()

    def _close(self) -> None:
        for sock in self._sockets.values():
            self._driver.discard(sock)
        self._sockets.clear()

    def expired(self) -> None:
        """The flow is forgotten."""
        for query in self._queries.values():
            if query.timer is not None:
                query.timer.cancel()
        self._queries.clear()
        self._close()
        self._flow.relay = None
