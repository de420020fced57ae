"""Connections that are joined by splice(2), in the fuzz tests: clients, servers in the guest, and a clock that jumps.

As in tests/netns/ordeal.py, `splice` takes a `Source` and raises what the network should not have raised.
"""

from __future__ import annotations

import json
import socket
import tempfile
from contextlib import suppress
from unittest import mock

from netns import netlink, process
from netns.control import Control
from netns.driver import Driver
from netns.guestsockets import GuestSockets
from netns.process import Settings
from netns.settings import Addresses, PublishedPort
from netns.splice import Splicer
from tests.netns.hostile import GUEST, Source
from tests.netns.ordeal import LOOPBACK, PUBLISHED, RESET, a_driver, turn
from tests.netns.trials import LONG, a_clock, drain


def add_guests_addresses() -> None:
    """Let sockets of this namespace be the guest's, too."""
    with suppress(OSError):
        netlink.configure([netlink.add_address(1, GUEST, 32)], [])


class GuestSocketsHere(GuestSockets):
    """In the namespace of the caller, now and then out of descriptors."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def take(self, family: int) -> socket.socket | None:
        if self._source.integer(0, 31) == 31:
            return None
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._source.pick((4096, 1 << 17)))
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        """Keeps none."""


_PATTERN = bytes(range(251)) * 2000  # so that a place in a stream is known by what is there


class End:
    """One end of a joined connection: what it hears is what the other said, from the beginning and without a hole."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._sent = 0
        self._heard = 0

    def send(self, size: int, flags: int) -> None:
        at = self._sent % 251
        self._sent += self.sock.send(_PATTERN[at : at + size], flags)

    def hear(self) -> None:
        data = self.sock.recv(300_000)
        at = self._heard % 251
        assert data == _PATTERN[at : at + len(data)], "a joined connection lost or mixed up bytes"
        self._heard += len(data)


PORT = 41000
MOST_TURNS = 3000
SERVING = ("10.0.2.100", "127.0.0.1")


class Joined:
    """Clients of a published port, and servers in the guest."""

    def __init__(self, source: Source, path: str) -> None:
        self._source = source
        self._path = path
        self._listener: socket.socket | None = None
        self._ends: list[End] = []

    def act(self) -> None:
        """One thing, if it is possible now."""
        source = self._source
        with suppress(OSError):
            match source.integer(0, 9):
                case 0:
                    self._listen()
                case 1 | 2:
                    self._dial()
                case 3 | 4 if self._listener is not None:
                    sock = self._listener.accept()[0]
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                    self._ends.append(End(sock))
                case _ if self._ends:
                    self._use(source.integer(0, len(self._ends) - 1))

    def _listen(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._source.integer(0, 3):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            self._listener = sock
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._source.pick((4096, 1 << 17)))
            sock.bind((self._source.pick(SERVING), PORT))
            sock.listen(self._source.pick((8, 0)))

    def _dial(self) -> None:
        if self._source.integer(0, 3):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._source.pick((4096, 1 << 17)))
            self._ends.append(End(sock))
            sock.connect((LOOPBACK, PUBLISHED[0]))
        else:
            sock = socket.socket(socket.AF_UNIX)
            self._ends.append(End(sock))
            sock.connect(self._path)

    def _use(self, place: int) -> None:
        end = self._ends[place]
        source = self._source
        match source.integer(0, 9):
            case 0 | 1 | 2:
                unix = end.sock.family == socket.AF_UNIX
                end.send(source.pick((1, 100, 70_000, 250_000)), 0 if unix else source.pick((0, 0, 0, socket.MSG_OOB)))
            case 3 | 4 | 5 | 6:
                end.hear()
            case 7:
                end.sock.shutdown(source.pick((socket.SHUT_WR, socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR)))
            case 8:
                self._ends.pop(place).sock.close()
            case _:
                with suppress(OSError):
                    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self._ends.pop(place).sock.close()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for end in self._ends:
            end.sock.close()
        self._ends.clear()


def _flows(tested: Driver, owner: socket.socket) -> list[dict[str, object]]:
    owner.send(b'{"ask": "flows"}')
    turn(tested)
    turn(tested)
    _, fds, _, _ = socket.recv_fds(owner, 8192, 4)
    with open(fds[0], "rb") as file:
        document = json.load(file)
    found: list[dict[str, object]] = document["flows"] if isinstance(document, dict) else document
    return found


def splice(source: Source, steps: int) -> None:
    """Clients of the host's loopback and of a Unix socket, joined to servers in the guest, all in any mood.

    The caller's namespace has the guest's address, see `add_guests_addresses`.
    """
    line, owner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    owner.setblocking(False)
    with tempfile.TemporaryDirectory() as directory, line, owner, a_clock() as clock:
        path = f"{directory}/port"
        ports = (PublishedPort(PORT, PUBLISHED[0], LOOPBACK), PublishedPort(PORT, path=path))
        people = Joined(source, path)

        def control(driver: Driver) -> Control:
            return Control(driver, line)

        splicers: list[Splicer] = []

        def splicer(driver: Driver, guest: GuestSockets, addresses: Addresses) -> Splicer:
            splicers.append(Splicer(driver, guest, addresses))
            return splicers[0]

        with (
            mock.patch.object(process, "Splicer", splicer),
            a_driver(Settings(publish=ports), guest=GuestSocketsHere(source), control=control) as (tested, link),
        ):
            for _ in range(source.integer(1, steps)):
                for _ in range(source.integer(1, 4)):
                    people.act()
                if source.integer(0, 15) == 0:
                    clock.ahead += source.pick(LONG)
                turn(tested)
                if source.integer(0, 31) == 0:
                    _flows(tested, owner)
                drain(link)
            people.close()
            for number in range(MOST_TURNS):  # the kernel takes its time over ends of connections
                turn(tested)
                if number == 10:
                    clock.ahead += max(LONG)  # what is still being connected is given up
                if not splicers[0].flows:
                    break
            assert not splicers[0].flows, "a joined connection outlives its ends"
            splicers[0].close()
