"""Pings of the guest to addresses beyond the link, through unprivileged ping sockets (icmp(7), ping_group_range)."""

from __future__ import annotations

import errno
import select
import socket
from typing import TYPE_CHECKING

from netns.events import EchoRequested
from netns.reach import Special
from netns.wire import icmp, icmpv6
from netns.wire.error import WireError
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message

if TYPE_CHECKING:
    from netns.driver import Driver

_MAX_PINGS = 64
_IDLE_SECONDS = 15.0
_REPLIES = 16

Name = tuple[bytes, bytes, int]


class _Ping:
    """One process of the guest that pings one address; owns its socket, whose identifier the kernel chooses."""

    __slots__ = ("last_used", "name", "owner", "sock")

    def __init__(self, owner: Pings, name: Name, sock: socket.socket, now: float) -> None:
        self.owner = owner
        self.name = name
        self.sock = sock
        self.last_used = now

    def on_io(self, mask: int) -> None:
        """Replies arrived."""
        for _ in range(_REPLIES):
            try:
                data = self.sock.recv(65535)
            except OSError:
                return
            self.owner.answered(self, data)


class Pings:
    """The pings under way; never more than a few, the oldest makes room."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._pings: dict[Name, _Ping] = {}
        self._sweeping = False

    def forward(self, event: EchoRequested) -> None:
        """Send the guest's echo request on, if the host lets us."""
        target = self._driver.reach.of(event.far, 0)
        if isinstance(target, Special):
            return
        name = (event.guest, event.far, event.identifier)
        ping = self._pings.get(name) or self._open(name, target[0])
        if ping is None:
            return
        ping.last_used = self._driver.now
        kind = icmp.ECHO_REQUEST if len(event.far) == 4 else icmpv6.ECHO_REQUEST
        message = IcmpMessage(kind, 0, 0, event.number, event.payload).to_bytes()
        try:
            ping.sock.send(message)
        except OSError:
            self._driver.lost += 1

    def _open(self, name: Name, address: str) -> _Ping | None:
        four = len(name[1]) == 4
        try:
            if four:
                sock = self._driver.open_socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
            else:
                sock = self._driver.open_socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                self._driver.note(
                    "pings beyond the gateway are dropped: the host's net.ipv4.ping_group_range"
                    " does not include your group"
                )
            return None
        try:
            sock.connect((address, 0))
        except OSError:
            sock.close()
            return None
        if len(self._pings) >= _MAX_PINGS:
            self._close(next(iter(self._pings.values())))
        ping = self._pings[name] = _Ping(self, name, sock, self._driver.now)
        self._driver.watch(sock, select.EPOLLIN, ping.on_io)
        if not self._sweeping:
            self._sweeping = True
            self._driver.call_later(_IDLE_SECONDS, self._sweep)
        return ping

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
            self._driver.stack.send_echo_reply(guest, far, identifier, message.second, bytes(message.payload))

    def _sweep(self) -> None:
        limit = self._driver.now - _IDLE_SECONDS
        for ping in [ping for ping in self._pings.values() if ping.last_used < limit]:
            self._close(ping)
        self._sweeping = bool(self._pings)
        if self._sweeping:
            self._driver.call_later(_IDLE_SECONDS, self._sweep)

    def _close(self, ping: _Ping) -> None:
        del self._pings[ping.name]
        self._driver.discard(ping.sock)
