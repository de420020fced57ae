"""The host's side of UDP flows: one socket each, moved by the driver's loop.

What the guest's IP header asks for is asked of the host's socket: how many routers a datagram may cross (one less than
it says, since we are one) and that it is not cut. What ICMP says on the host's network comes back through the socket's
queue of errors, and the guest hears the same, from the same address.

A guest that sends as fast as it can has its datagrams sent in runs, which costs half as much as one by one.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
from typing import TYPE_CHECKING

from netns import errorqueue
from netns.icmperrors import offender, passed_on, quote_datagram, unreachable
from netns.reach import HostAddress
from netns.udp import UdpFlow
from netns.wire.error import Buffer

if TYPE_CHECKING:
    from netns.driver import Driver
    from netns.errorqueue import QueuedError

_DATAGRAMS = 32  # before the other flows have their turn
_HOP_LIMIT = 64  # what guests send unless they look for a path; the host's own default is as good
_ETHERNET = 1500 - 28  # bytes of payload that fit Ethernet's MTU with IPv4's header and UDP's
_ETHERNET6 = 1500 - 48
_SEGMENTS = 64  # of one system call: UDP_MAX_SEGMENTS of linux/udp.h before 6.9
_SEGMENTED = 65000  # bytes of one
_UDP_SEGMENT = 103  # udp(7)
_SIZE = struct.Struct("=H")
_UDP_GRO = 104
_GATHERED = struct.Struct("=i")
_RUNS = 16  # gathered datagrams before the other flows have their turn
_ANCILLARY = 64
_CUTS_DATAGRAMS = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 2)  # a TAP does
_RECEIVE_BUFFER = 1 << 20  # bytes; the kernel takes what net.core.rmem_max allows


class UdpRelay:
    """A host socket connected to the far end of `flow`; it owns the socket."""

    __slots__ = (
        "_batches",
        "_driver",
        "_ethernet",
        "_flow",
        "_gathers",
        "_hop_limit",
        "_sock",
        "_strict",
        "_target",
        "_turn",
        "_waiting",
    )

    def __init__(self, driver: Driver, flow: UdpFlow, address: HostAddress) -> None:
        """Raises OSError where the host has no way to `address`."""
        self._driver = driver
        self._flow = flow
        self._target = address[0]
        self._hop_limit = _HOP_LIMIT
        self._strict = False
        self._turn = -1.0  # of the driver's clock: when something was last sent
        self._waiting: list[bytes] = []
        self._batches = True
        self._gathers: bool | None = None  # not asked yet
        self._ethernet = _ETHERNET if len(flow.guest) == 4 else _ETHERNET6
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._sock = driver.open_socket(family, socket.SOCK_DGRAM, far=address[0])
        try:
            errorqueue.enable(self._sock)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._sock.connect(address)
            driver.watch(self._sock, select.EPOLLIN, self.on_io)
        except OSError:
            self._sock.close()
            raise
        flow.relay = self

    def forward(self, payload: Buffer) -> None:
        """Send one payload; a datagram that cannot leave is lost, as on any network.

        The first of a turn is sent at once. What comes after it in the same turn is sent together at its end, by one
        system call where the kernel cuts it (udp(7), UDP_SEGMENT).
        """
        flow, driver = self._flow, self._driver
        # A guest's kernel forbids to cut everything that fits our link, whose MTU may be far larger than any network's.
        # Of what is larger than Ethernet's we only believe it where a path is being looked for; the rest is cut, as it
        # would have been by a guest on an ordinary link.
        strict = flow.dont_fragment and (len(payload) <= self._ethernet or flow.hop_limit != _HOP_LIMIT)
        if strict is not self._strict or flow.hop_limit != self._hop_limit:
            self._flush()
            self._prepare(strict, flow.hop_limit)
        if driver.now != self._turn:
            self._turn = driver.now
            self._send(payload)
            return
        if not self._waiting:
            driver.call_later(0.0, self._flush)
        self._waiting.append(bytes(payload))
        if len(self._waiting) >= _SEGMENTS:
            self._flush()

    def _prepare(self, strict: bool, hops: int) -> None:
        try:
            if hops != self._hop_limit:
                self._hop_limit = hops
                errorqueue.set_hop_limit(self._sock, -1 if hops == _HOP_LIMIT else max(1, hops - 1))
            if strict is not self._strict:
                self._strict = strict
                errorqueue.forbid_fragments(self._sock, strict)
        except OSError:
            self._driver.lost += 1  # a kernel that knows neither: what is sent goes as far as it does

    def _flush(self) -> None:
        """Send what waits, in runs of one size of which the last may be shorter."""
        waiting = self._waiting
        if not waiting:
            return
        self._waiting = []
        start = 0
        while start < len(waiting):
            size = total = len(waiting[start])
            end = start + 1
            while (
                self._batches
                and end < len(waiting)
                and len(waiting[end - 1]) == size >= len(waiting[end]) > 0
                and (total := total + len(waiting[end])) <= _SEGMENTED
            ):
                end += 1
            if end - start == 1 or not self._send_run(waiting[start:end], size):
                for payload in waiting[start:end]:
                    self._send(payload)
            start = end

    def _send_run(self, run: list[bytes], size: int) -> bool:
        """False where they must go one by one: kernel or path allow no less, or an error is to be passed on."""
        try:
            self._sock.sendmsg(run, [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SIZE.pack(size))])
        except BlockingIOError:
            self._driver.lost += len(run)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT):
                self._batches = False
            return False
        return True

    def _send(self, payload: Buffer) -> None:
        try:
            self._sock.send(payload)
        except BlockingIOError:
            self._driver.lost += 1
        except OSError as error:
            self._send_again(payload, error)

    def _send_again(self, payload: Buffer, error: OSError) -> None:
        """What `send` raised may be about an earlier datagram; then this one has not been tried yet."""
        reported = self._pass_errors_on(payload)
        if error.errno == errno.EMSGSIZE:
            return
        try:
            self._sock.send(payload)
        except BlockingIOError:
            self._driver.lost += 1
        except OSError as again:
            self._driver.lost += 1
            if not self._pass_errors_on(payload) and not reported:
                self._unreachable(again)

    def on_io(self, mask: int) -> None:
        """The socket is ready."""
        # First, since receiving takes an error away that is pending, and would be all that is left of it.
        reported = self._pass_errors_on() if mask & select.EPOLLERR else False
        try:
            if self._gathers:
                self._receive_runs()
            else:
                self._receive()
        except BlockingIOError:
            return
        except OSError as error:
            if not self._pass_errors_on() and not reported:
                self._unreachable(error)

    def _receive(self) -> None:
        driver, flow, sock = self._driver, self._flow, self._sock
        for _ in range(_DATAGRAMS):
            driver.stack.send_datagram(flow, sock.recv(65535), driver.now)
        if self._gathers is None:
            self._gathers = self._gather()

    def _gather(self) -> bool:
        """So much arrives: let the kernel gather it, where it can cut it again for the guest. Whether it does."""
        if not _CUTS_DATAGRAMS:
            return False
        try:
            self._sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        except OSError:
            return False
        return True

    def _receive_runs(self) -> None:
        driver, flow, sock = self._driver, self._flow, self._sock
        for _ in range(_RUNS):
            payload, ancillary, _, _ = sock.recvmsg(65535, _ANCILLARY)
            size = next((_GATHERED.unpack(data)[0] for _, kind, data in ancillary if kind == _UDP_GRO), 0)
            if 0 < size < len(payload):
                driver.stack.send_run(flow, payload, size, driver.now)
            else:
                driver.stack.send_datagram(flow, payload, driver.now)

    def _pass_errors_on(self, sent: Buffer = b"") -> bool:
        """Tell the guest what is in the queue of errors; whether there was anything."""
        queue = errorqueue.drain(self._sock)
        for queued in queue:
            self._pass_on(queued, queued.payload or sent)
        return bool(queue)

    def _pass_on(self, queued: QueuedError, payload: Buffer) -> None:
        flow, driver = self._flow, self._driver
        six = len(flow.guest) == 16
        if six is not (":" in self._target):  # the host, over the other family
            said = unreachable(queued.errno, six=six)
            source = flow.far if said.by_the_far_end else None
            driver.stack.send_error(said, quote_datagram(flow, payload), source=source, now=driver.now)
            return
        error = passed_on(queued, six=six)
        if error is not None:
            source = offender(queued, flow.far, self._target, driver.reach)
            driver.stack.send_error(error, quote_datagram(flow, payload), source=source, now=driver.now)

    def _unreachable(self, error: OSError) -> None:
        flow, driver = self._flow, self._driver
        said = unreachable(error.errno or errno.EHOSTUNREACH, six=len(flow.guest) == 16)
        source = flow.far if said.by_the_far_end else None
        driver.stack.send_error(said, quote_datagram(flow), source=source, now=driver.now)

    @property
    def target(self) -> str:
        """The address of the far end on the host's network."""
        return self._target

    def source(self) -> str:
        """The address of the host from which datagrams leave."""
        address: str = self._sock.getsockname()[0]
        return address

    def failed(self) -> None:
        """A fault of ours: this flow ends, and the guest's next datagram begins another."""
        self._waiting = []
        self._driver.stack.forget_udp(self._flow)
        self.expired()

    def expired(self) -> None:
        """The flow is forgotten."""
        self._flush()
        self._flow.relay = None
        self._driver.discard(self._sock)
