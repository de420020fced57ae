"""The line between a network and its owner: a socket of SOCK_SEQPACKET, one JSON object a message.

    up    {"note": SENTENCE}      something worth logging
    down  {"ask": "flows"}        answered by {"flows": "memfd"} and a descriptor with netns.flowlist's document
    up    {"error": SENTENCE}     instead of an answer
    up    {"search": [DOMAIN, …]} the host's domains for short names have changed

Its end ends the network.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from netns import flowlist
from netns.flowlist import Flow

if TYPE_CHECKING:
    from netns.driver import Driver

_MAX_MESSAGE = 4096
_MESSAGES = 8  # of one turn
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL

Source = Callable[[float], Iterable[Flow]]


class Control:
    """The network's end of the line, over `sock`, which stays the caller's."""

    def __init__(self, driver: Driver, sock: socket.socket) -> None:
        """Flows that do not cross the driver's stack come from `sources`, which are given the time."""
        self.sources: list[Source] = []
        self._driver = driver
        self._sock = sock
        sock.setblocking(False)
        driver.watch(sock, select.EPOLLIN, self._on_io)

    def note(self, sentence: str) -> None:
        """Tell the owner. Where nobody reads it is lost: it was only a note."""
        self._send({"note": sentence})

    def search(self, domains: tuple[str, ...]) -> None:
        """Tell the owner in which domains the host looks short names up now; as many as fit a message."""
        fitting = list(domains)
        while sum(len(domain.encode()) + 4 for domain in fitting) > _MAX_MESSAGE // 8:  # json.dumps escapes sixfold
            fitting.pop()
        self._send({"search": fitting})

    def _on_io(self, mask: int) -> None:
        for _ in range(_MESSAGES):
            try:
                data = self._sock.recv(_MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # the other end died
            if not data:
                self._driver.watch(self._sock, 0, self._on_io)
                self._driver.stop()
                return
            self._on_message(data)

    def _on_message(self, data: bytes) -> None:
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        asked = message.get("ask") if isinstance(message, dict) else None
        if asked == "flows":
            self._answer_flows()
        else:
            self._send({"error": "the network does not know this question"})

    def _answer_flows(self) -> None:
        others = [flow for source in self.sources for flow in source(self._driver.now)]
        try:
            fd = os.memfd_create("flows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            self._send({"error": f"the flows cannot be listed: {error.strerror}"})
            return
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(flowlist.document(self._driver, others))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            os.lseek(fd, 0, os.SEEK_SET)
            self._send({"flows": "memfd"}, fd)
        except OSError as error:
            self._send({"error": f"the flows cannot be listed: {error.strerror}"})
        finally:
            os.close(fd)

    def _send(self, message: Mapping[str, str | list[str]], *fds: int) -> None:
        try:
            socket.send_fds(self._sock, [json.dumps(message).encode()], fds)
        except OSError:
            self._driver.lost += 1  # nobody reads, or nobody is left
