"""Sockets for the guest's traffic: from which of the host's addresses or interfaces, and what when none are left.

Everything shares the process's limit of descriptors. A socket that a UDP flow holds is easily made again, so the flow
that is missed least is forgotten to make room: when descriptors have run out, and already before, so that connections
to published ports find some.
"""

from __future__ import annotations

import errno
import ipaddress
import resource
import socket
from collections.abc import Callable

_RESERVE = 32  # descriptors kept for what is accepted, as long as there are others to give up


class Sockets:
    """Makes sockets. `outbound` and `outbound6` are addresses of the host or names of interfaces.

    `make_room` frees descriptors, if it can, and says whether it did.
    """

    def __init__(self, outbound: str | None, outbound6: str | None, make_room: Callable[[], bool]) -> None:
        self._outbound = {socket.AF_INET: outbound, socket.AF_INET6: outbound6}
        self._make_room = make_room
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._enough = limit - min(_RESERVE, limit // 8)

    def open(self, family: int, kind: int, protocol: int = 0, *, far: str = "") -> socket.socket:
        """A non-blocking socket that leaves by the outbound address or interface. Raises OSError.

        With an interface, `far` addresses on the host's loopback are exempt: they are behind no interface.
        """
        kind |= socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = self._new(family, kind, protocol)
        if sock.fileno() >= self._enough and self._make_room():  # the kernel gives the lowest number that is free
            sock.close()
            sock = self._new(family, kind, protocol)
        outbound = self._outbound[socket.AF_INET6 if family == socket.AF_INET6 else socket.AF_INET]
        if outbound is not None:
            try:
                _leave_by(sock, outbound, far)
            except OSError:
                sock.close()
                raise
        return sock

    def _new(self, family: int, kind: int, protocol: int) -> socket.socket:
        while True:
            try:
                return socket.socket(family, kind, protocol)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._make_room():
                    raise


def is_interface(outbound: str) -> bool:
    """Whether what packets are to leave by is the name of an interface; otherwise it is an address."""
    try:
        ipaddress.ip_address(outbound)
    except ValueError:
        return True
    return False


def try_outbound(outbound: str, family: int) -> None:
    """Raise OSError if packets of `family` cannot leave by that: a name that is no interface now, or an address that
    the host has not, is more likely wrong than early."""
    if is_interface(outbound):
        socket.if_nametoindex(outbound)
        return
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        probe.bind((outbound, 0))


def _leave_by(sock: socket.socket, outbound: str, far: str) -> None:
    if not is_interface(outbound):
        sock.bind((outbound, 0))
    elif not (far == "::1" or far.startswith("127.")):
        # By name at each socket, so that an interface that comes and goes is followed; see socket(7). Needs no
        # privilege since Linux 5.7 where the socket is not yet bound to one.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, outbound.encode() + b"\0")
