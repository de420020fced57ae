"""A network as its owner sees it: reserve the ports, open the TAP, fork, serve.

    reservations = reserve_ports(settings)      before the container is made: a port in use is known early
    tap_fd = open_tap(pidfd, settings)          once its network namespace is there
    pid = os.fork() ... serve(tap_fd, settings, reservations, ready_fd, control)

`serve` runs in a forked child of a process that has this module imported; it imports nothing, and touches little of the
memory that it shares with its parent.
"""

from __future__ import annotations

import functools
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence

from netns import egress, syscalls
from netns.advertising import Advertiser
from netns.capture import Capture
from netns.control import Control
from netns.driver import Driver
from netns.errors import NetworkError
from netns.forward import Reservation, publish, reserve_ports
from netns.guestsockets import GuestSockets
from netns.hostchanges import HostChanges
from netns.link import Link
from netns.loop import Notes
from netns.reach import Reach, host_address
from netns.resolver import Resolver
from netns.settings import PublishedPort, Settings
from netns.splice import Splicer
from netns.stack import Stack
from netns.tap import NamespaceRef, hardware_address, loopback_up, open_tap
from netns.tcp.initial import initial_numbers

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
_HOST_NAMES = ("host.containers.internal", "host.docker.internal")  # the gateway's in a container's /etc/hosts
_MAX_FLOWS = 8192
_SPARE_FDS = 64


def build(
    tap_fd: int,
    settings: Settings,
    reservations: Sequence[Reservation],
    *,
    guest: GuestSockets | None = None,
    control: Callable[[Driver], Notes] | None = None,
    advertise: bool = False,
) -> Driver:
    """The network, ready to run. `advertise` router advertisements, for a guest that configures itself.

    With `guest` clients of the host's loopback are joined to it directly. What `control` makes hears notes from the
    start. Raises NetworkError for rules that are none, and for a capture that cannot be written.
    """
    addresses = settings.addresses()
    link = Link(_OUR_MAC + addresses.gateway, hardware_address(tap_fd), settings.mtu)
    stack = Stack(
        addresses,
        link,
        initial_numbers().__next__,
        dns=not settings.disable_dns,
        advertise=advertise,
        max_flows=_raise_file_limit(),
    )
    driver = Driver(
        tap_fd,
        stack,
        Reach(settings),
        Resolver(settings.dns, search=settings.search),
        outbound=settings.outbound,
        outbound6=settings.outbound6,
    )
    stack.search = driver.resolver.search
    driver.egress = egress.parse(settings.egress)
    for name in _HOST_NAMES:
        for gateway in filter(None, (addresses.gateway, addresses.gateway6)):
            driver.egress.names.fix(name, gateway)
    splicer = Splicer(driver, guest, addresses) if guest is not None else None
    if control is not None:
        driver.control = control(driver)
        if splicer is not None and isinstance(driver.control, Control):
            driver.control.sources.append(splicer.list)
        if isinstance(driver.control, Control) and not settings.search:
            driver.resolver.on_search = driver.control.search
    if settings.pcap is not None:
        driver.capture = Capture.create(settings.pcap, mac=link.mac, note=driver.note, interface=settings.interface)
    HostChanges(driver)
    if advertise:
        Advertiser(driver)
    for reservation in reservations:
        publish(driver, reservation, addresses, splicer)
    return driver


def serve(
    tap_fd: int,
    settings: Settings,
    reservations: Sequence[Reservation],
    ready_fd: int,
    control: socket.socket | None = None,
    *,
    namespace: int | None = None,
) -> None:
    """Run the network of `tap_fd` until `control` is at its end, or the guest deletes the device.

    The descriptor of a TAP keeps its network namespace alive, so the end of the guest is for the owner to notice.
    Closes every descriptor but its own, stdin to stderr included. Writes b"1" to `ready_fd` once packets flow, else
    a line that says why they do not, and closes it. `control` is for netns.control.

    With `namespace`, the guest's, which is closed too, clients of the host's loopback are joined to it directly.
    """
    guest = _enter(namespace, reservations)
    _leave_parent(tap_fd, reservations, ready_fd, control)
    try:
        line = functools.partial(Control, sock=control) if control is not None else None
        driver = build(tap_fd, settings, reservations, guest=guest, control=line)
        syscalls.set_no_new_privs()
        syscalls.drop_capabilities()
    except (OSError, NetworkError) as error:
        os.write(ready_fd, f"cannot start the network: {error}\n".encode())
        os.close(ready_fd)
        return
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    driver.run()


def _enter(namespace: int | None, reservations: Sequence[Reservation]) -> GuestSockets | None:
    """A way into the guest's namespace where there is something to join; without one everything crosses the TAP."""
    if namespace is None or not any(reservation.port.protocol == "tcp" for reservation in reservations):
        return None
    try:
        return GuestSockets(namespace)
    except OSError:
        return None


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
