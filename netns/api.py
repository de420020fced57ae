"""slirp4netns's API: one JSON request and one JSON answer per connection of a Unix socket.

add_hostfwd     {"proto": "tcp"|"udp", "host_addr", "host_port", "guest_addr", "guest_port"} -> {"id"}
list_hostfwd    -> {"entries": [...]}
remove_hostfwd  {"id"} -> {}
get_info        -> addresses and version
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from dataclasses import dataclass
from typing import Any

from netns.driver import Driver
from netns.errors import NetworkError
from netns.forward import TcpForwarder, UdpForwarder, publish, reserve_ports
from netns.settings import PublishedPort, Settings

_MAX_REQUEST = 65536
_MAX_CLIENTS = 16


@dataclass(slots=True)
class _Forward:
    forwarder: TcpForwarder | UdpForwarder
    port: PublishedPort
    guest: str


class ApiSocket:
    """Listens at `path`, which it makes and removes. Raises NetworkError where it cannot."""

    def __init__(self, driver: Driver, path: str, settings: Settings) -> None:
        self._driver = driver
        self._path = path
        self._settings = settings
        self._addresses = settings.addresses()
        self._forwards: dict[int, _Forward] = {}
        self._next = 1
        self._clients: dict[socket.socket, bytearray] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._listener.bind(path)
            os.chmod(path, 0o600)
            self._listener.listen(_MAX_CLIENTS)
        except OSError as error:
            self._listener.close()
            raise NetworkError(f"cannot listen at {path}: {error.strerror}") from None
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
            client.close()
            return
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
        try:
            request = json.loads(received)
        except (ValueError, RecursionError):
            if data and len(received) < _MAX_REQUEST:
                return  # more is to come
            answer = _failure("the request is not JSON")
        else:
            answer = self._execute(request)
        with contextlib.suppress(OSError):  # the client left without waiting
            client.send(json.dumps(answer).encode())
        self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        self._driver.discard(client)

    def _execute(self, request: object) -> dict[str, Any]:
        if not isinstance(request, dict):
            return _failure("the request is not an object")
        arguments = request.get("arguments", {})
        if not isinstance(arguments, dict):
            return _failure("the arguments are not an object")
        try:
            match request.get("execute"):
                case "add_hostfwd":
                    return {"return": {"id": self._add(arguments)}}
                case "list_hostfwd":
                    return {"return": {"entries": [self._entry(i, f) for i, f in self._forwards.items()]}}
                case "remove_hostfwd":
                    self._remove(arguments)
                    return {"return": {}}
                case "get_info":
                    return {"return": self._info()}
                case other:
                    return _failure(f"bad request: unknown execute {other!r}")
        except NetworkError as error:
            return _failure(str(error))

    def _add(self, arguments: dict[str, Any]) -> int:
        protocol = arguments.get("proto")
        host = arguments.get("host_addr", "0.0.0.0")
        guest = arguments.get("guest_addr", socket.inet_ntop(socket.AF_INET, self._addresses.guest))
        host_port, guest_port = arguments.get("host_port"), arguments.get("guest_port")
        if protocol not in ("tcp", "udp"):
            raise NetworkError('bad request: add_hostfwd: "proto" must be "tcp" or "udp"')
        if not isinstance(host, str) or type(host_port) is not int or type(guest_port) is not int:
            raise NetworkError("bad request: add_hostfwd: an address or a port is missing")
        if guest != socket.inet_ntop(socket.AF_INET, self._addresses.guest):
            raise NetworkError(f"bad request: add_hostfwd: the guest is not at {guest}")
        port = PublishedPort(guest_port, host_port, host, protocol)
        (reservation,) = reserve_ports(Settings(publish=(port,)))
        identifier, self._next = self._next, self._next + 1
        forwarder = publish(self._driver, reservation, self._addresses)
        self._forwards[identifier] = _Forward(forwarder, reservation.port, guest)
        return identifier

    def _remove(self, arguments: dict[str, Any]) -> None:
        identifier = arguments.get("id")
        forward = self._forwards.pop(identifier, None) if type(identifier) is int else None
        if forward is None:
            raise NetworkError("bad request: remove_hostfwd: bad arguments.id")
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
        return {**info, "tcp_flows": len(self._driver.stack.tcp), "udp_flows": len(self._driver.stack.udp)}


def _failure(sentence: str) -> dict[str, Any]:
    return {"error": {"desc": sentence}}
