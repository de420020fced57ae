"""Pings of the guest to addresses beyond the link, through unprivileged ping sockets (icmp(7), ping_group_range).

As with UDP, the socket takes over how many routers a request may cross and that it is not cut, and the errors that its
queue holds are passed back: what traceroute and path MTU discovery live by.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from netns import errorqueue
from netns.events import EchoRequested
from netns.icmperrors import IcmpError, offender, passed_on, quote_echo, unreachable
from netns.reach import Special
from netns.wire import icmp, icmpv6
from netns.wire.error import Buffer, WireError
from netns.wire.icmp import HEADER_LENGTH, IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message

if TYPE_CHECKING:
    from netns.driver import Driver
    from netns.errorqueue import QueuedError

_MAX_PINGS = 64
_IDLE_SECONDS = 15.0
_REPLIES = 16
_HOP_LIMIT = 64  # what guests send unless they look for a path

Name = tuple[bytes, bytes, int]


class _Ping:
    """One process of the guest that pings one address; owns its socket, whose identifier the kernel chooses."""

    __slots__ = (
        "_hop_limit", "_owner", "_strict", "asked", "last_used", "name", "received", "sent", "since", "sock", "target",
    )  # fmt: skip

    def __init__(self, owner: Pings, name: Name, target: str, sock: socket.socket, asked: EchoRequested) -> None:
        self._owner = owner
        self._hop_limit = _HOP_LIMIT
        self._strict = False
        self.name = name
        self.target = target
        self.sock = sock
        self.last_used = 0.0
        self.since = 0.0
        self.received = self.sent = 0  # bytes of ICMP, by the guest
        self.asked = asked  # last; its payload is gone

    def send(self, event: EchoRequested) -> None:
        """Pass one request on. Raises OSError."""
        self.asked = event
        if event.hop_limit != self._hop_limit:
            self._hop_limit = event.hop_limit
            errorqueue.set_hop_limit(self.sock, -1 if event.hop_limit == _HOP_LIMIT else max(1, event.hop_limit - 1))
        if event.dont_fragment is not self._strict:
            self._strict = event.dont_fragment
            errorqueue.forbid_fragments(self.sock, event.dont_fragment)
        kind = icmp.ECHO_REQUEST if len(event.far) == 4 else icmpv6.ECHO_REQUEST
        message = IcmpMessage(kind, 0, 0, event.number, event.payload).to_bytes()
        # Not connected, so that what goes on for long follows the host when its own address changes.
        self.sock.sendto(message, (self.target, 0))
        self.sent += len(message)

    def on_io(self, mask: int) -> None:
        """Replies or errors arrived."""
        if mask & select.EPOLLERR:
            self._owner.pass_errors_on(self)
        for _ in range(_REPLIES):
            try:
                data, source = self.sock.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:
                if not self._owner.pass_errors_on(self):
                    return
                continue
            if source[0] == self.target:
                self._owner.answered(self, data)

    def failed(self) -> None:
        """A fault of ours: this ping ends, and the guest's next request begins another."""
        self._owner.close(self)


