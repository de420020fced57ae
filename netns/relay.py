"""The host's side of flows: one socket each, moved by the driver's loop.

Backpressure on both sides is per flow. What the host's socket does not take is kept and counts against the window that
the guest sees; what the guest does not take stays in the host's socket, because no more is read than the connection
has room for. A flow that waits costs the others nothing.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from netns import errorqueue
from netns.icmperrors import offender, passed_on, quote_syn
from netns.reach import HostAddress
from netns.tcp.flow import HOP_LIMIT, TcpFlow
from netns.tcp.state import Signal, State
from netns.wire.error import Buffer

if TYPE_CHECKING:
    from netns.driver import Driver
    from netns.errorqueue import QueuedError

_LARGE = 1 << 14  # bytes: from here on, to copy costs more than to lend a buffer
_BUFFERS = 16  # of 64 KiB, that are filled before the other flows have their turn
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER
_REFUSALS = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})
_NO_WAY = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.ENODEV})
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})  # ours, not the far end's


class TcpRelay:
    """Moves bytes between `flow.connection` and a host socket, which it owns.

    With `candidates` the socket is still to be made: they are dialled one after the other, and the guest's SYN is
    answered as the last one is, in the words of the router that refused it if one did. Without, `sock` is a connection
    that was accepted, and `refused` is called if the guest does not answer our SYN well; it may take the socket over by
    returning True.
    """

    __slots__ = (
        "_candidates", "_dialling", "_driver", "_flow", "_guest_closed", "_host_closed", "_interest", "_read_size",
        "_refused", "_shut", "_sock", "_started", "_streams", "_unsent",
    )  # fmt: skip

    def __init__(
        self,
        driver: Driver,
        flow: TcpFlow,
        *,
        candidates: list[HostAddress] | None = None,
        sock: socket.socket | None = None,
        refused: Callable[[socket.socket], bool] | None = None,
    ) -> None:
        self._driver = driver
        self._flow = flow
        self._candidates = candidates or []
        self._dialling: str | None = None  # the address, if errors are queued
        self._sock = sock
        self._refused = refused
        self._started = False
        self._interest = 0
        self._read_size = 0
        self._streams = False  # the last read brought as much as it could
        self._unsent: deque[bytes] = deque()
        self._host_closed = False
        self._guest_closed = False
        self._shut = False
        flow.relay = self
        flow.since = driver.now
        if sock is None:
            self._dial(errno.EHOSTUNREACH)

    def _dial(self, error: int, queued: QueuedError | None = None) -> None:
        """Dial the next candidate; when there is none left, refuse for the reason `error`, or what ICMP said."""
        while self._candidates:
            address = self._candidates.pop(0)
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            try:
                sock = self._driver.open_socket(family, socket.SOCK_STREAM, far=address[0])
            except OSError as problem:
                error = problem.errno or errno.EMFILE
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # urgent bytes are bytes (RFC 6093)
            self._ask_for_errors(sock, address[0])
            try:
                error = sock.connect_ex(address)
            except OSError as problem:  # an address that the resolver's rules do not accept
                error = problem.errno or errno.EHOSTUNREACH
            if error == errno.EINPROGRESS:
                error = sock.connect_ex(address)  # on this machine the answer is already there
            if error in (0, errno.EALREADY):
                self._sock = sock
                if error:
                    self._watch(select.EPOLLOUT)
                else:
                    self._connected(sock)
                return
            queued = self._error_of(sock)
            sock.close()
        self._refuse(error, queued)

    def _ask_for_errors(self, sock: socket.socket, address: str) -> None:
        """Let the SYN cross as many routers as the guest's may, and hear what they say; there is none on loopback."""
        if address == "::1" or address.startswith("127."):
            self._dialling = None
            return
        self._dialling = address
        errorqueue.enable(sock)
        if self._flow.hop_limit != HOP_LIMIT:
            errorqueue.set_hop_limit(sock, max(1, self._flow.hop_limit - 1))

    def _error_of(self, sock: socket.socket) -> QueuedError | None:
        """What ICMP said of the address that is dialled."""
        if self._dialling is None:
            return None
        return next((queued for queued in errorqueue.drain(sock) if queued.from_network), None)

    def _refuse(self, error: int, queued: QueuedError | None) -> None:
        six = len(self._flow.far) == 16
        dialled = self._dialling
        said = passed_on(queued, six=six) if queued is not None and dialled and (":" in dialled) is six else None
        if queued is not None and said is not None and dialled is not None:
            # As on the host, that ends the guest's attempt, and a probe of traceroute(8) must see nothing else.
            source = offender(queued, self._flow.far, dialled, self._driver.reach)
            self._driver.stack.send_error(said, quote_syn(self._flow), source=source, now=self._driver.now)
            self._flow.connection.drop()
            self._driver.stack.touch(self._flow)
            self._release()
            return
        if error not in _REFUSALS and error not in _SHORTAGES:
            self._driver.stack.send_unreachable(
                self._flow, prohibited=error in (errno.EACCES, errno.EPERM), net=error in _NO_WAY
            )
        self._abandon()

    def failed(self) -> None:
        """A fault of ours: both ends hear that the connection is over."""
        self._flow.connection.abort()
        self._driver.stack.touch(self._flow)
        self._release(reset=True)

    def _abandon(self) -> None:
        """Reset towards the guest and let go of the socket."""
        self._flow.connection.abort()
        self._driver.stack.touch(self._flow)
        self._release()

    def _release(self, *, reset: bool = False) -> None:
        self._flow.relay = None
        self._unsent.clear()
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._interest = 0
        self._driver.discard(sock, shared=False)

    def _watch(self, interest: int) -> None:
        # No interest means no registration: epoll would go on reporting a hang-up that cannot be acted upon yet.
        if interest != self._interest and self._sock is not None:
            self._driver.watch(self._sock, interest, self.on_io)
            self._interest = interest

    def start(self) -> None:
        """The guest and the host are connected: move bytes."""
        self._started = True
        self._read_size = self._flow.connection.max_segment  # one read is one frame
        self._flow.connection.buffer.recycle = self._driver.buffers.give
        self.changed()

    # From the host

    def on_io(self, mask: int) -> None:
        """The socket is ready."""
        sock = self._sock
        if sock is None:
            return
        if not self._started:
            if self._flow.connection.state is State.LISTEN:
                self._dialled(sock, mask)
            return
        try:
            if mask & (select.EPOLLOUT | select.EPOLLERR):
                self._flush(sock)
            if mask & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
                self._read(sock)
        except OSError:
            self._abandon()
            return
        self._settle(sock)

    def _dialled(self, sock: socket.socket, mask: int) -> None:
        # The queue first: reading it takes the pending error away, but not the other way round.
        queued = self._error_of(sock) if mask & select.EPOLLERR else None
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error or queued is not None:
            self._sock = None
            self._interest = 0
            self._driver.discard(sock, shared=False)
            self._dial(error or errno.EHOSTUNREACH, queued)
            return
        self._watch(0)
        self._connected(sock)

    def _connected(self, sock: socket.socket) -> None:
        if self._dialling is not None:
            errorqueue.enable(sock, on=False)  # from here on, ICMP's errors are for TCP to outlive
        self._flow.connection.accept()
        self._driver.stack.touch(self._flow)

    def _read(self, sock: socket.socket) -> None:
        """Receive once. A stream fills several buffers at a time: the socket tells its sender of room once for all."""
        connection = self._flow.connection
        driver = self._driver
        size = self._read_size
        if self._host_closed or (room := connection.send_room()) < size:
            return
        buffers = [driver.buffers.take()]
        try:
            if not self._streams or room < 2 * size:
                count = sock.recv_into(buffers[0], size)
                full = count == size
            else:
                buffers += [driver.buffers.take() for _ in range(min(_BUFFERS, room // size) - 1)]
                count = sock.recvmsg_into([memoryview(buffer)[:size] for buffer in buffers])[0]
                full = count > size
        except OSError as error:
            for buffer in buffers:
                driver.buffers.give(buffer)
            if isinstance(error, BlockingIOError):
                return
            raise
        self._streams = full
        driver.stack.touch(self._flow)
        self._flow.to_guest += count
        left = count
        for buffer in buffers:
            part = min(left, size)
            left -= part
            if part >= _LARGE:
                driver.lend()
                connection.send(memoryview(buffer)[:part])
            else:  # whatever little waits to be acknowledged must not hold a whole buffer
                if part:
                    connection.send(bytes(memoryview(buffer)[:part]))
                driver.buffers.give(buffer)
        if not count:
            self._host_closed = True
            connection.close()

    def _flush(self, sock: socket.socket) -> None:
        unsent = self._unsent
        sent = 0
        try:
            while unsent:
                count = sock.send(unsent[0])
                sent += count
                if count < len(unsent[0]):
                    unsent[0] = unsent[0][count:]
                else:
                    unsent.popleft()
        except BlockingIOError:
            pass  # the socket is full; epoll will say when it is not
        if sent:
            self._flow.from_guest += sent
            self._flow.connection.consumed(sent)
            self._driver.stack.touch(self._flow)

    # From the guest

    def received(self) -> None:
        """The connection has bytes or signals for us."""
        connection = self._flow.connection
        sock = self._sock
        delivered = connection.window.delivered
        if delivered:
            if sock is not None:
                try:
                    for piece in delivered:
                        self._pass_on(sock, piece)
                except OSError:
                    delivered.clear()
                    self._abandon()
                    return
            delivered.clear()
            self._driver.stack.touch(self._flow)  # the window may open
            if not (self._unsent or connection.signals):
                return  # as it was
        if connection.signals:
            signals, connection.signals = connection.signals, []
            for signal in signals:
                if self._on_signal(signal, sock):
                    return
        if sock is not None and self._started:
            self._settle(sock)

    def _on_signal(self, signal: Signal, sock: socket.socket | None) -> bool:
        """True where the relay is over."""
        if signal is Signal.CONNECTED:
            self.start()
        elif signal is Signal.PEER_CLOSED:
            self._guest_closed = True
        elif signal is Signal.CLOSED:
            self._release()
            return True
        else:  # REFUSED, RESET, TIMED_OUT
            if not self._started and self._refused is not None and sock is not None:
                self._watch(0)
                self._sock = None
                self._flow.relay = None
                if not self._refused(sock):
                    self._sock = sock
                    self._release(reset=True)
                return True
            self._release(reset=True)
            return True
        return False

    def _pass_on(self, sock: socket.socket, piece: Buffer) -> None:
        size = len(piece)
        if self._unsent:
            self._unsent.append(bytes(piece))
            return
        try:
            count = sock.send(piece)
        except BlockingIOError:
            count = 0
        if count:
            self._flow.from_guest += count
            self._flow.connection.consumed(count)
        if count < size:
            self._unsent.append(bytes(piece[count:]))

    def changed(self) -> None:
        """The batch is over: there may be room to read for."""
        if self._started and self._sock is not None:
            self._settle(self._sock)

    def _settle(self, sock: socket.socket) -> None:
        """Watch for what can be done next, and close what is done."""
        connection = self._flow.connection
        if self._guest_closed and not self._unsent:
            if self._host_closed:
                self._release()
                return
            if not self._shut:
                self._shut = True
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError:
                    self._abandon()
                    return
        interest = select.EPOLLOUT if self._unsent else 0
        if not self._host_closed:
            room = connection.send_room() >= self._read_size
            self._flow.waiting = not room
            if room:
                interest |= select.EPOLLIN
        if interest != self._interest:
            self._watch(interest)
