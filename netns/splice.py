"""Clients on the host's own loopback: their connections are joined to sockets in the guest's namespace.

Such a client has no address that means anything to the guest, so nothing is lost by leaving the TAP and our TCP out:
the bytes go from one socket into the other inside the kernel, through a pipe (splice(2)), and the guest sees a
connection from itself. The guest's address is tried first, then its loopback, since what a program offers to its own
host only is what a client on that host may have. What cannot be joined goes over the TAP like every other connection.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from netns import pacing
from netns.flowlist import Flow, endpoint
from netns.guestsockets import GuestSockets
from netns.settings import Addresses
from netns.way import COPY, Pipes, Way

if TYPE_CHECKING:
    from netns.driver import Driver

_MAX_FLOWS = 4096
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER
_READABLE = select.EPOLLIN | select.EPOLLHUP
_FIRST_UNPRIVILEGED = 1024
_PATIENCE = 1.0  # seconds until a guest that does not answer itself is tried over the TAP

Candidate = tuple[int, str]
Refused = Callable[[socket.socket], None]


class Splicer:
    """Joins clients to one guest, whose sockets come from `guest`, which it owns."""

    def __init__(self, driver: Driver, guest: GuestSockets, addresses: Addresses) -> None:
        self.driver = driver
        self.pipes = Pipes()
        self.buffer = memoryview(bytearray(COPY))
        self.flows: set[Spliced] = set()
        self._guest = guest
        own = [(socket.AF_INET, socket.inet_ntop(socket.AF_INET, addresses.guest))]
        loopback = [(socket.AF_INET, "127.0.0.1")]
        if addresses.guest6 is not None:
            own.append((socket.AF_INET6, socket.inet_ntop(socket.AF_INET6, addresses.guest6)))
            loopback.append((socket.AF_INET6, "::1"))
        self._candidates: tuple[Candidate, ...] = (*own, *loopback)

    def join(self, client: socket.socket, name: str, port: int, otherwise: Refused) -> bool:
        """Join `client`, whose end is called `name`, to the guest's `port`; True where that takes the socket over.

        Later, if the guest's side cannot be reached at all, `otherwise` gets the socket back.
        """
        if len(self.flows) >= _MAX_FLOWS:
            return False
        return Spliced(self, client, name, port, otherwise).dial()

    def candidates(self) -> Iterator[Candidate]:
        return iter(self._candidates)

    def socket(self, family: int) -> socket.socket | None:
        """A new one in the guest."""
        return self._guest.take(family)

    def list(self, now: float) -> Iterator[Flow]:
        """The flows, for netns.control."""
        for flow in list(self.flows):
            yield flow.described(now)

    def close(self) -> None:
        """Let go of the guest and of the pipes; connections go on as long as the loop runs."""
        self._guest.close()
        self.pipes.close()


class Spliced:
    """One connection: a client of the host and a socket in the guest, both of which it owns."""

    __slots__ = (
        "_candidates", "_client", "_driver", "_guest", "_interests", "_joined", "_name", "_otherwise", "_port",
        "_refused", "_since", "_splicer", "_target", "_ways",
    )  # fmt: skip

    def __init__(self, splicer: Splicer, client: socket.socket, name: str, port: int, otherwise: Refused) -> None:
        self._splicer = splicer
        self._driver = splicer.driver
        self._client = client
        self._guest: socket.socket | None = None
        self._name = name
        self._port = port
        self._otherwise = otherwise
        self._candidates = splicer.candidates()
        self._target: Candidate = (socket.AF_INET, "")
        self._since = self._driver.now
        self._joined = False
        self._refused = False
        self._interests = [0, 0]  # the client's and the guest's
        self._ways: tuple[Way, ...] = ()

    def described(self, now: float) -> Flow:
        """As a list of flows has it."""
        family, address = self._target
        up, down = (way.count for way in self._ways) if self._joined else (0, 0)
        state = "connecting"
        if self._joined:
            state = "established" if not any(way.ended for way in self._ways) else "closing"
        container = endpoint(socket.inet_pton(family, address), self._port)
        return Flow("tcp", True, container, self._name, None, state, up, down, round(max(0.0, now - self._since), 3))

    def dial(self) -> bool:
        """Dial the next candidate. False where none was dialled, and the client is still the caller's."""
        for target in self._candidates:
            self._target = target
            family, address = target
            sock = self._splicer.socket(family)
            if sock is None:
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            pacing.leave_out(sock)
            try:
                error = sock.connect_ex((address, self._port))
            except OSError as problem:
                error = problem.errno or errno.EHOSTUNREACH
            if error in (0, errno.EINPROGRESS):
                self._guest = sock
                self._splicer.flows.add(self)
                if error:
                    self._watch(1, select.EPOLLOUT)
                    self._driver.call_later(_PATIENCE, functools.partial(self._give_up, sock))
                    return True
                if self._join(sock):
                    return True
                self._forget(sock)
                error = errno.ECONNREFUSED
            else:
                sock.close()
            if not self._goes_on(error):
                return False
        if self._refused:
            self._reset()
        return self._refused

    def _goes_on(self, error: int) -> bool:
        """Whether another candidate is to be dialled after `error`; not if the guest is none as we know them."""
        if error == errno.ECONNREFUSED:
            self._refused = True
        return self._refused or self._target[0] != socket.AF_INET

    def _dialled(self) -> None:
        sock = self._guest
        assert sock is not None  # it is what is ready
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error and self._join(sock):
            return
        self._forget(sock)
        if not self._goes_on(error or errno.ECONNREFUSED) or not self.dial():
            self._otherwise(self._client)

    def _give_up(self, sock: socket.socket) -> None:
        """Where `sock` is still being connected: its loopback interface is down, or the address is not the guest's."""
        if self._guest is sock and not self._joined:
            self._forget(sock)
            self._otherwise(self._client)

    def _forget(self, sock: socket.socket) -> None:
        """The guest's side, which did not become a connection."""
        self._guest = None
        self._interests[1] = 0
        self._splicer.flows.discard(self)
        self._driver.discard(sock, shared=False)

    def _join(self, guest: socket.socket) -> bool:
        """Begin; False where the kernel connected the socket to itself, which it does if nobody listens at its port."""
        if self._port >= _FIRST_UNPRIVILEGED and guest.getsockname()[:2] == (self._target[1], self._port):
            return False
        if self._client.family != socket.AF_UNIX:
            pacing.leave_out(self._client)
        pipes = self._splicer.pipes
        self._ways = (Way(pipes, self._client, guest), Way(pipes, guest, self._client))
        self._joined = True
        self._settle()
        return True

    # The loop's calls

    def on_client(self, mask: int) -> None:
        """The client's socket is ready."""
        self._turn(mask, self._ways[0], self._ways[1])

    def on_guest(self, mask: int) -> None:
        """The guest's socket is ready."""
        if self._joined:
            self._turn(mask, self._ways[1], self._ways[0])
        else:
            self._dialled()

    def failed(self) -> None:
        """Something that was not foreseen; both ends are reset."""
        self._reset()

    def _turn(self, mask: int, incoming: Way, outgoing: Way) -> None:
        try:
            if mask == select.EPOLLIN and incoming.read(self._splicer.buffer):
                return
            if mask & select.EPOLLERR:
                error = incoming.source.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, os.strerror(error))
            if outgoing.waits and mask & (select.EPOLLOUT | select.EPOLLHUP):
                outgoing.write()
            if mask != select.EPOLLIN and mask & _READABLE and not incoming.ended and not incoming.waits:
                incoming.read(self._splicer.buffer)
            self._settle()
        except OSError:
            self._reset()

    def _settle(self) -> None:
        """Pass ends on, and watch for what can be done next. Raises OSError."""
        up, down = self._ways
        for way in self._ways:
            if way.ended and not way.shut and not way.waits:
                way.sink.shutdown(socket.SHUT_WR)
                way.shut = True
                way.release()
        if up.shut and down.shut:
            self._close()
            return
        self._watch(0, self._interest(up, down))
        self._watch(1, self._interest(down, up))

    @staticmethod
    def _interest(incoming: Way, outgoing: Way) -> int:
        """Of the end that `incoming` comes from and `outgoing` goes to."""
        interest = 0 if incoming.ended or incoming.waits else select.EPOLLIN
        if outgoing.waits:
            interest |= select.EPOLLOUT
        if not interest and not outgoing.shut:
            interest = select.EPOLLERR  # a reset is to be heard; after both ways are shut epoll would say that for ever
        return interest

    def _watch(self, end: int, interest: int) -> None:
        if self._interests[end] != interest:
            self._interests[end] = interest
            sock = self._guest if end else self._client
            assert sock is not None  # nothing else is watched
            self._driver.watch(sock, interest, self.on_guest if end else self.on_client)

    def _reset(self) -> None:
        for sock in (self._client, self._guest):
            if sock is not None and sock.fileno() >= 0 and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._close()

    def _close(self) -> None:
        self._splicer.flows.discard(self)
        for way in self._ways:
            way.release(over=True)
        self._interests = [0, 0]
        self._driver.discard(self._client, shared=False)
        if self._guest is not None:
            self._driver.discard(self._guest, shared=False)
