"""Where an address that the guest names leads on the host's side."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from enum import Enum, auto

from netns.settings import Settings

HostAddress = tuple[str, int]


class Special(Enum):
    """Answers that are not an address of the host's network."""

    RESOLVER = auto()  # our name server
    FORBIDDEN = auto()  # nothing the guest may reach


_LOOPBACK4 = "127.0.0.1"
_LOOPBACK6 = "::1"
_DNS_PORT = 53
_LOOK_AGAIN = 5.0  # seconds between two looks for the host's address
_MAPPED = bytes(10)  # ::/80 holds the unspecified, the loopback and the IPv4-mapped addresses


def host_address(*, six: bool = False) -> str | None:
    """The address that the host uses towards the world, which a guest reaches as it is; None where it has none.

    Sends nothing.
    """
    family, far = (socket.AF_INET6, "2001:db8::1") if six else (socket.AF_INET, "203.0.113.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect((far, 9))
            address: str = sock.getsockname()[0]
            return address
    except OSError:
        return None


class Reach:
    """The rules of one network: our own addresses have meanings, and the host's loopback is out of reach.

    Datagrams to the gateway of IPv6 go to the host's IPv4 address, if it has one: whoever listens on both hears them.
    The address behind the gateway is the host's of the moment; that of the settings is where to begin.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: Callable[..., str | None] = host_address,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        addresses = settings.addresses()
        self._gateways = {addresses.gateway, addresses.gateway6}
        self._resolvers = {addresses.resolver, addresses.resolver6}
        self._network = int(addresses.network.network_address)
        self._mask = int(addresses.network.netmask)
        self._network6 = addresses.network6.network_address.packed[:8] if addresses.network6 is not None else None
        self._loopback = not settings.disable_host_loopback
        self._leads_to_host = settings.behind_gateway is not None
        six = self._leads_to_host and ":" in str(settings.behind_gateway)
        self._behind: dict[bool, str | None] = {six: settings.behind_gateway}  # by whether it is of IPv6
        self._host = host
        self._clock = clock
        self._looked = {six: clock()}
        self._used: Callable[[], None] | None = None
        self._dns = not settings.disable_dns

    def when_used(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the guest first names something on the host's network."""
        self._used = callback

    def forget_host(self) -> None:
        """The host's address may have changed."""
        self._looked.clear()

    def behind_gateway(self, *, six: bool = False) -> str | None:
        """The host's address where the gateway leads there; the last one where it has none at the moment."""
        if self._leads_to_host and (now := self._clock()) - self._looked.get(six, float("-inf")) >= _LOOK_AGAIN:
            self._looked[six] = now
            self._behind[six] = self._host(six=six) or self._behind.get(six)
        return self._behind.get(six)

    def candidates(self, far: bytes, target: HostAddress) -> list[HostAddress]:
        """Whom to dial where a connection to `far` goes to `target`. Behind the gateway of IPv6 it is the host over
        either family, since a program that finds both prefers IPv6 (RFC 6724) and may not try the other."""
        if len(far) == 4 or far not in self._gateways:
            return [target]
        port = target[1]
        both = [_LOOPBACK6, _LOOPBACK4] if self._loopback else [self.behind_gateway(six=True), self.behind_gateway()]
        return [(address, port) for address in both if address]

    def of(self, far: bytes, port: int) -> HostAddress | Special:
        """Where a packet to `far`, a unicast address, and `port` goes."""
        if self._used is not None:
            used, self._used = self._used, None
            used()
        if far in self._gateways:
            if not self._loopback:
                host = self.behind_gateway()
                if len(far) == 16 and not host:
                    host = self.behind_gateway(six=True)
                return (host, port) if host else Special.FORBIDDEN
            return (_LOOPBACK4 if len(far) == 4 else _LOOPBACK6, port)
        if far in self._resolvers:
            return Special.RESOLVER if self._dns and port == _DNS_PORT else Special.FORBIDDEN
        if len(far) == 4:
            on_link = int.from_bytes(far, "big") & self._mask == self._network
            if on_link or far[0] == 127:
                return Special.FORBIDDEN
            return (socket.inet_ntop(socket.AF_INET, far), port)
        on_link = far[:8] == self._network6
        if on_link or far[:10] == _MAPPED or (far[0] == 0xFE and far[1] & 0xC0 == 0x80):
            return Special.FORBIDDEN
        return (socket.inet_ntop(socket.AF_INET6, far), port)
