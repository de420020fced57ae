"""A container's network: the forked process that serves it, or none."""

from __future__ import annotations

import os
from collections.abc import Sequence

import netns.process
from netns.errors import NetworkError
from netns.process import Reservation
from netns.settings import PublishedPort, Settings

from ..errors import HostError
from .children import Child, fork_child, read_ready
from .options import Published
from .record import Network


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


async def attach(network: Network, reserved: Reserved, namespace: int | None) -> Child | None:
    """Gives the network namespace its interfaces; None is the host's, which has them. Raises HostError."""
    if namespace is None:
        return None
    if network.mode == "none":
        netns.process.loopback_up(namespace)
        return None
    ready, writing = os.pipe()
    fds = [reservation.sock.fileno() for reservation in reserved.reservations]

    def serve() -> None:
        tap = netns.process.open_tap(namespace, reserved.settings)
        netns.process.serve(tap, reserved.settings, reserved.reservations, writing)

    child = fork_child("net", serve, keep=(2, namespace, writing, *fds))
    os.close(writing)
    reserved.close()
    answer = await read_ready(ready)
    if not answer.startswith(b"1"):
        await child.wait()
        reason = answer.decode(errors="replace").strip() or "its process has died"
        raise HostError(f"cannot give the container a network: {reason}", hint="try --network none or --network host")
    return child
