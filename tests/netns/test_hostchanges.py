"""A host whose addresses change under flows that go on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading

import pytest

from netns.process import Settings
from tests.netns.network import HOST, OTHER, PATIENCE, Network, connect, on_a_host, serve_tcp, serve_udp

pytestmark = [pytest.mark.userns, pytest.mark.tun]

FAR = "198.51.100.9"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def test_a_network_that_was_stopped_goes_on() -> None:
    """As when the machine is suspended."""

    def work() -> None:
        port = serve_tcp(HOST, lambda sock: sock.sendall(sock.recv(10)))
        datagrams = serve_udp(OTHER, lambda data, peer: data)
        with Network(Settings()) as network:
            here, there = socket.socketpair()
            here.settimeout(PATIENCE)
            there.settimeout(PATIENCE)

            def guest() -> bytes:
                with connect(HOST, port) as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.settimeout(PATIENCE)
                    sock.connect((OTHER, datagrams))
                    sock.send(b"a")
                    assert sock.recv(10) == b"a"
                    there.send(b"1")
                    there.recv(1)
                    stream.sendall(b"while it ")
                    sock.send(b"stopped")
                    there.send(b"1")
                    return stream.recv(10) + sock.recv(10)

            running = network.start(guest)
            here.recv(1)
            os.kill(network.pid, signal.SIGSTOP)
            here.send(b"1")
            here.recv(1)
            os.kill(network.pid, signal.SIGCONT)
            assert running.wait() == b"while it stopped"

    on_a_host(work)


def prefer(source: str) -> None:
    """Let the host use `source` towards FAR."""
    ip("route", "replace", "local", FAR, "dev", "lo", "src", source, "table", "local")


def test_a_flow_leaves_from_the_address_that_is_right_now() -> None:
    def work() -> None:
        ip("address", "add", f"{FAR}/32", "dev", "lo")
        prefer(HOST)
        port = serve_udp(FAR, lambda data, peer: str(peer[0]).encode())
        with Network(Settings()) as network:
            asked, answered = os.pipe(), os.pipe()

            def guest() -> list[str]:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.settimeout(1)
                    sock.connect((FAR, port))
                    seen: list[str] = []
                    for _ in range(100):
                        sock.send(b"?")
                        with contextlib.suppress(TimeoutError):
                            source = sock.recv(100).decode()
                            if source not in seen:
                                seen.append(source)
                                os.write(answered[1], b"1")
                                if len(seen) < 2:
                                    os.read(asked[0], 1)
                        if len(seen) == 2:
                            break
                        threading.Event().wait(0.05)
                    return seen

            running = network.start(guest)
            assert os.read(answered[0], 1) == b"1"
            prefer(OTHER)
            os.write(asked[1], b"1")
            assert running.wait() == [HOST, OTHER]

    on_a_host(work)
