"""Where an address that the guest names leads on the host's side. Pure."""

from __future__ import annotations

import socket
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
_MAPPED = bytes(10)  # ::/80 holds the unspecified, the loopback and the IPv4-mapped addresses


class Reach:
    """The rules of one network: our own addresses have meanings, and the host's loopback is out of reach."""

    def __init__(self, settings: Settings) -> None:
        addresses = settings.addresses()
        self._gateways = {addresses.gateway, addresses.gateway6}
        self._resolvers = {addresses.resolver, addresses.resolver6}
        self._network = int(addresses.network.network_address)
        self._mask = int(addresses.network.netmask)
        self._network6 = addresses.network6.network_address.packed[:8] if addresses.network6 is not None else None
        self._loopback = not settings.disable_host_loopback
        self._behind_gateway = settings.behind_gateway
        self._dns = not settings.disable_dns

    def of(self, far: bytes, port: int) -> HostAddress | Special:
        """Where a packet to `far`, a unicast address, and `port` goes."""
        if far in self._gateways:
            if not self._loopback:
                return (self._behind_gateway, port) if self._behind_gateway and len(far) == 4 else Special.FORBIDDEN
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
