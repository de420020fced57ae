"""The network's own loop: frames of the TAP to the stack, and what the stack says to the host's sockets.

A turn handles what is ready (the TAP until it would block or a batch is full), then polls the stack once, so that
everything a batch brought is acknowledged together.
"""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from netns.buffers import Buffers
from netns.capture import Capture
from netns.datagrams import UdpRelay
from netns.events import Datagram, EchoRequested, Event, TcpOpened, TcpReady, TcpReceived, UdpExpired
from netns.icmp import Pings
from netns.loop import Loop, Timer
from netns.reach import Reach, Special
from netns.relay import TcpRelay
from netns.resolver import Resolver
from netns.sockets import Sockets
from netns.stack import Stack
from netns.tcp.flow import TcpFlow
from netns.udp import UdpFlow

if TYPE_CHECKING:
    from netns.egress import Egress

__all__ = ["Driver", "Timer"]

_BATCH = 64  # frames before the sockets have their turn
_FRAME = 65536 + 64
_IOV_MAX = 1024
_BUFFERS_IDLE = 5.0  # seconds
_ACK_PATIENCE = 0.001  # seconds: longer than most answers from this machine take


class Driver(Loop):
    """Runs `stack` over `tap_fd`, which stays the caller's. What `egress` denies is refused."""

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
        super().__init__()
        self.stack = stack
        stack.ack_patience = _ACK_PATIENCE
        stack.on_fault = self.report
        self.reach = reach
        self.egress: Egress | None = None
        self.capture: Capture | None = None
        self.buffers = Buffers()
        self._trimming = False
        self.open_socket = Sockets(outbound, outbound6, self._make_room).open
        self._tap = tap_fd
        self.resolver = resolver
        self.pings = Pings(self)
        self._buffer = bytearray(_FRAME)
        self.watch_fd(tap_fd, select.EPOLLIN, self._on_tap)
        resolver.attach(self)

    def lend(self) -> None:
        """A buffer of `buffers` will be away for some time: look after them, until none is left."""
        if not self._trimming:
            self._trimming = True
            self.call_later(_BUFFERS_IDLE, self._trim_buffers)

    def _trim_buffers(self) -> None:
        self._trimming = False
        if self.buffers.trim():
            self.lend()

    def _make_room(self) -> bool:
        """Forget the UDP flow that is missed least, for its descriptor."""
        flow = self.stack.udp.evict()
        if flow is None:
            self.note("no descriptors are left for more connections (raise `ulimit -n`)")
            return False
        if flow.relay is not None:
            flow.relay.expired()
        return True

    # The turn

    def _due(self) -> float | None:
        return self.stack.deadline()

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
            try:
                stack.receive(view[:size], now)
            except Exception as error:  # noqa: BLE001  one flow ends, not all
                self.report(error)  # the frame is lost
            events = stack.take_events()
            if events:
                self._handle_all(events)

    def failed(self) -> None:
        """Reading the TAP failed in a way that was not foreseen: without it there is no network."""
        self._running = False

    def _finish_turn(self) -> None:
        stack = self.stack
        now = self.now
        while True:
            frames = stack.poll(now)
            if frames:
                for frame in frames:
                    self._write(frame)
            events = stack.take_events()
            if events:
                self._handle_all(events)
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

    def _handle_all(self, events: list[Event]) -> None:
        for event in events:
            try:
                if type(event) is TcpReceived and (relay := event.flow.relay) is not None:  # nearly all
                    relay.received()
                else:
                    self._handle(event)
            except Exception as error:  # noqa: BLE001  one flow ends, not all
                self.report(error)
                self._end(event)

    def _end(self, event: Event) -> None:
        """Give up the flow that `event` is about."""
        if isinstance(event, TcpOpened | TcpReceived | TcpReady):
            relay, event.flow.relay = event.flow.relay, None
            event.flow.connection.abort()
            event.flow.connection.received.clear()
            event.flow.connection.signals.clear()
            self.stack.touch(event.flow)
            if isinstance(relay, TcpRelay):
                relay.failed()
        elif isinstance(event, Datagram):
            self.stack.forget_udp(event.flow)
            if event.flow.relay is not None:
                event.flow.relay.expired()

    def _handle(self, event: Event) -> None:
        if isinstance(event, TcpOpened):
            self._on_opened(event.flow)
        elif isinstance(event, TcpReceived):
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
        elif isinstance(event, EchoRequested):
            self.pings.forward(event)
        elif isinstance(event, UdpExpired) and event.flow.relay is not None:
            event.flow.relay.expired()

    def _on_opened(self, flow: TcpFlow) -> None:
        target = self.reach.of(flow.far, flow.far_port)
        if target is Special.FORBIDDEN:
            flow.connection.abort()
            self.stack.touch(flow)
            return
        if not isinstance(target, Special) and self._denied(flow, "tcp"):
            flow.connection.abort()
            self.stack.touch(flow)
            return
        if isinstance(target, Special):
            self.resolver.attach_tcp(flow)
        else:
            TcpRelay(self, flow, candidates=self.reach.candidates(flow.far, target))

    def _on_datagram(self, event: Datagram) -> None:
        flow = event.flow
        if flow.relay is None and not self._attach_udp(flow):
            return
        if flow.relay is not None:
            flow.relay.forward(event.payload)

    def _denied(self, flow: TcpFlow | UdpFlow, protocol: str) -> bool:
        """Whether the egress rules forbid `flow`, which is then said once. Our own name server is no far end."""
        egress = self.egress
        if egress is None or egress.allows(flow.far, flow.far_port, protocol):
            return False
        self.note(egress.refusal(flow.far, flow.far_port, protocol))
        return True

    def _attach_udp(self, flow: UdpFlow) -> bool:
        target = self.reach.of(flow.far, flow.far_port)
        if target is Special.RESOLVER:
            self.resolver.attach_flow(flow)
            return True
        try:
            if isinstance(target, Special):
                self.stack.send_unreachable(flow, port=True)
            elif self._denied(flow, "udp"):
                self.stack.send_unreachable(flow, prohibited=True)
            else:
                UdpRelay(self, flow, target)
                return True
        except OSError as error:
            self.stack.send_unreachable(flow, prohibited=error.errno in (errno.EACCES, errno.EPERM))
        self.stack.forget_udp(flow)
        return False
