"""The host's side of UDP flows: one socket each, moved by the driver's loop."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

from netns.reach import HostAddress
from netns.udp import UdpFlow
from netns.wire.error import Buffer

if TYPE_CHECKING:
    from netns.driver import Driver

_DATAGRAMS = 32  # before the other flows have their turn


class UdpRelay:
    """A host socket connected to the far end of `flow`, so that refusals come back; it owns the socket."""

    __slots__ = ("_driver", "_flow", "_sock")

    def __init__(self, driver: Driver, flow: UdpFlow, address: HostAddress) -> None:
        """Raises OSError where the host has no way to `address`."""
        self._driver = driver
        self._flow = flow
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._sock = driver.open_socket(family, socket.SOCK_DGRAM)
        try:
            self._sock.connect(address)
            driver.watch(self._sock, select.EPOLLIN, self.on_io)
        except OSError:
            self._sock.close()
            raise
        flow.relay = self

    def forward(self, payload: Buffer) -> None:
        """Send one payload; a datagram that cannot leave is lost, as on any network."""
        try:
            self._sock.send(payload)
        except ConnectionRefusedError:
            self._driver.stack.send_unreachable(self._flow, port=True)
        except OSError:
            self._driver.lost += 1

    def on_io(self, mask: int) -> None:
        """The socket is ready."""
        for _ in range(_DATAGRAMS):
            try:
                payload = self._sock.recv(65535)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self._driver.stack.send_unreachable(self._flow, port=True)
                return
            except OSError:
                self._driver.stack.send_unreachable(self._flow)
                return
            self._driver.stack.send_datagram(self._flow, payload, self._driver.now)

    def expired(self) -> None:
        """The flow is forgotten."""
        self._flow.relay = None
        self._driver.discard(self._sock)
