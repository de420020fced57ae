"""Queries of the guest over UDP: passed on to the host's servers, one after the other until one answers.

A server that refuses or is silent is passed over, and when none is left the guest hears SERVFAIL rather than nothing. A
change of the servers is followed by the queries that wait: they remember whom they asked, not how far they came.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from netns.reach import HostAddress
from netns.udp import UdpFlow
from netns.wire.dns import DnsHeader
from netns.wire.dnsmessage import refusal
from netns.wire.error import Buffer, WireError

if TYPE_CHECKING:
    from netns.driver import Driver
    from netns.loop import Timer
    from netns.resolver import Resolver

PATIENCE = 2.0  # seconds that one server has to answer while there are others; resolvers in the guest wait five
LAST_PATIENCE = 4.5  # seconds that the last one has
_MAX_PENDING = 64  # queries of one port of the guest
_ANSWERS = 16


class _Query:
    __slots__ = ("asked", "payload", "timer")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.asked: list[HostAddress] = []  # the last one is being waited for
        self.timer: Timer | None = None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class _Server:
    """A socket connected to one server."""

    __slots__ = ("_relay", "address", "sock")

    def __init__(self, relay: DnsRelay, sock: socket.socket, address: HostAddress) -> None:
        self._relay = relay
        self.sock = sock
        self.address = address

    def on_io(self, mask: int) -> None:
        """The server answered, or is none."""
        for _ in range(_ANSWERS):
            try:
                data = self.sock.recv(65535)
            except BlockingIOError:
                return
            except OSError:
                self._relay.refused_by(self.address)
                return
            if not self._relay.answered(self.address, data):
                return

    def failed(self) -> None:
        """A fault of ours: whoever waits is told."""
        self._relay.give_up(self.sock)


class DnsRelay:
    """The queries that one port of the guest waits for. Sockets live only while there are some."""

    __slots__ = ("_driver", "_flow", "_queries", "_resolver", "_servers")

    def __init__(self, driver: Driver, flow: UdpFlow, resolver: Resolver) -> None:
        self._driver = driver
        self._flow = flow
        self._resolver = resolver
        self._queries: dict[int, _Query] = {}
        self._servers: dict[HostAddress, _Server] = {}
        flow.relay = self

    # From the guest

    def forward(self, payload: Buffer) -> None:
        """One query from the guest. What is not a query is dropped."""
        data = bytes(payload)
        try:
            header = DnsHeader.parse(data)
        except WireError:
            return
        if header.is_response:
            return
        refused = self._resolver.refused(data)
        if refused is not None:
            self._send(refused)
            return
        identifier = header.identifier
        query = self._queries.get(identifier)
        if query is None and len(self._queries) >= _MAX_PENDING:
            return
        if query is None or query.payload != data:
            if query is not None:
                query.stop()
            query = self._queries[identifier] = _Query(data)
        elif not self._others(query):  # the guest grew impatient, and there is nobody else: once more
            server = self._servers.get(query.asked[-1])
            if server is not None:
                try:
                    server.sock.send(data)
                except OSError:
                    self._driver.lost += 1
            return
        self._ask(identifier)

    def _others(self, query: _Query) -> list[HostAddress]:
        return [server for server in self._resolver.servers() if server not in query.asked]

    def _ask(self, identifier: int) -> None:
        """Ask the next server."""
        query = self._queries[identifier]
        query.stop()
        others = self._others(query)
        for place, address in enumerate(others):
            query.asked.append(address)
            try:
                self._server(address).sock.send(query.payload)
            except OSError:
                continue
            patience = PATIENCE if place + 1 < len(others) else LAST_PATIENCE
            query.timer = self._driver.call_later(patience, lambda: self._silent(identifier, query))
            return
        self._fail(identifier)

    def _silent(self, identifier: int, query: _Query) -> None:
        if self._queries.get(identifier) is query:
            self._resolver.silent(query.asked[-1])
            self._ask(identifier)

    def _server(self, address: HostAddress) -> _Server:
        server = self._servers.get(address)
        if server is None:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            sock = self._driver.open_socket(family, socket.SOCK_DGRAM, far=address[0])
            try:
                sock.connect(address)
            except OSError:
                sock.close()
                raise
            server = self._servers[address] = _Server(self, sock, address)
            self._resolver.holds(sock, self)
            self._driver.watch(sock, select.EPOLLIN, server.on_io)
        return server

    # From the servers

    def answered(self, address: HostAddress, data: bytes) -> bool:
        """`data` came from `address`; whether more is waited for."""
        try:
            header = DnsHeader.parse(data)
        except WireError:
            return True
        query = self._queries.get(header.identifier)
        if query is not None and header.is_response and address in query.asked:
            self._resolver.answered(address)
            self._resolver.heard(query.payload, data)
            self._finish(header.identifier, data)
        return bool(self._queries)

    def refused_by(self, address: HostAddress) -> None:
        """The server says it is none: whoever was waiting for it asks the next."""
        for identifier, query in list(self._queries.items()):
            if query.asked and query.asked[-1] == address:
                self._ask(identifier)

    def give_up(self, sock: socket.socket) -> None:
        """Close `sock`, one of ours; who waits for its server hears of it."""
        for address, server in list(self._servers.items()):
            if server.sock is sock:
                del self._servers[address]
                self._close(server)
                for identifier, query in list(self._queries.items()):
                    if query.asked and query.asked[-1] == address:
                        self._fail(identifier)

    # The end of queries

    def _fail(self, identifier: int) -> None:
        self._finish(identifier, refusal(self._queries[identifier].payload))

    def _finish(self, identifier: int, data: bytes) -> None:
        self._queries.pop(identifier).stop()
        self._send(data)
        if not self._queries:
            self._close_all()

    def _send(self, data: bytes) -> None:
        self._driver.stack.send_datagram(self._flow, data, self._driver.now)

    def _close(self, server: _Server) -> None:
        self._resolver.closes(server.sock)
        self._driver.discard(server.sock)

    def _close_all(self) -> None:
        servers = list(self._servers.values())
        self._servers.clear()
        for server in servers:
            self._close(server)

    def expired(self) -> None:
        """The flow is forgotten."""
        for query in self._queries.values():
            query.stop()
        self._queries.clear()
        self._close_all()
        self._flow.relay = None
