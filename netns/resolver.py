"""The name server that the guest sees, and whom it asks: the host's servers, in order.

/etc/resolv.conf is looked at again when it changes, so that a VPN or another network is followed. A server that was
silent twice in a row is asked last for some seconds. Loopback servers (systemd-resolved, dnsmasq) work: the relay is on
the host's network. What the guest is told is remembered, for rules by name and for lists of flows.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from netns.dnsrelay import DnsRelay
from netns.dnsstream import DnsStream
from netns.reach import HostAddress
from netns.tcp.flow import TcpFlow
from netns.udp import UdpFlow
from netns.wire.dnsmessage import PROHIBITED, REFUSED, DnsAnswer, DnsQuestion, refusal
from netns.wire.error import WireError

if TYPE_CHECKING:
    from netns.driver import Driver

_PATH = "/etc/resolv.conf"
_PORT = 53
_MAX_SERVERS = 3  # resolv.conf(5), MAXNS
_MAX_DOMAINS = 32
_MAX_SIZE = 65536
_LOOK_AGAIN = 1.0  # seconds between two looks at the file
_MISSES = 2  # in a row, after which a server is asked last
_ASKED_LAST = 10.0  # seconds
_MAX_SOCKETS = 256  # for queries over UDP, of all ports of the guest


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


def search_domains(text: str) -> tuple[str, ...]:
    """The domains of a resolv.conf(5) in which short names are looked up; the last line that names some counts."""
    result: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("search", "domain"):
            result = tuple(words[1:] if words[0] == "search" else words[1:2])[:_MAX_DOMAINS]
    return result


class Resolver:
    """Knows the servers, and relays for each flow to our name server's address."""

    def __init__(self, servers: tuple[str, ...] = (), *, search: tuple[str, ...] = (), path: str = _PATH) -> None:
        """`servers` and `search` take the place of what `path` says."""
        self._fixed: list[HostAddress] = [(server, _PORT) for server in servers]
        self._fixed_search = search
        self._path = path
        self._known: list[HostAddress] = []
        self._search: tuple[str, ...] = ()
        self._looked = float("-inf")
        self._stamp: tuple[int, int, int] | None = None
        self._made = time.time()
        self.on_search: Callable[[tuple[str, ...]], None] | None = None  # hears that the host's domains have changed
        self._driver: Driver | None = None
        self._misses: dict[HostAddress, tuple[int, float]] = {}
        self._sockets: OrderedDict[socket.socket, DnsRelay] = OrderedDict()

    def attach(self, driver: Driver) -> None:
        """Use `driver` from now on."""
        self._driver = driver

    # Whom to ask

    def servers(self) -> list[HostAddress]:
        """The servers to ask, in order, in a list of the caller's own; the C library's default if the file has none."""
        self._look()
        known = self._fixed or self._known or [("127.0.0.1", _PORT)]
        if not self._misses:
            return list(known)
        return sorted(known, key=self._is_silent)

    def search(self) -> tuple[str, ...]:
        """The domains in which short names are looked up."""
        self._look()
        return self._fixed_search or self._search

    def silent(self, server: HostAddress) -> None:
        """`server` did not answer in time."""
        misses = self._misses.get(server, (0, 0.0))[0] + 1
        if server not in self._misses and len(self._misses) >= 2 * _MAX_SERVERS:
            self._misses.clear()  # they are those of other times
        self._misses[server] = misses, time.monotonic() + _ASKED_LAST

    def answered(self, server: HostAddress) -> None:
        """`server` lives."""
        if self._misses:
            self._misses.pop(server, None)

    def _is_silent(self, server: HostAddress) -> bool:
        misses, until = self._misses.get(server, (0, 0.0))
        return misses >= _MISSES and time.monotonic() < until

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_AGAIN:
            return
        self._looked = now
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                text = file.read(_MAX_SIZE)
            self._known = nameservers(text)
            before, self._search = self._search, search_domains(text)
            unknown, self._stamp = self._stamp is None, stamp
            if self.on_search is not None and (
                (self._search != before and not unknown) or (unknown and status.st_mtime >= self._made)
            ):
                self.on_search(self._search)
        except OSError:
            # Being replaced, or gone: what was known is the best there is.
            self._stamp = None

    # What the guest asks

    def attach_flow(self, flow: UdpFlow) -> None:
        """Relay `flow`'s queries."""
        assert self._driver is not None  # the driver attaches itself when it is made
        DnsRelay(self._driver, flow, self)

    def attach_tcp(self, flow: TcpFlow) -> None:
        """Accept `flow`, and relay its queries."""
        assert self._driver is not None  # the driver attaches itself when it is made
        DnsStream(self._driver, flow, self)

    def refused(self, query: bytes) -> bytes | None:
        """The answer to a query that the rules forbid, None for one that may be asked. `query` has a header."""
        assert self._driver is not None  # the driver attaches itself when it is made
        egress = self._driver.egress
        if egress is None or egress.unlimited:
            return None
        try:
            name = DnsQuestion.parse(query).name
        except WireError:
            name = None  # what is no ordinary question could carry anything
        if name is not None and egress.may_ask(name):
            return None
        if name is not None:
            self._driver.note(f"refused by the egress rules: the name {name}")
        return refusal(query, REFUSED, (PROHIBITED, "refused by the egress rules"))

    def heard(self, query: bytes, answer: bytes) -> None:
        """The guest is told `answer`, which came from a server: remember the addresses if it is about `query`."""
        assert self._driver is not None  # the driver attaches itself when it is made
        egress = self._driver.egress
        if egress is None:
            return
        try:
            parsed = DnsAnswer.parse(answer)
        except WireError:
            return  # for the guest to make sense of
        question = slice(12, parsed.question_end)
        if parsed.addresses and query[question].lower() == answer[question].lower():
            egress.heard(parsed.name, parsed.addresses, parsed.ttl)

    # Descriptors

    def holds(self, sock: socket.socket, relay: DnsRelay) -> None:
        """`relay` has opened `sock`. The one that was opened first makes room where there are many."""
        if len(self._sockets) >= _MAX_SOCKETS:
            oldest, owner = next(iter(self._sockets.items()))
            owner.give_up(oldest)
        self._sockets[sock] = relay

    def closes(self, sock: socket.socket) -> None:
        """`sock` is about to be closed."""
        self._sockets.pop(sock, None)
