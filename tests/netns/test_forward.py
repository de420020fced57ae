"""Published ports, as clients on the host see them."""

from __future__ import annotations

import socket

import pytest

from netns.process import PublishedPort, Settings
from tests.netns.network import HOST, OTHER, PATIENCE, Network, on_a_host, receive_all

pytestmark = [pytest.mark.userns, pytest.mark.tun]


def test_urgent_bytes_are_bytes() -> None:
    def work() -> bytes:
        with Network(Settings(publish=(PublishedPort(80, 0, HOST),))) as network:

            def serve() -> bytes:
                with socket.create_server(("0.0.0.0", 80)) as listener:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"!")
                        return receive_all(connection)

            server = network.start(serve)
            port = network.reservations[0].port.host_port
            while True:
                try:
                    with socket.create_connection((HOST, port), PATIENCE, (OTHER, 0)) as sock:
                        if sock.recv(1) == b"!":
                            sock.sendall(b"abc")
                            sock.send(b"!", socket.MSG_OOB)
                            sock.sendall(b"def")
                            break
                except ConnectionResetError:
                    continue  # it does not listen yet
            return bytes(server.wait())

    assert on_a_host(work) == b"abc!def"
