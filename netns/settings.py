"""What a network is to be: its addresses, its link, what is published and what is forbidden."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass

from netns.errors import NetworkError
from netns.wire.error import WireError
from netns.wire.ethernet import parse_mac

MAX_MTU = 65521  # the kernel's limit for a TAP: 65535 less the Ethernet header
MIN_MTU = 576
MIN_MTU_IPV6 = 1280  # RFC 8200 section 5

_GATEWAY = 2
_RESOLVER = 3
_GUEST = 100


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """`host_ip:host_port` leads to `container_port`. `host_ip` "" means every address of the host, of both families.

    `count` consecutive ports are published. A `host_port` of 0 lets the kernel choose. With `path` it is a socket of
    AF_UNIX there that leads to the TCP port, and the host's address and port mean nothing.
    """

    container_port: int
    host_port: int = 0
    host_ip: str = ""
    protocol: str = "tcp"
    count: int = 1
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        last = f"-{self.host_port + self.count - 1}" if self.count > 1 else ""
        return f"{host}:{self.host_port}{last}/{self.protocol}" if host else f"{self.host_port}{last}/{self.protocol}"

    def expanded(self) -> tuple[PublishedPort, ...]:
        """One `PublishedPort` for each port of the range."""
        if self.count == 1:
            return (self,)
        return tuple(
            PublishedPort(
                self.container_port + i, self.host_port + i if self.host_port else 0, self.host_ip, self.protocol
            )
            for i in range(self.count)
        )


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses on the link, packed. Those of IPv6 are None where IPv6 is off."""

    network: ipaddress.IPv4Network
    gateway: bytes
    resolver: bytes
    guest: bytes
    prefix: int
    gateway6: bytes | None
    resolver6: bytes | None
    guest6: bytes | None
    prefix6: int
    network6: ipaddress.IPv6Network | None

    @property
    def broadcast(self) -> bytes:
        return self.network.broadcast_address.packed

    @property
    def netmask(self) -> bytes:
        return self.network.netmask.packed


@dataclass(frozen=True, slots=True)
class Settings:
    """One network. `dns` overrides the host's name servers; `outbound` are host addresses to send from, or the names of
    its interfaces. `search` are domains for DHCP, else the host's. `egress` are rules (netns.egress), the first that
    matches counts. `pcap` is the path of a capture. IPv6 is off where the MTU is too small for it.

    With `disable_host_loopback` the gateway's address does not lead to the host's 127.0.0.1, but to `behind_gateway`,
    an address of the host that the guest cannot name because it lies in the guest's own network. Raises NetworkError
    for values that cannot be.
    """

    mtu: int = 65520
    cidr: str = "10.0.2.0/24"
    ipv6: bool = True
    cidr6: str = "fd00::/64"
    disable_host_loopback: bool = True
    behind_gateway: str | None = None
    disable_dns: bool = False
    dns: tuple[str, ...] = ()
    publish: tuple[PublishedPort, ...] = ()
    interface: str = "tap0"
    mac: str | None = None
    outbound: str | None = None
    outbound6: str | None = None
    search: tuple[str, ...] = ()
    egress: tuple[str, ...] = ()
    pcap: str | None = None

    def __post_init__(self) -> None:
        if not MIN_MTU <= self.mtu <= MAX_MTU:
            raise NetworkError(f"an MTU of {self.mtu} is not possible", hint=f"choose {MIN_MTU} to {MAX_MTU}")
        if not _is_interface(self.interface):
            raise NetworkError(f"{self.interface!r} cannot be the name of a network interface")
        for outbound, version in ((self.outbound, 4), (self.outbound6, 6)):
            if outbound is not None and not _is_outbound(outbound, version):
                raise NetworkError(f"{outbound!r} is neither an IPv{version} address nor the name of an interface")
        for server in (*self.dns, *filter(None, (self.behind_gateway,))):
            try:
                ipaddress.ip_address(server)
            except ValueError:
                raise NetworkError(f"{server!r} is not an IP address") from None
        if self.mac is not None:
            try:
                parse_mac(self.mac)
            except WireError as error:
                raise NetworkError(str(error)) from None
        for port in self.publish:
            last = max(port.host_port, port.container_port) + port.count - 1
            if port.path and (port.protocol != "tcp" or port.count != 1 or "\0" in port.path):
                raise NetworkError(f"{port} cannot be published", hint="a socket leads to one TCP port")
            if port.protocol not in ("tcp", "udp") or port.container_port < 1 or port.host_port < 0 or last > 65535:
                raise NetworkError(f"port {port} cannot be published as {port.container_port}")
            try:
                if port.host_ip:
                    ipaddress.ip_address(port.host_ip)
            except ValueError:
                raise NetworkError(f"cannot publish port {port}: {port.host_ip!r} is not an IP address") from None
        self.addresses()

    def addresses(self) -> Addresses:
        """The address plan: .2 is the gateway and the host, .3 the resolver, .100 (in IPv6 ::100) the guest."""
        return _plan(self.cidr, self.cidr6 if self.ipv6 and self.mtu >= MIN_MTU_IPV6 else None)


def _is_interface(name: str) -> bool:
    """As dev_valid_name of the kernel's net/core/dev.c."""
    if not 0 < len(name.encode(errors="surrogateescape")) < 16 or name in (".", ".."):
        return False
    return not any(character in "/:\0" or character.isspace() for character in name)


def _is_outbound(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return _is_interface(text)


@functools.lru_cache(maxsize=64)
def _plan(cidr: str, cidr6: str | None) -> Addresses:
    try:
        network = ipaddress.IPv4Network(cidr, strict=False)
    except ValueError:
        raise NetworkError(f"{cidr!r} is not an IPv4 network") from None
    if network.prefixlen > 25 or network.prefixlen < 1 or network.is_loopback or network.is_multicast:
        raise NetworkError(f"{cidr} cannot be the container's network", hint="choose a private /25 or larger")
    base = network.network_address
    if cidr6 is None:
        plan6 = None
    else:
        try:
            plan6 = ipaddress.IPv6Network(cidr6, strict=False)
        except ValueError:
            raise NetworkError(f"{cidr6!r} is not an IPv6 network") from None
        if plan6.prefixlen != 64 or plan6.is_link_local or plan6.is_multicast:
            raise NetworkError(f"{cidr6} cannot be the container's network", hint="choose a /64 such as fd00::")
    base6 = plan6.network_address if plan6 is not None else None
    return Addresses(
        network=network,
        gateway=(base + _GATEWAY).packed,
        resolver=(base + _RESOLVER).packed,
        guest=(base + _GUEST).packed,
        prefix=network.prefixlen,
        gateway6=(base6 + _GATEWAY).packed if base6 is not None else None,
        resolver6=(base6 + _RESOLVER).packed if base6 is not None else None,
        guest6=(base6 + 0x100).packed if base6 is not None else None,
        prefix6=64,
        network6=plan6,
    )
