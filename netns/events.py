"""What the stack tells its owner."""

from __future__ import annotations

from dataclasses import dataclass

from netns.tcp.flow import TcpFlow
from netns.udp import UdpFlow
from netns.wire.error import Buffer


@dataclass(slots=True)
class TcpOpened:
    """The guest's SYN is held in `flow`: dial, then accept or abort."""

    flow: TcpFlow


@dataclass(slots=True)
class TcpReceived:
    """`flow.connection` has bytes in `received` or something in `signals`. The bytes are valid until the next frame."""

    flow: TcpFlow


@dataclass(slots=True)
class TcpReady:
    """The batch that concerned `flow` is over: there may be room to send, which it is `waiting` for."""

    flow: TcpFlow


@dataclass(slots=True)
class Datagram:
    """A UDP payload from the guest, valid until the next frame."""

    flow: UdpFlow
    payload: Buffer


@dataclass(slots=True)
class UdpExpired:
    """`flow` was idle for long, or had to make room for another."""

    flow: UdpFlow


@dataclass(slots=True)
class EchoRequested:
    """The guest pings `far`, an address that is not on the link. `payload` is valid until the next frame.

    `hop_limit` and `dont_fragment` are what the packet's header asks for.
    """

    guest: bytes
    far: bytes
    identifier: int
    number: int
    payload: Buffer
    hop_limit: int = 64
    dont_fragment: bool = False


Event = TcpOpened | TcpReceived | TcpReady | Datagram | UdpExpired | EchoRequested
