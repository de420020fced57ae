"""The forked process that serves a container's user-mode network, and the line to it (netns/control.py)."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import trio

import netns.process
from netns.errors import NetworkError

from ..errors import HostError
from .children import Child, fork_child, read_ready
from .network import Reserved
from .record import Network

NAME = "net"  # of the process
DIED = "the process that served the container's network has died"
_MESSAGE_LIMIT = 4096
_SETTLE_SECONDS = 1.0
_SETTLE_PAUSE = 0.02  # seconds


class _Word(msgspec.Struct, frozen=True):
    """What the network's process says: netns/control.py."""

    note: str = ""
    search: tuple[str, ...] | None = None
    flows: str = ""
    error: str = ""


class _Flow(msgspec.Struct, frozen=True):
    """What tells of a flow in netns.flowlist's document whether it goes on."""

    container: str
    far: str
    received: int
    sent: int


class _Flows(msgspec.Struct, frozen=True):
    flows: tuple[_Flow, ...]


Reply = Callable[[int | None, str], None]
"""Takes a descriptor, which stays the giver's, or None and why there is none."""


class Uplink:
    """The forked process of a user-mode network. It is started before the container, and gets its namespace later."""

    def __init__(self, child: Child, channel: socket.socket, ready: int) -> None:
        self.child = child
        self._channel = channel
        self._ready = ready
        self._asked: deque[Reply] = deque()

    async def attach(self, namespace: int) -> None:
        """Gives the network namespace its interfaces. Raises HostError with the reason when that fails."""
        try:
            socket.send_fds(self._channel, [b"n"], [namespace])
        except OSError:
            pass  # it has died, and its last words, if any, can be read
        answer = await read_ready(self._ready)
        if not answer.startswith(b"1"):
            reason = answer.decode(errors="replace").strip() or "its process has died"
            raise HostError(
                f"cannot give the container a network: {reason}", hint="try --network none or --network host"
            )

    async def attend(self, on_note: Callable[[str], None], on_search: Callable[[Sequence[str]], None]) -> None:
        """Hears what the process has to say until it dies: notes, and the host's domains when they have changed."""
        self._channel.setblocking(False)
        try:
            while True:
                await trio.lowlevel.wait_readable(self._channel)
                try:
                    data, fds, _, _ = socket.recv_fds(self._channel, _MESSAGE_LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    data = b""
                if not data:
                    self._channel.close()
                    return
                try:
                    self._take(data, fds, on_note, on_search)
                finally:
                    for fd in fds:
                        os.close(fd)
        finally:
            while self._asked:
                self._asked.popleft()(None, DIED)

    def close(self) -> None:
        """Ends the line, and with it the process."""
        self._channel.close()

    async def settled(self) -> None:
        """Lets arrive what the container's processes wrote before they ended: waits while bytes move, but not long."""
        with trio.move_on_after(_SETTLE_SECONDS):
            before = await self._moved()
            while before:
                await trio.sleep(_SETTLE_PAUSE)
                now = await self._moved()
                if now == before:
                    return
                before = now

    async def _moved(self) -> tuple[_Flow, ...]:
        answered = trio.Event()
        found: list[bytes] = []

        def reply(fd: int | None, _: str) -> None:
            if fd is not None:
                found.append(os.pread(fd, os.fstat(fd).st_size, 0))
            answered.set()

        self.ask_flows(reply)
        await answered.wait()
        try:
            return msgspec.json.decode(found[0], type=_Flows).flows if found else ()
        except msgspec.MsgspecError:
            return ()

    def _take(
        self,
        data: bytes,
        fds: Sequence[int],
        on_note: Callable[[str], None],
        on_search: Callable[[Sequence[str]], None],
    ) -> None:
        try:
            word = msgspec.json.decode(data, type=_Word)
        except msgspec.MsgspecError:
            return  # nothing that we know
        if word.note:
            on_note(word.note)
        elif word.search is not None:
            on_search(word.search)
        elif self._asked:
            self._asked.popleft()(fds[0] if fds else None, word.error or "the network did not answer")

    def ask_flows(self, reply: Reply) -> None:
        """Asks for a descriptor with netns.flowlist's document; `reply` hears of it later."""
        try:
            self._channel.send(b'{"ask": "flows"}')
        except BlockingIOError:
            reply(None, "its network is too busy to answer")
        except OSError:
            reply(None, DIED)
        else:
            self._asked.append(reply)


def last_words(log: str) -> str:
    """What the process complained of when it died by itself; see children.py. Empty when it was killed."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MESSAGE_LIMIT))
            lines = file.read(_MESSAGE_LIMIT).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.startswith(f"rcontain {NAME}: ")), "")


def start(network: Network, reserved: Reserved, log: str) -> Uplink | None:
    """Forks the process that will serve the network; None when the container is to have no network of ours.

    `log` is the file for what that process complains of.
    """
    if network.mode != "user":
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ready, writing = os.pipe()
    fds = [reservation.sock.fileno() for reservation in reserved.reservations]

    def serve() -> None:
        message, namespaces, _, _ = socket.recv_fds(theirs, 1, 1)
        if not message:
            return  # the container could not be made
        try:
            tap = netns.process.open_tap(namespaces[0], reserved.settings)
        except NetworkError as error:
            os.write(writing, f"{error}\n".encode())
            return
        netns.process.serve(tap, reserved.settings, reserved.reservations, writing, theirs, namespace=namespaces[0])

    child = fork_child(NAME, serve, keep=(theirs.fileno(), writing, *fds), log=log)
    os.close(writing)
    theirs.close()
    reserved.close()
    return Uplink(child, ours, ready)
