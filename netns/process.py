"""A network as its owner sees it: reserve the ports, open the TAP, fork, serve.

    reservations = reserve_ports(settings)      before the container is made: a port in use is known early
    tap_fd = open_tap(pidfd, settings)          once its network namespace is there
    pid = os.fork() ... serve(tap_fd, settings, reservations, ready_fd, control)

`serve` runs in a forked child of a process that has this module imported; it imports nothing, and touches little of the
memory that it shares with its parent.
"""

from __future__ import annotations

import gc
import os
import resource
import secrets
import signal
import socket
from collections.abc import Sequence

from netns import syscalls
from netns.driver import Driver
from netns.errors import NetworkError
from netns.forward import Reservation, publish, reserve_ports
from netns.hostchanges import HostChanges
from netns.link import Link
from netns.reach import Reach
from netns.resolver import Resolver
from netns.settings import PublishedPort, Settings
from netns.stack import Stack
from netns.tap import NamespaceRef, hardware_address, loopback_up, open_tap

__all__ = [
    "NamespaceRef",
    "NetworkError",
    "PublishedPort",
    "Reservation",
    "Settings",
    "build",
    "host_address",
    "loopback_up",
    "open_tap",
    "reserve_ports",
    "serve",
]

_OUR_MAC = b"\x52\x55"  # locally administered; the rest is the gateway's address
_MAX_FLOWS = 8192
_SPARE_FDS = 64


def host_address(*, six: bool = False) -> str | None:
    """The address that the host uses towards the world, which a guest reaches as it is; None where it has none.

    For a name such as host.containers.internal where the host's loopback is out of reach. Sends nothing.
    """
    family, far = (socket.AF_INET6, "2001:db8::1") if six else (socket.AF_INET, "203.0.113.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect((far, 9))
            address: str = sock.getsockname()[0]
            return address
    except OSError:
        return None


def build(tap_fd: int, settings: Settings, reservations: Sequence[Reservation], *, advertise: bool = False) -> Driver:
    """The network, ready to run. `advertise` router advertisements, for a guest that configures itself."""
    addresses = settings.addresses()
    link = Link(_OUR_MAC + addresses.gateway, hardware_address(tap_fd), settings.mtu)
    stack = Stack(
        addresses,
        link,
        lambda: secrets.randbits(32),
        dns=not settings.disable_dns,
        advertise=advertise,
        max_flows=_raise_file_limit(),
    )
    driver = Driver(
        tap_fd,
        stack,
        Reach(settings),
        Resolver(settings.dns),
        outbound=settings.outbound,
        outbound6=settings.outbound6,
    )
    HostChanges(driver)
    for reservation in reservations:
        publish(driver, reservation, addresses)
    return driver


def serve(
    tap_fd: int,
    settings: Settings,
    reservations: Sequence[Reservation],
    ready_fd: int,
    control: socket.socket | None = None,
) -> None:
    """Run the network of `tap_fd` until `control` is at its end, or the guest deletes the device.

    The descriptor of a TAP keeps its network namespace alive, so the end of the guest is for the owner to notice.
    Closes every descriptor but its own, stdin to stderr included. Writes b"1" to `ready_fd` once packets flow, else
    a line that says why they do not, and closes it. Sentences worth logging go to `control`, one a line.
    """
    _leave_parent(tap_fd, reservations, ready_fd, control)
    try:
        driver = build(tap_fd, settings, reservations)
        if control is not None:
            control.setblocking(False)
            driver.attach_control(control)
        syscalls.set_no_new_privs()
        syscalls.drop_capabilities()
    except OSError as error:
        os.write(ready_fd, f"cannot start the network: {error}\n".encode())
        os.close(ready_fd)
        return
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    driver.run()


def _leave_parent(
    tap_fd: int, reservations: Sequence[Reservation], ready_fd: int, control: socket.socket | None
) -> None:
    """Let go of the parent's signal handlers and descriptors, and leave the shared memory alone."""
    gc.freeze()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the container; we leave when our owner does
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        if standard not in (tap_fd, ready_fd):
            os.dup2(null, standard)
    keep = {0, 1, 2, tap_fd, ready_fd, *(reservation.sock.fileno() for reservation in reservations)}
    if control is not None:
        keep.add(control.fileno())
    first = 3
    for fd in sorted(keep - {0, 1, 2}):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _raise_file_limit() -> int:
    """Take as many descriptors as we may; the number of flows that go with them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 2 * _MAX_FLOWS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(_SPARE_FDS, min(_MAX_FLOWS, soft - _SPARE_FDS))
