"""Queries of the guest over TCP (RFC 7766): a connection that ends here, and one at a time to a server of the host.

So the guest is answered whatever the servers do: one that refuses, is silent or hangs up is followed by the next, to
which the queries that wait are sent again, and when none is left the guest hears SERVFAIL.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from typing import TYPE_CHECKING

from netns.dnsrelay import LAST_PATIENCE, PATIENCE
from netns.reach import HostAddress
from netns.tcp.flow import TcpFlow
from netns.tcp.state import Signal
from netns.wire.dns import DnsHeader
from netns.wire.dnsmessage import AXFR, IXFR, DnsQuestion, refusal
from netns.wire.error import WireError

if TYPE_CHECKING:
    from netns.driver import Driver
    from netns.loop import Timer
    from netns.resolver import Resolver

_MAX_PENDING = 64  # queries that wait; a guest that asks for more is hung up on
_IDLE = 30.0  # seconds without a query after which the guest is hung up on
_READS = 4  # of up to 64 KiB, before the others have their turn
_LENGTH = struct.Struct("!H")


class DnsStream:
    """One connection of the guest, which is accepted, and the socket to the server that is being asked."""

    __slots__ = (
        "_answers", "_asked", "_closing", "_connected", "_driver", "_flow", "_idle", "_incoming", "_interest",
        "_progress", "_queries", "_resolver", "_sock", "_timer", "_transfers", "_unsent", "_used",
    )  # fmt: skip

    def __init__(self, driver: Driver, flow: TcpFlow, resolver: Resolver) -> None:
        self._driver = driver
        self._flow = flow
        self._resolver = resolver
        self._incoming = bytearray()  # from the guest
        self._queries: dict[int, bytes] = {}
        self._transfers: set[int] = set()  # queries with more than one answer, after the first
        self._closing = False  # the guest will ask no more
        self._sock: socket.socket | None = None
        self._asked: list[HostAddress] = []  # the last one is being waited for
        self._connected = False
        self._progress = False  # this server has answered something
        self._interest = 0
        self._unsent = bytearray()
        self._answers = bytearray()
        self._timer: Timer | None = None
        flow.relay = self
        flow.connection.accept()
        driver.stack.touch(flow)
        self._used = driver.now
        self._idle = driver.call_later(_IDLE, self._on_idle)

    # From the guest

    def received(self) -> None:
        """The connection has bytes or signals."""
        connection = self._flow.connection
        if connection.received:
            pieces = connection.received.copy()
            connection.received.clear()
            size = 0
            for piece in pieces:
                self._incoming += piece
                size += len(piece)
            self._flow.from_guest += size
            connection.consumed(size)
            self._driver.stack.touch(self._flow)
        signals, connection.signals = connection.signals, []
        for signal in signals:
            if signal is Signal.PEER_CLOSED:
                self._closing = True
            elif signal is not Signal.CONNECTED:
                self._release()
                return
        self._take_queries()
        self._settle()

    def changed(self) -> None:
        """There may be room for answers."""
        if self._sock is not None and self._connected:
            self._watch()

    def _take_queries(self) -> None:
        for query in _taken(self._incoming):
            self._on_query(query)
            if self._flow.relay is not self:
                return

    def _on_query(self, query: bytes) -> None:
        try:
            header = DnsHeader.parse(query)
        except WireError:
            self._abort()
            return
        if header.is_response or len(self._queries) >= _MAX_PENDING:
            self._abort()
            return
        self._used = self._driver.now
        refused = self._resolver.refused(query)
        if refused is not None:
            self._send(refused)
            return
        self._queries[header.identifier] = query
        if self._sock is None:
            self._asked.clear()
            self._next_server()
        else:
            self._unsent += _LENGTH.pack(len(query)) + query
            self._wait()
            if self._connected:
                self._flush()

    # To the server

    def _next_server(self) -> None:
        """Send what waits to the next server."""
        self._drop_server()
        others = [server for server in self._resolver.servers() if server not in self._asked]
        for place, address in enumerate(others):
            self._asked.append(address)
            sock = self._dial(address)
            if sock is not None:
                self._sock = sock
                self._unsent += b"".join(_LENGTH.pack(len(query)) + query for query in self._queries.values())
                self._watch()
                self._wait(last=place + 1 == len(others))
                return
        queries = list(self._queries.values())
        self._queries.clear()
        for query in queries:
            self._send(refusal(query))

    def _dial(self, address: HostAddress) -> socket.socket | None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            sock = self._driver.open_socket(family, socket.SOCK_STREAM, far=address[0])
        except OSError:
            return None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = sock.connect_ex(address)
        except OSError:  # an address that the C library does not accept
            number = errno.EHOSTUNREACH
        if number in (0, errno.EINPROGRESS):
            return sock
        sock.close()
        return None

    def _drop_server(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connected = self._progress = False
        self._interest = 0
        self._unsent.clear()
        self._answers.clear()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._driver.discard(sock)

    def _wait(self, *, last: bool | None = None) -> None:
        """The server has its time from now on."""
        if self._timer is not None:
            self._timer.cancel()
        if last is None:
            last = not any(server not in self._asked for server in self._resolver.servers())
        self._timer = self._driver.call_later(LAST_PATIENCE if last else PATIENCE, self._silent)

    def _silent(self) -> None:
        self._resolver.silent(self._asked[-1])
        self._next_server()
        self._settle()

    def on_io(self, mask: int) -> None:
        """The socket to the server is ready."""
        sock = self._sock
        if sock is None:
            return
        try:
            if not self._connected:
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number:
                    raise OSError(number, "connect")
                self._connected = True
            if self._unsent:
                self._flush()
            if mask & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
                self._read(sock)
        except OSError:
            self._hung_up()
        self._settle()

    def failed(self) -> None:
        """A fault of ours."""
        self._abort()

    def _flush(self) -> None:
        sock = self._sock
        if sock is not None and self._unsent:
            try:
                del self._unsent[: sock.send(self._unsent)]
            except BlockingIOError:
                pass  # epoll says when there is room
            except OSError:
                self._hung_up()

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_READS):
            if self._flow.connection.send_room() <= 0:
                return
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                return
            if not data:
                self._hung_up()
                return
            self._answers += data
            self._take_answers()
            if sock is not self._sock:
                return

    def _hung_up(self) -> None:
        """Servers do that when they have answered. What they have not, somebody must be asked again."""
        if self._transfers:
            self._abort()
            return
        if self._progress:
            self._asked.clear()
        if self._queries:
            self._next_server()
        else:
            self._drop_server()

    def _take_answers(self) -> None:
        for answer in _taken(self._answers):
            self._on_answer(answer)

    def _on_answer(self, data: bytes) -> None:
        try:
            header = DnsHeader.parse(data)
        except WireError:
            return
        if not header.is_response:
            return
        query = self._queries.pop(header.identifier, None)
        if query is None:
            if header.identifier in self._transfers:
                self._used = self._driver.now
                self._send(data)
            return
        if _is_transfer(query):
            self._transfers.add(header.identifier)
        self._progress = True
        self._resolver.answered(self._asked[-1])
        self._resolver.heard(query, data)
        if self._queries:
            self._wait()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._send(data)

    # To the guest

    def _send(self, data: bytes) -> None:
        self._flow.connection.send(_LENGTH.pack(len(data)) + data)
        self._flow.to_guest += _LENGTH.size + len(data)
        self._driver.stack.touch(self._flow)

    def _settle(self) -> None:
        if self._flow.relay is not self:
            return
        if self._closing and not self._queries and not self._transfers:
            self._flow.connection.close()
            self._driver.stack.touch(self._flow)
            self._drop_server()
        else:
            self._watch()

    def _watch(self) -> None:
        sock = self._sock
        if sock is None:
            return
        interest = select.EPOLLOUT if self._unsent or not self._connected else 0
        room = self._flow.connection.send_room() > 0
        self._flow.waiting = not room
        if self._connected and room:
            interest |= select.EPOLLIN
        if interest != self._interest:
            self._interest = interest
            self._driver.watch(sock, interest, self.on_io)

    def _on_idle(self) -> None:
        """Hang up where the guest has not asked for long."""
        rest = self._used + _IDLE - self._driver.now
        if rest <= 0 and not self._queries:
            self._abort()
        else:
            self._idle = self._driver.call_later(max(rest, 1.0), self._on_idle)

    def _abort(self) -> None:
        self._flow.connection.abort()
        self._driver.stack.touch(self._flow)
        self._release()

    def _release(self) -> None:
        self._flow.relay = None
        self._idle.cancel()
        self._queries.clear()
        self._transfers.clear()
        self._incoming.clear()
        self._drop_server()


def _is_transfer(query: bytes) -> bool:
    """Whether `query` asks for a whole zone, which is answered by more than one message (RFC 5936, RFC 1995)."""
    try:
        return DnsQuestion.parse(query).kind in (AXFR, IXFR)
    except WireError:
        return False


def _taken(stream: bytearray) -> list[bytes]:
    """The whole messages of what has arrived, which are taken away (RFC 1035 section 4.2.2)."""
    messages = []
    place = 0
    while len(stream) - place >= _LENGTH.size:
        (size,) = _LENGTH.unpack_from(stream, place)
        start = place + _LENGTH.size
        end = start + size
        if len(stream) < end:
            break
        messages.append(bytes(stream[start:end]))
        place = end
    del stream[:place]
    return messages
