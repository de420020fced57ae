"""The rtnetlink(7) messages that configure a link, as bytes: one send, one round of answers.

Plain bytes, because this happens at each start of a container, where building messages through a library's classes
costs more than everything the kernel does.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")

_NLMSG_ERROR = 2
_RTM_NEWLINK = 16
_RTM_NEWADDR = 20
_RTM_NEWROUTE = 24
_REQUEST_ACK = 0x0001 | 0x0004
_CREATE_REPLACE = 0x0400 | 0x0100

_IFF_UP = 1
_IFLA_ADDRESS = 1
_IFLA_MTU = 4
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_BROADCAST = 4
_IFA_FLAGS = 8
_IFA_F_NODAD = 0x02
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RT_SCOPE_UNIVERSE = 0
_RTN_UNICAST = 1

_TOLERATED6 = frozenset({errno.EOPNOTSUPP, errno.EACCES, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH})


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def link_up(index: int, *, mtu: int | None = None, mac: bytes | None = None) -> bytes:
    """RTM_NEWLINK: set `index` up, with `mtu` and `mac` where given. To be completed by `configure`."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)
    if mtu is not None:
        body += _attribute(_IFLA_MTU, struct.pack("=I", mtu))
    if mac is not None:
        body += _attribute(_IFLA_ADDRESS, mac)
    return _message(_RTM_NEWLINK, _REQUEST_ACK, body)


def add_address(index: int, address: bytes, prefix: int, broadcast: bytes | None = None) -> bytes:
    """RTM_NEWADDR: give link `index` an address, without duplicate address detection."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = _ADDRESS.pack(family, prefix, 0, _RT_SCOPE_UNIVERSE, index)
    body += _attribute(_IFA_LOCAL, address) + _attribute(_IFA_ADDRESS, address)
    if broadcast is not None:
        body += _attribute(_IFA_BROADCAST, broadcast)
    if family == socket.AF_INET6:
        body += _attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD))
    return _message(_RTM_NEWADDR, _REQUEST_ACK | _CREATE_REPLACE, body)


def add_default_route(index: int, gateway: bytes) -> bytes:
    """RTM_NEWROUTE: everything else goes to `gateway` through link `index`."""
    family = socket.AF_INET if len(gateway) == 4 else socket.AF_INET6
    body = _ROUTE.pack(
        family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0
    )  # fmt: skip
    body += _attribute(_RTA_GATEWAY, gateway) + _attribute(_RTA_OIF, struct.pack("=i", index))
    return _message(_RTM_NEWROUTE, _REQUEST_ACK | _CREATE_REPLACE, body)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def configure(messages: list[bytes], optional: list[bytes]) -> None:
    """Send all in the calling thread's network namespace. Raises the first OSError of `messages`.

    Those of `optional` (IPv6, which the kernel may lack or forbid) may fail for want of the protocol.
    """
    everything = [*messages, *optional]
    numbered = b"".join(
        message[:8] + number.to_bytes(4, sys.byteorder) + message[12:] for number, message in enumerate(everything)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as rtnetlink:
        rtnetlink.send(numbered)
        answered = 0
        failures: dict[int, int] = {}
        while answered < len(everything):
            data = rtnetlink.recv(65536)
            place = 0
            while place + _HEADER.size <= len(data):
                size, kind, _, number, _ = _HEADER.unpack_from(data, place)
                if kind == _NLMSG_ERROR:
                    answered += 1
                    failures[number] = -int.from_bytes(data[place + 16 : place + 20], sys.byteorder, signed=True)
                place += max(size + 3 & ~3, _HEADER.size)
    for number, code in sorted(failures.items()):
        if code and not (number >= len(messages) and code in _TOLERATED6):
            raise OSError(code, os.strerror(code))
