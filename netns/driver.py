"""The loop: the TAP, the stack's timers and the host's sockets. This and the relays are all the I/O there is.

Level-triggered epoll, one turn at a time: handle what is ready (the TAP until it would block or a batch is full), then
poll the stack once, so that everything a batch brought is acknowledged together.
"""

from __future__ import annotations

import errno
import heapq
import os
import select
import socket
import time
from collections.abc import Callable
from itertools import count

from netns.capture import Capture
from netns.datagrams import UdpRelay
from netns.events import Datagram, EchoRequested, Event, TcpOpened, TcpReady, TcpReceived, UdpExpired
from netns.icmp import Pings
from netns.reach import HostAddress, Reach, Special
from netns.relay import TcpRelay
from netns.resolver import Resolver
from netns.stack import Stack
from netns.tcp.flow import TcpFlow
from netns.udp import UdpFlow

_BATCH = 64  # frames before the sockets have their turn
_FRAME = 65536 + 64
_IOV_MAX = 1024
_MAX_NOTES = 64

Handler = Callable[[int], None]


class Timer:
    """A callback that will be run once; `cancel` makes it not."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Driver:
    """Runs `stack` over `tap_fd`, which stays the caller's."""

    def __init__(
        self,
        tap_fd: int,
        stack: Stack,
        reach: Reach,
        resolver: Resolver,
        *,
        outbound: str | None = None,
        outbound6: str | None = None,
    ) -> None:
        self.stack = stack
        self.reach = reach
        self.now = time.monotonic()
        self.lost = 0  # datagrams and frames that could not be passed on
        self._tap = tap_fd
        self._resolver = resolver
        self._outbound = {socket.AF_INET: outbound, socket.AF_INET6: outbound6}
        self._control: socket.socket | None = None
        self._noted: set[str] = set()
        self.capture: Capture | None = None
        self._pings = Pings(self)
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._closing: list[socket.socket] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._buffer = bytearray(_FRAME)
        self._running = False
        self._epoll.register(tap_fd, select.EPOLLIN)
        self._handlers[tap_fd] = self._on_tap
        resolver.attach(self)

    # For the relays

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A non-blocking socket for traffic of the guest, bound to the outbound address if there is one."""
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        address = self._outbound.get(socket.AddressFamily(family))
        if address is not None:
            try:
                sock.bind((address, 0))
            except OSError:
                sock.close()
                raise
        return sock

    def watch(self, sock: socket.socket, interest: int, handler: Handler) -> None:
        """Call `handler` when `sock` is ready for `interest` (epoll's bits); 0 to stop."""
        self.watch_fd(sock.fileno(), interest, handler)

    def watch_fd(self, fd: int, interest: int, handler: Handler) -> None:
        """The same for a bare descriptor, which must outlive the watching."""
        if not interest:
            if self._handlers.pop(fd, None) is not None:
                self._epoll.unregister(fd)
        elif fd in self._handlers:
            self._epoll.modify(fd, interest)
            self._handlers[fd] = handler
        else:
            self._epoll.register(fd, interest)
            self._handlers[fd] = handler

    def discard(self, sock: socket.socket) -> None:
        """Close `sock`, at the end of the turn: its number must not be another's while events are handled."""
        self.watch(sock, 0, self._ignore)
        self._closing.append(sock)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` once, in `seconds`."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), timer))
        return timer

    def note(self, sentence: str) -> None:
        """Tell whoever holds the other end of the control socket, once."""
        if self._control is None or sentence in self._noted or len(self._noted) >= _MAX_NOTES:
            return
        self._noted.add(sentence)
        try:
            self._control.send(sentence.encode() + b"\n")
        except OSError:
            self.lost += 1  # nobody reads: it was only a note

    def attach_control(self, control: socket.socket) -> None:
        """Stop when `control`, non-blocking, is at its end; notes go there."""
        self._control = control
        self.watch(control, select.EPOLLIN, self._on_control)

    def _on_control(self, mask: int) -> None:
        assert self._control is not None  # it is what is ready
        try:
            if self._control.recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # the other end died
        self.stop()

    def stop(self) -> None:
        """Let `run` return after this turn."""
        self._running = False

    # The loop

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        while self._running:
            self._turn()

    def close(self) -> None:
        """Close the loop's own descriptor and what was discarded."""
        for sock in self._closing:
            sock.close()
        self._epoll.close()

    def _turn(self) -> None:
        ready = self._epoll.poll(self._timeout())
        self.now = time.monotonic()
        handlers = self._handlers
        for fd, mask in ready:
            handler = handlers.get(fd)
            if handler is not None:
                handler(mask)
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            callback = heapq.heappop(timers)[2].callback
            if callback is not None:
                callback()
        self._flush()
        if self._closing:
            for sock in self._closing:
                sock.close()
            self._closing.clear()

    def _timeout(self) -> float:
        due = self.stack.deadline()
        if self._timers and (due is None or self._timers[0][0] < due):
            due = self._timers[0][0]
        # epoll counts in milliseconds: waiting for less than one would make it spin.
        return -1 if due is None else max(0.0, due - time.monotonic()) + 0.001

    def _on_tap(self, mask: int) -> None:
        stack = self.stack
        buffer = self._buffer
        view = memoryview(buffer)
        tap = self._tap
        now = self.now
        for _ in range(_BATCH):
            try:
                size = os.readv(tap, (buffer,))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.EBADFD, errno.EIO):  # the device is gone, and its namespace with it
                    self._running = False
                    break
                raise
            if self.capture is not None:
                self.capture.add((view[:size],))
            stack.receive(view[:size], now)
            for event in stack.take_events():
                self._handle(event)

    def _flush(self) -> None:
        stack = self.stack
        now = self.now
        while True:
            frames = stack.poll(now)
            for frame in frames:
                self._write(frame)
            events = stack.take_events()
            for event in events:
                self._handle(event)
            if not stack.pending:
                return

    def _write(self, frame: tuple[bytes | bytearray | memoryview, ...]) -> None:
        if self.capture is not None:
            self.capture.add(frame)
        if len(frame) > _IOV_MAX:
            frame = (b"".join(frame),)
        try:
            os.writev(self._tap, frame)
        except OSError:
            self.lost += 1  # the interface is down or out of memory: a lost frame, as on any network

    # What the stack says

    def _handle(self, event: Event) -> None:
        if isinstance(event, TcpReceived):
            relay = event.flow.relay
            if relay is not None:
                relay.received()
            else:
                event.flow.connection.received.clear()
                event.flow.connection.signals.clear()
        elif isinstance(event, TcpReady):
            if event.flow.relay is not None:
                event.flow.relay.changed()
        elif isinstance(event, Datagram):
            self._on_datagram(event)
        elif isinstance(event, TcpOpened):
            self._on_opened(event.flow)
        elif isinstance(event, EchoRequested):
            self._pings.forward(event)
        elif isinstance(event, UdpExpired) and event.flow.relay is not None:
            event.flow.relay.expired()

    def _on_opened(self, flow: TcpFlow) -> None:
        target = self.reach.of(flow.far, flow.far_port)
        if target is Special.FORBIDDEN:
            flow.connection.abort()
            self.stack.touch(flow)
            return
        candidates: list[HostAddress]
        candidates = self._resolver.servers() if isinstance(target, Special) else [target]
        TcpRelay(self, flow, candidates=candidates)

    def _on_datagram(self, event: Datagram) -> None:
        flow = event.flow
        if flow.relay is None and not self._attach_udp(flow):
            return
        if flow.relay is not None:
            flow.relay.forward(event.payload)

    def _attach_udp(self, flow: UdpFlow) -> bool:
        target = self.reach.of(flow.far, flow.far_port)
        if target is Special.RESOLVER:
            self._resolver.attach_flow(flow)
            return True
        try:
            if isinstance(target, Special):
                self.stack.send_unreachable(flow, port=True)
            else:
                UdpRelay(self, flow, target)
                return True
        except OSError as error:
            self.stack.send_unreachable(flow, prohibited=error.errno in (errno.EACCES, errno.EPERM))
        self.stack.forget_udp(flow)
        return False

    def _ignore(self, mask: int) -> None:
        pass
