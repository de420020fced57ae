"""A container's network: the forked process that serves it, or none."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence

import netns.process
from netns.errors import NetworkError
from netns.process import Reservation
from netns.settings import PublishedPort, Settings

from ..errors import HostError
from .children import Child, fork_child, read_ready
from .etcfiles import GATEWAY
from .options import Published
from .record import Network

_SUBNET = Settings().addresses().network


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
            )
            for port in dict.fromkeys(ports)
        )

    def close(self) -> None:
        for reservation in self.reservations:
            reservation.close()


def reserve(network: Network) -> Reserved:
    """Binds the published ports. Raises HostError for one that is in use or needs a privilege."""
    settings = Settings(
        dns=network.dns,
        disable_host_loopback=not network.host_loopback,
        behind_gateway=_hidden_host(),
        publish=tuple(
            PublishedPort(port.container_port, port.host_port, port.host_ip, port.protocol)
            for port in network.published
        ),
    )
    if network.mode != "user":
        return Reserved(settings, ())
    try:
        return Reserved(settings, netns.process.reserve_ports(settings))
    except NetworkError as error:
        raise HostError(str(error)) from error


def host(network: Network) -> str | None:
    """Under which address a container reaches this machine: the gateway's where that leads to the host's loopback
    interface or the machine's own is hidden, else its own as the rest of the world sees it; None where it has none."""
    return GATEWAY if network.host_loopback or _hidden_host() else netns.process.host_address()


def _hidden_host() -> str | None:
    """This machine's address where a container cannot see it, since its own network has the same addresses: virtual
    machines behind NAT are 10.0.2.15 by custom (QEMU, VirtualBox)."""
    address = netns.process.host_address()
    return address if address is not None and ipaddress.IPv4Address(address) in _SUBNET else None


class Server:
    """The forked process of a user-mode network. It is started before the container, and gets its namespace later."""

    def __init__(self, child: Child, channel: socket.socket, ready: int) -> None:
        self.child = child
        self._channel = channel
        self._ready = ready

    async def attach(self, namespace: int) -> None:
        """Gives the network namespace its interfaces. Raises HostError with the reason when that fails."""
        with self._channel:
            socket.send_fds(self._channel, [b"n"], [namespace])
        answer = await read_ready(self._ready)
        if not answer.startswith(b"1"):
            reason = answer.decode(errors="replace").strip() or "its process has died"
            raise HostError(
                f"cannot give the container a network: {reason}", hint="try --network none or --network host"
            )


def start(network: Network, reserved: Reserved, log: str) -> Server | None:
    """Forks the process that will serve the network; None when the container is to have no network of ours.

    `log` is the file for what that process complains of.
    """
    if network.mode != "user":
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ready, writing = os.pipe()
    fds = [reservation.sock.fileno() for reservation in reserved.reservations]

    def serve() -> None:
        message, namespaces, _, _ = socket.recv_fds(theirs, 1, 1)
        if not message:
            return  # the container could not be made
        try:
            tap = netns.process.open_tap(namespaces[0], reserved.settings)
        except NetworkError as error:
            os.write(writing, f"{error}\n".encode())
            return
        netns.process.serve(tap, reserved.settings, reserved.reservations, writing)

    child = fork_child("net", serve, keep=(theirs.fileno(), writing, *fds), log=log)
    os.close(writing)
    theirs.close()
    reserved.close()
    return Server(child, ours, ready)