class Pings:
    """The pings under way; never more than a few, the oldest makes room."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._pings: dict[Name, _Ping] = {}
        self._sweeping = False

    def forward(self, event: EchoRequested) -> None:
        """Send the guest's echo request on, or say why not."""
        six = len(event.far) == 16
        target = self._driver.reach.of(event.far, 0)
        egress = self._driver.egress
        if isinstance(target, Special):
            self._say(event, unreachable(errno.EACCES, six=six))
            return
        if egress is not None and not egress.allows(event.far, 0, "icmp"):
            self._driver.note(egress.refusal(event.far, 0, "icmp"))
            self._say(event, unreachable(errno.EACCES, six=six))
            return
        name = (event.guest, event.far, event.identifier)
        try:
            ping = self._pings.get(name) or self._open(name, target[0], event)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                self._driver.note(
                    "pings beyond the gateway do not work: the host's net.ipv4.ping_group_range does not include your"
                    ' group; an administrator can change that with `sysctl -w net.ipv4.ping_group_range="0 2147483647"`'
                )
            self._say(event, unreachable(error.errno or errno.EHOSTUNREACH, six=six))
            return
        ping.last_used = self._driver.now
        for _ in range(2):
            try:
                ping.send(event)
                return
            except BlockingIOError:
                break
            except OSError as error:
                # It may be about an earlier request; then this one has not been tried yet.
                if not self.pass_errors_on(ping, event.payload):
                    self._say(event, unreachable(error.errno or errno.EHOSTUNREACH, six=six))
                    break
                if error.errno == errno.EMSGSIZE:
                    break
        self._driver.lost += 1

    def _open(self, name: Name, address: str, event: EchoRequested) -> _Ping:
        if len(name[1]) == 4:
            sock = self._driver.open_socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP, far=address)
        else:
            sock = self._driver.open_socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6, far=address)
        try:
            errorqueue.enable(sock)
        except OSError:
            sock.close()
            raise
        if len(self._pings) >= _MAX_PINGS:
            self.close(min(self._pings.values(), key=lambda ping: ping.last_used))
        ping = self._pings[name] = _Ping(self, name, address, sock, event)
        ping.since = self._driver.now
        self._driver.watch(sock, select.EPOLLIN, ping.on_io)
        if not self._sweeping:
            self._sweeping = True
            self._driver.call_later(_IDLE_SECONDS, self._sweep)
        return ping

    def __iter__(self) -> Iterator[_Ping]:
        """The pings under way, the oldest first."""
        return iter(list(self._pings.values()))

    def answered(self, ping: _Ping, data: bytes) -> None:
        """The host's network answered `ping`."""
        guest, far, identifier = ping.name
        try:
            if len(far) == 4:
                message: IcmpMessage | Icmpv6Message = IcmpMessage.parse(data)
                reply = message.kind == icmp.ECHO_REPLY
            else:
                # The kernel has verified the checksum; here the addresses that it covers are not known.
                message = Icmpv6Message.without_checksum(data)
                reply = message.kind == icmpv6.ECHO_REPLY
        except WireError:
            return
        if reply:
            ping.received += len(data)
            self._driver.stack.send_echo_reply(guest, far, identifier, message.second, bytes(message.payload))

    def pass_errors_on(self, ping: _Ping, sent: Buffer = b"") -> bool:
        """Tell the guest what is in the queue of errors; whether there was anything. `sent` is what was being sent."""
        queue = errorqueue.drain(ping.sock)
        for queued in queue:
            self._pass_on(ping, queued, sent)
        return bool(queue)

    def _pass_on(self, ping: _Ping, queued: QueuedError, sent: Buffer) -> None:
        guest, far, identifier = ping.name
        error = passed_on(queued, six=len(far) == 16)
        if error is None:
            return
        number, payload = ping.asked.number, sent
        if queued.from_network and len(queued.payload) >= HEADER_LENGTH:  # our request, from its ICMP header on
            number = int.from_bytes(queued.payload[6:8], "big")
            payload = queued.payload[HEADER_LENGTH:]
        quoted = quote_echo(guest, far, identifier, number, payload, ping.asked.hop_limit)
        source = offender(queued, far, ping.target, self._driver.reach)
        self._driver.stack.send_error(error, quoted, source=source, now=self._driver.now)

    def _say(self, event: EchoRequested, error: IcmpError) -> None:
        quoted = quote_echo(event.guest, event.far, event.identifier, event.number, event.payload, event.hop_limit)
        self._driver.stack.send_error(error, quoted, now=self._driver.now)

    def _sweep(self) -> None:
        limit = self._driver.now - _IDLE_SECONDS
        for ping in [ping for ping in self._pings.values() if ping.last_used < limit]:
            self.close(ping)
        self._sweeping = bool(self._pings)
        if self._sweeping:
            self._driver.call_later(_IDLE_SECONDS, self._sweep)

    def close(self, ping: _Ping) -> None:
        """Forget `ping`, if it is still known."""
        if self._pings.get(ping.name) is ping:
            del self._pings[ping.name]
            self._driver.discard(ping.sock)
