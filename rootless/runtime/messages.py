"""What a container's first process and its supervisor tell each other, over a socketpair of whole messages.

    supervisor                         init
      MAPPED    the id maps are written,  ->
                begin
              <- Master      the terminal's master descriptor rides along (SCM_RIGHTS)
              <- Created     the root filesystem stands, the command was found
      START     go on and execute it      ->
              <- (end of file: execve succeeded, the socket was close-on-exec)
              <- Failed      instead of any of these: which step, and why

End of file anywhere else means that the peer died.
"""

from __future__ import annotations

import array
import errno
import socket
from enum import Enum
from typing import Final, TypeAlias

import msgspec

LIMIT: Final = 65536
"""Bytes of one message."""


class Order(Enum):
    """From the supervisor; one byte each."""

    MAPPED = b"m"
    START = b"s"


class Fault(Enum):
    """What kind of failure it was: it decides the exit code."""

    STEP = "step"
    NOT_FOUND = "not found"
    NOT_RUNNABLE = "not runnable"


class Created(msgspec.Struct, frozen=True, tag="created"):
    """The container is complete but for its command."""


class Master(msgspec.Struct, frozen=True, tag="master"):
    """The terminal is there; its master descriptor comes with this message."""


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """The process that joined the namespaces has made the container's process: its pid as the supervisor sees it."""

    pid: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A step failed; nothing follows."""

    fault: Fault
    step: str
    why: str
    errno: int = 0


Report: TypeAlias = Created | Master | Forked | Failed

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def send(channel: socket.socket, report: Report, fd: int | None = None) -> None:
    """Send a report, with a descriptor riding along."""
    rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    channel.sendmsg([_encoder.encode(report)], rights)


def receive(channel: socket.socket) -> tuple[Report, int | None] | None:
    """The next report and its descriptor, which the caller owns; None at end of file. BlockingIOError as recvmsg(2)."""
    try:
        raw, rights, _, _ = channel.recvmsg(LIMIT, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    if not raw:
        return None
    fds = array.array("i")
    for _, _, data in rights:
        fds.frombytes(data[:4])
    return _decoder.decode(raw), fds[0] if fds else None


def order(channel: socket.socket, what: Order) -> None:
    """Send an order. A peer that died is found at the next `receive`."""
    try:
        channel.send(what.value, socket.MSG_NOSIGNAL)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET):
            raise


def await_order(channel: socket.socket, what: Order) -> bool:
    """Wait, blocking, for one order; False if the supervisor is gone."""
    return channel.recv(1) == what.value
