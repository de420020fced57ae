"""slirp4netns's API: one JSON request and one JSON answer per connection of a Unix socket.

add_hostfwd     {"proto": "tcp"|"udp", "host_addr", "host_port", "guest_addr", "guest_port"} -> {"id"}
list_hostfwd    -> {"entries": [...]}
remove_hostfwd  {"id"} -> {}
get_info        -> addresses and counts of flows; this one is ours

An answer is {"return": ...} or {"error": {"desc": sentence}}. The sentences begin as those of slirp4netns 1.2 do; what
it leaves unsaid, such as that a port is in use, follows after a colon. An address that is missing or empty is the usual
one. The manual of slirp4netns has the entries inside of "return", its code has them beside it: they are in both places.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import select
import socket
import stat
from dataclasses import dataclass
from typing import Any

from netns.driver import Driver
from netns.errors import NetworkError
from netns.forward import TcpForwarder, UdpForwarder, publish, reserve_ports
from netns.settings import PublishedPort, Settings
from netns.splice import Splicer

_MAX_REQUEST = 4096  # bytes, as in slirp4netns
_MAX_CLIENTS = 16
_WAITING = 128  # clients that have not been accepted: one that does not wait is refused when there are more
_LAST_PORT = 65535


class _BadRequest(Exception):
    """What slirp4netns says after "bad request: "."""


@dataclass(slots=True)
class _Forward:
    forwarder: TcpForwarder | UdpForwarder
    port: PublishedPort
    guest: str


class ApiSocket:
    """Listens at `path`, which it makes and removes. Raises NetworkError where it cannot."""

    def __init__(self, driver: Driver, path: str, settings: Settings, splicer: Splicer | None = None) -> None:
        self._driver = driver
        self._splicer = splicer
        self._path = path
        self._settings = settings
        self._addresses = settings.addresses()
        self._forwards: dict[int, _Forward] = {}
        self._next = 1
        self._clients: dict[socket.socket, bytearray] = {}  # what was received, then what is to be sent
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(os.lstat(path).st_mode):
                    raise NetworkError(f"cannot listen at {path}: there is something else than a socket")
                os.unlink(path)
            self._listener.bind(path)
            os.chmod(path, 0o600)
            self._listener.listen(_WAITING)
        except NetworkError:
            self._listener.close()
            raise
        except OSError as error:
            self._listener.close()
            reason = error.strerror or str(error)  # a path that is too long is Python's own complaint
            raise NetworkError(f"cannot listen at {path or 'an empty path'}: {reason}") from None
        driver.watch(self._listener, select.EPOLLIN, self._on_client)

    def close(self) -> None:
        """Stop listening and remove the socket's name."""
        self._driver.discard(self._listener)
        for client in list(self._clients):
            self._drop(client)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _on_client(self, mask: int) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        if len(self._clients) >= _MAX_CLIENTS:
            self._drop(next(iter(self._clients)))  # whoever has been silent for longest
        self._clients[client] = bytearray()
        self._driver.watch(client, select.EPOLLIN, lambda mask: self._on_bytes(client))

    def _on_bytes(self, client: socket.socket) -> None:
        received = self._clients.get(client)
        if received is None:
            return
        try:
            data = client.recv(_MAX_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        received += data
        if len(received) >= _MAX_REQUEST:
            self._answer(client, _failure("bad request: too large message"))
            return
        try:
            request = json.loads(received)
        except (ValueError, RecursionError):
            if not data:
                self._answer(client, _failure("bad request: cannot parse JSON"))
            return  # more is to come
        self._answer(client, self._execute(request))

    def _answer(self, client: socket.socket, answer: dict[str, Any]) -> None:
        self._clients[client] = bytearray(json.dumps(answer).encode())
        self._send(client)

    def _send(self, client: socket.socket) -> None:
        unsent = self._clients.get(client)
        if unsent is None:
            return
        try:
            del unsent[: client.send(unsent)]
        except BlockingIOError:
            pass
        except OSError:
            unsent.clear()  # the client left without waiting
        if unsent:
            self._driver.watch(client, select.EPOLLOUT, lambda mask: self._send(client))
        else:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        self._driver.discard(client)

    def _execute(self, request: object) -> dict[str, Any]:
        if not isinstance(request, dict) or not isinstance(request.get("execute"), str):
            return _failure("bad request: no execute found")
        arguments = request.get("arguments", {})
        if not isinstance(arguments, dict):
            arguments = {}
        try:
            match request["execute"]:
                case "add_hostfwd":
                    return {"return": {"id": self._add(arguments)}}
                case "list_hostfwd":
                    entries = [self._entry(i, f) for i, f in self._forwards.items()]
                    return {"return": {"entries": entries}, "entries": entries}
                case "remove_hostfwd":
                    self._remove(arguments)
                    return {"return": {}}
                case "get_info":
                    return {"return": self._info()}
                case _:
                    return _failure("bad request: unknown execute")
        except _BadRequest as error:
            return _failure(f"bad request: {error}")

    def _add(self, arguments: dict[str, Any]) -> int:
        ours = socket.inet_ntop(socket.AF_INET, self._addresses.guest)
        protocol = arguments.get("proto")
        host = arguments.get("host_addr") or "0.0.0.0"
        guest = arguments.get("guest_addr") or ours
        host_port, guest_port = arguments.get("host_port"), arguments.get("guest_port")
        for name, good in (
            ("proto", protocol in ("tcp", "udp")),
            ("host_addr", _is_address(host)),
            ("host_port", type(host_port) is int and 0 <= host_port <= _LAST_PORT),
            ("guest_addr", guest == ours),
            ("guest_port", type(guest_port) is int and 0 < guest_port <= _LAST_PORT),
        ):
            if not good:
                raise _BadRequest(f"add_hostfwd: bad arguments.{name}")
        port = PublishedPort(guest_port, host_port, host, protocol)  # type: ignore[arg-type]  # checked above
        try:
            (reservation,) = reserve_ports(Settings(publish=(port,)))
        except NetworkError as error:
            raise _BadRequest(f"add_hostfwd: slirp_add_hostfwd failed: {error}") from None
        identifier, self._next = self._next, self._next + 1
        forwarder = publish(self._driver, reservation, self._addresses, self._splicer)
        self._forwards[identifier] = _Forward(forwarder, reservation.port, guest)
        return identifier

    def _remove(self, arguments: dict[str, Any]) -> None:
        identifier = arguments.get("id")
        forward = self._forwards.pop(identifier, None) if type(identifier) is int else None
        if forward is None:
            raise _BadRequest("remove_hostfwd: bad arguments.id")
        forward.forwarder.close()

    def _entry(self, identifier: int, forward: _Forward) -> dict[str, Any]:
        return {
            "id": identifier,
            "proto": forward.port.protocol,
            "host_addr": forward.port.host_ip,
            "host_port": forward.port.host_port,
            "guest_addr": forward.guest,
            "guest_port": forward.port.container_port,
        }

    def _info(self) -> dict[str, Any]:
        addresses = self._addresses
        info = {
            "cidr": str(addresses.network),
            "mtu": self._settings.mtu,
            "gateway": socket.inet_ntop(socket.AF_INET, addresses.gateway),
            "guest_addr": socket.inet_ntop(socket.AF_INET, addresses.guest),
            "dns": socket.inet_ntop(socket.AF_INET, addresses.resolver),
        }
        if addresses.network6 is not None:
            info["cidr6"] = str(addresses.network6)
        for name, packed in (
            ("gateway6", addresses.gateway6), ("guest_addr6", addresses.guest6), ("dns6", addresses.resolver6)
        ):  # fmt: skip
            if packed is not None:
                info[name] = socket.inet_ntop(socket.AF_INET6, packed)
        return {**info, "tcp_flows": len(self._driver.stack.tcp), "udp_flows": len(self._driver.stack.udp)}


def _is_address(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _failure(sentence: str) -> dict[str, Any]:
    return {"error": {"desc": sentence}}
