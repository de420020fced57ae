"""-p [[IP:]HOSTPORT:]CONTAINERPORT[/PROTOCOL], each port also as a range FIRST-LAST, and -p unix:PATH:CONTAINERPORT."""

from __future__ import annotations

import ipaddress

from ..container.options import Published
from ..errors import UsageError


def parse_published(text: str) -> tuple[Published, ...]:
    """Raises UsageError. Without a host port the kernel chooses one: `host_port` is 0 then."""
    if text.startswith("unix:"):
        return (_parse_socket(text),)
    body, separator, protocol = text.partition("/")
    protocol = protocol if separator else "tcp"
    if protocol not in ("tcp", "udp"):
        raise UsageError(f'the protocol of the port "{text}" is "{protocol}"', hint="use tcp or udp")
    address = ""
    if body.startswith("["):
        address, separator, body = body[1:].partition("]:")
        if not separator:
            raise _malformed(text)
    elif body.count(":") == 2:
        address, _, body = body.partition(":")
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise UsageError(f'the address of the port "{text}" is not an IP address: "{address}"') from None
    host, _, inside = body.rpartition(":")
    first, last = _range(inside, text)
    if not host:
        host_first, host_last = 0, last - first  # the kernel chooses
    else:
        host_first, host_last = _range(host, text)
    if host_first and host_last - host_first != last - first:
        raise UsageError(f'the port ranges of "{text}" are not of one length')
    return tuple(
        Published(
            host_ip=address,
            host_port=host_first + offset if host_first else 0,
            container_port=first + offset,
            protocol=protocol,
        )
        for offset in range(last - first + 1)
    )


def _parse_socket(text: str) -> Published:
    path, _, port = text.removeprefix("unix:").rpartition(":")
    inside, separator, protocol = port.partition("/")
    if not path or "\0" in path or path.endswith("/"):
        raise UsageError(f'the port "{text}" is not unix:PATH:CONTAINERPORT')
    if separator and protocol != "tcp":
        raise UsageError(f'the protocol of the port "{text}" is "{protocol}"', hint="a socket leads to a TCP port")
    first, last = _range(inside, text)
    if first != last:
        raise UsageError(f'the port "{text}" is a range', hint="a socket leads to one port")
    return Published(host_ip="", host_port=0, container_port=first, protocol="tcp", path=path)


def _range(text: str, whole: str) -> tuple[int, int]:
    first, separator, last = text.partition("-")
    if not all(word.isascii() and word.isdigit() for word in (first, last if separator else first)):
        raise _malformed(whole)
    pair = (int(first), int(last) if separator else int(first))
    if not 1 <= pair[0] <= pair[1] <= 65535:
        raise UsageError(f'the port "{whole}" is out of range', hint="ports go from 1 to 65535")
    return pair


def _malformed(text: str) -> UsageError:
    return UsageError(f'the port "{text}" is not [[IP:]HOSTPORT:]CONTAINERPORT[/PROTOCOL]')
