"""A container's network: the forked process that serves it, or none."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import trio

import netns.process
from netns import egress
from netns.errors import NetworkError
from netns.process import Reservation
from netns.settings import Addresses, PublishedPort, Settings

from ..errors import HostError, UsageError
from ..runtime.rootdir import RootDir
from .children import Child, fork_child, read_ready
from .options import Link, Published
from .record import Network

_PLAIN = Link()
_MESSAGE_LIMIT = 4096
NAME = "net"  # of its process
_SETTLE_SECONDS = 1.0
_SETTLE_PAUSE = 0.02  # seconds
DIED = "the process that served the container's network has died"


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
        egress=link.egress,
        pcap=link.pcap or None,
        disable_host_loopback=not network.host_loopback,
        behind_gateway=behind_gateway,
        publish=tuple(
            PublishedPort(port.container_port, port.host_port, port.host_ip, port.protocol, path=port.path)
            for port in network.published
        ),
    )


def reserve(network: Network) -> Reserved:
    """Binds the published ports. Raises HostError for one that is in use or needs a privilege, and for an address or
    an interface to send from, or a capture, that this machine cannot provide."""
    if network.mode != "user":
        return Reserved(Settings(), ())
    # Where the gateway does not lead to the host's loopback interface, it leads to the machine's own address.
    settings = _settings(network, behind_gateway=None if network.host_loopback else netns.process.host_address())
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
        ipaddress.ip_address(outbound)
    except ValueError:
        try:
            socket.if_nametoindex(outbound)
        except OSError:
            raise HostError(
                f"cannot send from the interface {outbound}: there is none of that name", hint="see: ip link"
            ) from None
        return
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.bind((outbound, 0))
    except OSError as error:
        raise HostError(f"cannot send from the address {outbound}: {error.strerror}", hint="see: ip address") from None


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


class _Word(msgspec.Struct, frozen=True):
    """What the network's process says: netns/control.py."""

    note: str = ""
    flows: str = ""
    error: str = ""


class _Flow(msgspec.Struct, frozen=True):
    """What tells of a flow in netns.flowlist's document whether it goes on."""

    container: str
    far: str
    received: int
    sent: int


class _Flows(msgspec.Struct, frozen=True):
    flows: tuple[_Flow, ...]


Reply = Callable[[int | None, str], None]
"""Takes a descriptor, which stays the giver's, or None and why there is none."""


class Server:
    """The forked process of a user-mode network. It is started before the container, and gets its namespace later."""

    def __init__(self, child: Child, channel: socket.socket, ready: int) -> None:
        self.child = child
        self._channel = channel
        self._ready = ready
        self._asked: deque[Reply] = deque()

    async def attach(self, namespace: int) -> None:
        """Gives the network namespace its interfaces. Raises HostError with the reason when that fails."""
        try:
            socket.send_fds(self._channel, [b"n"], [namespace])
        except OSError:
            pass  # it has died, and its last words, if any, can be read
        answer = await read_ready(self._ready)
        if not answer.startswith(b"1"):
            reason = answer.decode(errors="replace").strip() or "its process has died"
            raise HostError(
                f"cannot give the container a network: {reason}", hint="try --network none or --network host"
            )

    async def attend(self, on_note: Callable[[str], None]) -> None:
        """Hears what the process has to say until it dies."""
        self._channel.setblocking(False)
        try:
            while True:
                await trio.lowlevel.wait_readable(self._channel)
                try:
                    data, fds, _, _ = socket.recv_fds(self._channel, _MESSAGE_LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    data = b""
                if not data:
                    self._channel.close()
                    return
                try:
                    self._take(data, fds, on_note)
                finally:
                    for fd in fds:
                        os.close(fd)
        finally:
            while self._asked:
                self._asked.popleft()(None, DIED)

    def close(self) -> None:
        """Ends the line, and with it the process."""
        self._channel.close()

    async def settled(self) -> None:
        """Lets arrive what the container's processes wrote before they ended: waits while bytes move, but not long."""
        with trio.move_on_after(_SETTLE_SECONDS):
            before = await self._moved()
            while before:
                await trio.sleep(_SETTLE_PAUSE)
                now = await self._moved()
                if now == before:
                    return
                before = now

    async def _moved(self) -> tuple[_Flow, ...]:
        answered = trio.Event()
        found: list[bytes] = []

        def reply(fd: int | None, _: str) -> None:
            if fd is not None:
                found.append(os.pread(fd, os.fstat(fd).st_size, 0))
            answered.set()

        self.ask_flows(reply)
        await answered.wait()
        try:
            return msgspec.json.decode(found[0], type=_Flows).flows if found else ()
        except msgspec.MsgspecError:
            return ()

    def _take(self, data: bytes, fds: Sequence[int], on_note: Callable[[str], None]) -> None:
        try:
            word = msgspec.json.decode(data, type=_Word)
        except msgspec.MsgspecError:
            return  # nothing that we know
        if word.note:
            on_note(word.note)
        elif self._asked:
            self._asked.popleft()(fds[0] if fds else None, word.error or "the network did not answer")

    def ask_flows(self, reply: Reply) -> None:
        """Asks for a descriptor with netns.flowlist's document; `reply` hears of it later."""
        try:
            self._channel.send(b'{"ask": "flows"}')
        except BlockingIOError:
            reply(None, "its network is too busy to answer")
        except OSError:
            reply(None, DIED)
        else:
            self._asked.append(reply)


def last_words(log: str) -> str:
    """What the process complained of when it died by itself; see children.py. Empty when it was killed."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MESSAGE_LIMIT))
            lines = file.read(_MESSAGE_LIMIT).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.startswith(f"rcontain {NAME}: ")), "")


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
        netns.process.serve(tap, reserved.settings, reserved.reservations, writing, theirs, namespace=namespaces[0])

    child = fork_child(NAME, serve, keep=(theirs.fileno(), writing, *fds), log=log)
    os.close(writing)
    theirs.close()
    reserved.close()
    return Server(child, ours, ready)
