"""Changes of the host's addresses and routes, such as a VPN that comes or goes (rtnetlink(7)).

Connections of TCP need nothing: they fail as they would on the host. The socket of a UDP flow is connected, which ties
it to the address of the host that was right at the time; where another one is right now it is closed, and the guest's
next datagram opens a new one, as a program on the host would have sent it from there.

Nobody listens before the guest has used the host's network.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from netns.datagrams import UdpRelay

if TYPE_CHECKING:
    from netns.driver import Driver

_GROUPS = 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE
_SETTLED = 0.2  # seconds: changes come in numbers
_MESSAGES = 64  # of one turn


class HostChanges:
    """Follows the host's network for `driver`, from when its guest first uses that until `close`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._sock: socket.socket | None = None
        self._settling = False
        driver.reach.when_used(self._listen)

    def close(self) -> None:
        """Stop."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._driver.discard(sock)

    def _listen(self) -> None:
        try:
            sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
        except OSError as error:
            self._driver.note(f"changes of the host's network will not be followed: {error.strerror}")
            return
        try:
            sock.bind((0, _GROUPS))
        except OSError as error:
            sock.close()
            self._driver.note(f"changes of the host's network will not be followed: {error.strerror}")
            return
        self._sock = sock
        self._driver.watch(sock, select.EPOLLIN, self.on_io)

    def on_io(self, mask: int) -> None:
        """Something has changed; what it was does not matter."""
        if self._sock is None:
            return
        for _ in range(_MESSAGES):
            try:
                self._sock.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                continue  # ENOBUFS: there was more than the socket holds
        if not self._settling:
            self._settling = True
            self._driver.call_later(_SETTLED, self._settled)

    def failed(self) -> None:
        """A fault of ours: without this the network works as long as nothing changes."""
        self.close()

    def _settled(self) -> None:
        self._settling = False
        self._driver.reach.forget_host()
        self._driver.resolver.search()  # another network has other domains
        sources: dict[str, str | None] = {}
        for flow in list(self._driver.stack.udp):
            relay = flow.relay
            if isinstance(relay, UdpRelay):
                target = relay.target
                if target not in sources:
                    sources[target] = self._source_towards(target)
                if relay.source() != sources[target]:
                    relay.expired()

    def _source_towards(self, target: str) -> str | None:
        """The host's address from which packets to `target` leave now."""
        try:
            sock = self._driver.open_socket(
                socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM, far=target
            )
        except OSError:
            return None
        try:
            sock.connect((target, 9))
            source: str = sock.getsockname()[0]
            return source
        except OSError:
            return None
        finally:
            sock.close()
