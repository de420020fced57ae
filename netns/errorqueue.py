"""A socket's queue of errors (ip(7), IP_RECVERR; ipv6(7), IPV6_RECVERR): what ICMP said about what it sent, and who.

Without it a socket hears of few errors, and of none by whom. With it an error is also pending on the socket, as ever;
reading the queue takes that away.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

# ip(7) and ipv6(7); the socket module lacks them.
_IP_MTU_DISCOVER = 10
_IP_RECVERR = 11
_IPV6_MTU_DISCOVER = 23
_IPV6_RECVERR = 25
_PMTUDISC_WANT = 1
_PMTUDISC_DO = 2

_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err, linux/errqueue.h
_ORIGIN_ICMP = 2
_ORIGIN_ICMP6 = 3
_ANCILLARY = 256
_QUOTED = 1280
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class QueuedError:
    """`payload` is what was quoted of ours after the UDP header, or from the ICMP header on; `offender` is packed.

    `kind`, `code` and `info` (a path's MTU) are those of ICMP where it came `from_network`. Otherwise the host's own
    kernel says `errno`, and `info` goes with that.
    """

    errno: int
    from_network: bool
    kind: int
    code: int
    info: int
    offender: bytes | None
    payload: bytes

    @property
    def offender_name(self) -> str | None:
        """The offender's address as text."""
        if self.offender is None:
            return None
        return socket.inet_ntop(socket.AF_INET if len(self.offender) == 4 else socket.AF_INET6, self.offender)


def enable(sock: socket.socket, on: bool = True) -> None:
    """Queue the errors of `sock`, or no longer. Raises OSError.

    A connected socket of TCP that queues them fails by those that it would have outlived (tcp(7)).
    """
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, on)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, on)


def drain(sock: socket.socket) -> list[QueuedError]:
    """The errors that wait, oldest first. Never waits itself, and never raises."""
    result: list[QueuedError] = []
    for _ in range(_AT_ONCE):
        try:
            payload, ancillary, _, _ = sock.recvmsg(_QUOTED, _ANCILLARY, socket.MSG_ERRQUEUE)
        except OSError:
            break  # EAGAIN: the queue is empty
        for level, kind, data in ancillary:
            if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                error = parse(data, payload)
                if error is not None:
                    result.append(error)
    return result


def parse(data: bytes, payload: bytes) -> QueuedError | None:
    """One control message: a struct sock_extended_err and the offender's socket address."""
    if len(data) < _ERROR.size:
        return None
    number, origin, kind, code, _, info, _ = _ERROR.unpack_from(data)
    address = data[_ERROR.size :]
    family = int.from_bytes(address[:2], "little" if _LITTLE else "big")
    offender = None
    if family == socket.AF_INET and len(address) >= 8:
        offender = address[4:8]
    elif family == socket.AF_INET6 and len(address) >= 24:
        offender = address[8:24]
    return QueuedError(number, origin in (_ORIGIN_ICMP, _ORIGIN_ICMP6), kind, code, info, offender, payload)


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def set_hop_limit(sock: socket.socket, hops: int) -> None:
    """How many routers what `sock` sends may cross; -1 for the host's own default. Raises OSError."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)


def forbid_fragments(sock: socket.socket, forbid: bool) -> None:
    """Whether what does not fit the path is refused (EMSGSIZE) rather than cut. Raises OSError."""
    mode = _PMTUDISC_DO if forbid else _PMTUDISC_WANT
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, mode)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, mode)
