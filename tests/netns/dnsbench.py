"""A driver without a guest whose sockets lead to the test, which is both the guest and the name server."""

from __future__ import annotations

import os
import socket
from types import TracebackType
from typing import Any

from netns.driver import Driver
from netns.egress import parse
from netns.link import Link
from netns.reach import Reach
from netns.resolver import Resolver
from netns.settings import Settings
from netns.stack import Stack

GUEST, RESOLVER = b"\x0a\0\2\x64", b"\x0a\0\2\3"


class Connected(socket.socket):
    """One end of a pair, whatever it is asked to connect to."""

    def connect(self, address: Any, /) -> None:
        return None

    def connect_ex(self, address: Any, /) -> int:
        return 0

    def setsockopt(self, *words: Any) -> None:
        return None


class Bench:
    """`servers` are the far ends of the sockets that were opened, the last one last."""

    def __init__(self, *rules: str, servers: tuple[str, ...] = ("192.0.2.1", "192.0.2.2")) -> None:
        settings = Settings()
        self.stack = Stack(settings.addresses(), Link(b"R" * 6, b"g" * 6, 65520), lambda: 1)
        self._tap, self._tap_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.resolver = Resolver(servers)
        self.driver = Driver(self._tap, self.stack, Reach(settings), self.resolver)
        self.driver.egress = parse(rules)
        self.driver.open_socket = self._open  # type: ignore[method-assign]
        self.servers: list[socket.socket] = []

    def _open(self, family: int, kind: int, protocol: int = 0, *, far: str = "") -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        theirs.setblocking(False)
        self.servers.append(theirs)
        sock = Connected(fileno=ours.detach())
        sock.setblocking(False)
        return sock

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *problem: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.driver.close()
        for server in self.servers:
            server.close()
        os.close(self._tap)
        os.close(self._tap_write)

    def turn(self) -> None:
        """Everything that is ready now."""
        for fd, mask in self.driver._epoll.poll(0):
            handler = self.driver._handlers.get(fd)
            if handler is not None:
                handler(mask)

    def run_timers(self) -> None:
        """As if much time had passed."""
        timers, self.driver._timers = self.driver._timers, []
        for _, _, timer in sorted(timers, key=lambda entry: entry[:2]):
            if timer.callback is not None:
                timer.callback()
