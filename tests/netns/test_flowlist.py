"""How flows are written, and that a network lists those that it has."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from netns.flowlist import endpoint
from netns.process import PublishedPort, Settings
from tests.netns.network import HOST, HOST6, OTHER, PATIENCE, Network, connect, on_a_host, serve_tcp, serve_udp
from tests.netns.test_real_datagrams import ping, ping6
from tests.netns.test_real_names import address_of, dig


def test_endpoints() -> None:
    assert endpoint(b"\x0a\0\2\x64", 80) == "10.0.2.100:80"
    assert endpoint(bytes(15) + b"\1", 443) == "[::1]:443"


def ask(control: socket.socket) -> dict[str, Any]:
    """The document of a network."""
    control.settimeout(PATIENCE)
    control.send(b'{"ask": "flows"}')
    while True:
        answer, fds, _, _ = socket.recv_fds(control, 4096, 1)
        if fds:
            with open(fds[0], "rb") as file:
                document: dict[str, Any] = json.load(file)
                return document
        assert b"note" in answer


@pytest.mark.userns
@pytest.mark.tun
def test_pings_are_listed_and_those_denied_are_noted() -> None:
    def work() -> None:
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
            file.write("0 0")
        with Network(Settings(egress=(f"allow={HOST}",))) as network:
            assert network.run(lambda: ping(HOST, b"four")) == b"four"
            assert network.run(lambda: ping6_refused(HOST6))
            network.control.settimeout(PATIENCE)
            note = json.loads(network.control.recv(4096))
            assert note == {"note": f"refused by the egress rules: icmp to {HOST6}"}
            document = ask(network.control)
            (flow,) = document["flows"]
            assert flow["container"].startswith("10.0.2.100:") and flow["far"] == HOST
            assert (flow["protocol"], flow["direction"], flow["state"]) == ("icmp", "out", "answered")
            assert (flow["sent"], flow["received"]) == (12, 12)  # ICMP's header is 8 bytes long
            assert document["denied"] == [{"protocol": "icmp", "far": HOST6, "port": 0, "count": 1}]

    on_a_host(work)


def ping6_refused(address: str) -> bool:
    try:
        ping6(address, b"six")
    except PermissionError:
        return True
    return False


@pytest.mark.userns
@pytest.mark.tun
def test_a_network_lists_its_flows() -> None:
    def work() -> None:
        port = serve_tcp(HOST, lambda sock: sock.sendall(b"here" + sock.recv(10)) or threading.Event().wait(PATIENCE))
        datagrams = serve_udp(OTHER, lambda data, peer: data * 2)
        serve_udp("127.0.0.2", address_of(HOST), port=53)
        settings = Settings(
            dns=("127.0.0.2",),
            egress=("deny=any:81", "deny=192.0.2.9/udp"),
            publish=(PublishedPort(8080, 8080, OTHER),),
        )
        with Network(settings) as network:
            here, there = socket.socketpair()
            here.settimeout(PATIENCE)
            there.settimeout(PATIENCE)

            def guest() -> None:
                assert dig("www.example") == HOST
                with (
                    connect(HOST, port) as stream,
                    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
                    socket.create_server(("10.0.2.100", 8080)) as server,
                ):
                    stream.sendall(b"12345")
                    assert stream.recv(100)
                    sock.connect((OTHER, datagrams))
                    sock.send(b"abc")
                    sock.recv(10)
                    try:
                        connect(HOST, 81)
                    except ConnectionRefusedError:
                        there.send(b"1")
                    accepted, _ = server.accept()
                    with accepted:
                        there.send(b"2")
                        there.recv(1)

            running = network.start(guest)
            assert here.recv(1) == b"1"
            with connect(OTHER, 8080):
                assert here.recv(1) == b"2"
                document = ask(network.control)
                here.send(b"1")
            running.wait()
        by_far = {(flow["protocol"], flow["far"]): flow for flow in document["flows"]}
        stream = by_far["tcp", f"{HOST}:{port}"]
        assert (stream["direction"], stream["name"], stream["state"]) == ("out", "www.example", "established")
        assert (stream["sent"], stream["received"]) == (5, 9)
        assert stream["container"].startswith("10.0.2.100:") and 0 <= stream["since"] < 3600
        datagram = by_far["udp", f"{OTHER}:{datagrams}"]
        assert (datagram["sent"], datagram["received"], datagram["state"]) == (3, 6, "answered")
        assert ("udp", "10.0.2.3:53") in by_far
        assert [flow["container"] for flow in document["flows"] if flow["direction"] == "in"] == ["10.0.2.100:8080"]
        assert document["denied"] == [{"protocol": "tcp", "far": HOST, "port": 81, "count": 1}]

    on_a_host(work)
