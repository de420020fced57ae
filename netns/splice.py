"""Clients on the host's own loopback: their connections are joined to sockets in the guest's namespace.

Such a client has no address that means anything to the guest, so nothing is lost by leaving the TAP and our TCP out:
the bytes go from one socket into the other inside the kernel, through a pipe (splice(2)), and the guest sees a
connection from itself. The guest's address is tried first, then its loopback, since what a program offers to its own
host only is what a client on that host may have. What cannot be joined goes over the TAP like every other connection.

Little messages are received and sent, which is cheaper than to splice them; a pipe is taken when reads fill the buffer.
What the receiver does not take stays in the pipe or in the buffer, and then no more is read.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from netns.flowlist import Flow, endpoint
from netns.guestsockets import GuestSockets
from netns.settings import Addresses

if TYPE_CHECKING:
    from netns.driver import Driver

_COPY = 65536  # bytes of a read that is not spliced
_PIPE = 1 << 20  # bytes that a pipe holds, if the user may have it so large
_SEND_BUFFER = 4 << 20  # bytes; the kernel's own limit for a TCP socket without SO_SNDBUF (tcp(7), tcp_wmem)
_LITTLE = 16384  # a splice that brings less gives the pipe back
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_MAX_PIPES = 8  # that are kept for the next
_MAX_FLOWS = 4096
_F_SETPIPE_SZ = 1031  # fcntl(2)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER
_READABLE = select.EPOLLIN | select.EPOLLHUP
_FIRST_UNPRIVILEGED = 1024
_PATIENCE = 1.0  # seconds until a guest that does not answer itself is tried over the TAP

Candidate = tuple[int, str]
Refused = Callable[[socket.socket], None]


class Pipes:
    """Pipes that are empty, kept for whoever needs one next, and `send_buffer`, the bytes of a socket's that go with
    them; 0 where the host allows so few that the kernel's own choice is better."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, int]] = []

    @functools.cached_property
    def send_buffer(self) -> int:
        try:
            with open("/proc/sys/net/core/wmem_max", encoding="ascii") as file:
                return _SEND_BUFFER if int(file.read()) >= _SEND_BUFFER else 0
        except (OSError, ValueError):
            return 0

    def take(self) -> tuple[int, int] | None:
        """The ends to read from and to write to; None where there are no descriptors for them."""
        if self._idle:
            return self._idle.pop()
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, _PIPE)
        except OSError:
            pass  # the user's pipes hold as much as they may (pipe(7), pipe-user-pages-soft): it stays small
        return pipe

    def give(self, pipe: tuple[int, int], *, empty: bool) -> None:
        """Back, from whoever took it."""
        if empty and len(self._idle) < _MAX_PIPES:
            self._idle.append(pipe)
        else:
            os.close(pipe[0])
            os.close(pipe[1])

    def close(self) -> None:
        while self._idle:
            for fd in self._idle.pop():
                os.close(fd)


class Splicer:
    """Joins clients to one guest, whose sockets come from `guest`, which it owns."""

    def __init__(self, driver: Driver, guest: GuestSockets, addresses: Addresses) -> None:
        self.driver = driver
        self.pipes = Pipes()
        self.buffer = memoryview(bytearray(_COPY))
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


class _Way:
    """One direction: from `source` to `sink`, and what is between them, in `pipe` (`held` bytes) or in `copied`."""

    __slots__ = ("_pipes", "copied", "count", "ended", "held", "pipe", "shut", "sink", "source", "wide")

    def __init__(self, pipes: Pipes, source: socket.socket, sink: socket.socket) -> None:
        self._pipes = pipes
        self.source = source
        self.sink = sink
        self.pipe: tuple[int, int] | None = None
        self.held = 0
        self.copied = b""
        self.count = 0
        self.ended = False
        self.shut = False
        self.wide = False

    @property
    def waits(self) -> bool:
        """There are bytes for the sink."""
        return bool(self.held or self.copied)

    def read(self, buffer: memoryview) -> bool:
        """Move what the source has, once; True where that changes nothing else. Raises OSError, of either end."""
        if self.pipe is not None:
            return self._splice(self.pipe)
        try:
            size = self.source.recv_into(buffer)
        except BlockingIOError:
            return True
        if not size:
            self.ended = True
            return False
        try:
            sent = self.sink.send(buffer[:size])
        except BlockingIOError:
            sent = 0
        self.count += sent
        if size == _COPY:
            self.pipe = self._pipes.take()
            self._widen()
        if sent < size:
            self.copied = bytes(buffer[sent:size])
            return False
        return True

    def _splice(self, pipe: tuple[int, int]) -> bool:
        try:
            size = os.splice(self.source.fileno(), pipe[1], _PIPE, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            return True
        if not size:
            self.ended = True
            return False
        self.held = size
        self.write()
        if size < _LITTLE:
            self.release()
        return not self.held

    def _widen(self) -> None:
        """Much is coming: let the sink take much at a time, where that is more than the kernel would come to itself."""
        if not self.wide and self._pipes.send_buffer:
            self.wide = True
            self.sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._pipes.send_buffer)

    def write(self) -> None:
        """Give the sink what waits for it. Raises OSError."""
        try:
            if self.copied:  # came before what is in the pipe
                sent = self.sink.send(self.copied)
                self.count += sent
                self.copied = self.copied[sent:]
            if self.held and not self.copied and self.pipe is not None:
                sent = os.splice(self.pipe[0], self.sink.fileno(), self.held, flags=_SPLICE_FLAGS)
                self.count += sent
                self.held -= sent
        except BlockingIOError:
            return  # the loop says when there is room

    def release(self, *, over: bool = False) -> None:
        """Give the pipe back, unless it is still needed."""
        if self.pipe is not None and (over or not self.held):
            self._pipes.give(self.pipe, empty=not self.held)
            self.pipe = None


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
        self._ways: tuple[_Way, ...] = ()

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
        pipes = self._splicer.pipes
        self._ways = (_Way(pipes, self._client, guest), _Way(pipes, guest, self._client))
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

    def _turn(self, mask: int, incoming: _Way, outgoing: _Way) -> None:
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
    def _interest(incoming: _Way, outgoing: _Way) -> int:
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
