"""What a container's network is to be, and what this machine has to have for it. uplink.py is the process that serves
it."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Sequence

import netns.process
from netns import egress
from netns.errors import NetworkError
from netns.process import Reservation
from netns.settings import Addresses, PublishedPort, Settings
from netns.sockets import is_interface, try_outbound

from ..errors import HostError, UsageError
from ..runtime.rootdir import RootDir
from . import etcfiles
from .options import Link, Published
from .record import Network

_PLAIN = Link()


class Reserved:
    """The host's ports, bound before the container starts, so that a port in use is an error of the command."""

    def __init__(self, settings: Settings, reservations: Sequence[Reservation]) -> None:
        self.settings = settings
        self.reservations = reservations

    @property
    def published(self) -> tuple[Published, ...]:
        """With the numbers that the kernel chose where none was asked for."""
        ports = [reservation.port for reservation in self.reservations]
        return tuple(
            Published(
                host_ip=port.host_ip,
                host_port=port.host_port,
                container_port=port.container_port,
                protocol=port.protocol,
                path=port.path,
            )
            for port in dict.fromkeys(ports)
        )

    def close(self) -> None:
        """Lets go of what the network's process has by now."""
        for reservation in self.reservations:
            reservation.close()

    def remove(self) -> None:
        """The container has ended, or was never made: takes the names of its sockets away."""
        for reservation in self.reservations:
            reservation.remove()


def addresses(network: Network) -> Addresses:
    """The addresses on the link of a user-mode network."""
    return _settings(network).addresses()


def check(network: Network) -> None:
    """Raises UsageError for a network that cannot be."""
    try:
        _settings(network)
        egress.parse(network.link.egress)
    except NetworkError as error:
        raise UsageError(error.message, hint=error.hint) from None


def _settings(network: Network, *, behind_gateway: str | None = None) -> Settings:
    link = network.link
    return Settings(
        mtu=link.mtu,
        cidr=link.cidr,
        ipv6=link.ipv6,
        interface=link.interface,
        mac=link.mac or None,
        outbound=link.outbound or None,
        outbound6=link.outbound6 or None,
        dns=network.dns,
        search=tuple(domain for domain in network.dns_search if domain != "."),
        egress=_rules(network) if link.egress else (),
        pcap=link.pcap or None,
        disable_host_loopback=not network.host_loopback,
        behind_gateway=behind_gateway,
        publish=tuple(
            PublishedPort(port.container_port, port.host_port, port.host_ip, port.protocol, path=port.path)
            for port in network.published
        ),
    )


def _rules(network: Network) -> tuple[str, ...]:
    """The egress rules; before each whose name is in the container's /etc/hosts, for which nobody asks, the same with
    its addresses."""
    link = network.link
    plan = Settings(cidr=link.cidr, ipv6=link.ipv6, mtu=link.mtu).addresses()
    gateways = [str(ipaddress.ip_address(address)) for address in (plan.gateway, plan.gateway6) if address]
    gateway = gateways[0]
    known: dict[str, list[str]] = {name: list(gateways) for name in etcfiles.HOST_NAMES}
    for entry in network.add_hosts:
        name, _, address = entry.partition(":")
        known.setdefault(name.lower(), []).append(gateway if address == "host-gateway" else address)
    rules: list[str] = []
    for rule in link.egress:
        verdict, _, what = rule.partition("=")
        name = re.split("[:/]", what, maxsplit=1)[0]
        for address in known.get(name.strip().lower(), ()):
            rules.append(f"{verdict}={f'[{address}]' if ':' in address else address}{what[len(name) :]}")
        rules.append(rule)
    return tuple(rules)


def reserve(network: Network) -> Reserved:
    """Binds the published ports. Raises HostError for one that is in use or needs a privilege, and for an address or
    an interface to send from, or a capture, that this machine cannot provide."""
    if network.mode != "user":
        return Reserved(Settings(), ())
    # Where the gateway does not lead to the host's loopback interface, it leads to the machine's own address.
    host = None if network.host_loopback else netns.process.host_address() or netns.process.host_address(six=True)
    settings = _settings(network, behind_gateway=host)
    if network.link != _PLAIN:
        _check_outbound(network.link.outbound, socket.AF_INET)
        _check_outbound(network.link.outbound6, socket.AF_INET6)
        _check_capture(network.link.pcap)
    try:
        return Reserved(settings, netns.process.reserve_ports(settings))
    except NetworkError as error:
        raise HostError(str(error)) from error


def _check_outbound(outbound: str, family: int) -> None:
    if not outbound:
        return
    try:
        try_outbound(outbound, family)
    except OSError as error:
        if is_interface(outbound):
            reason, hint = f"the interface {outbound}: there is none of that name", "see: ip link"
        else:
            reason, hint = f"the address {outbound}: {error.strerror}", "see: ip address"
        raise HostError(f"cannot send from {reason}", hint=hint) from None


def _check_capture(path: str) -> None:
    if not path:
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
    except OSError as error:
        raise HostError(f"cannot write the capture {path}: {error.strerror}") from None


def hardware_address(network: Network, pid: int) -> str:
    """That of a running container's interface, as the container sees it in /sys; what was asked for otherwise."""
    try:
        with RootDir.at(f"/proc/{pid}/root") as root:
            text = (root.read(f"/sys/class/net/{network.link.interface}/address", 4096) or b"").decode().strip()
    except (OSError, ValueError):
        text = ""  # it has ended, or does as it likes with its /sys
    return text if re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", text) else network.link.mac
