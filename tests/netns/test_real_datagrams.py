"""UDP, the resolver, pings and DHCP between a guest and a host made for the test."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import threading
from typing import Any

import pytest

from netns.process import PublishedPort, Settings
from netns.wire import icmp, icmpv6
from netns.wire.dhcp import DhcpMessage
from netns.wire.icmp import IcmpMessage
from tests.netns.network import (
    GATEWAY,
    GATEWAY6,
    HOST,
    HOST6,
    OTHER,
    PATIENCE,
    RESOLVER,
    Network,
    connect,
    on_a_host,
    serve_tcp,
    serve_udp,
)

pytestmark = [pytest.mark.userns, pytest.mark.tun]


def exchange(address: str, port: int, data: bytes) -> bytes | int:
    """The answer to one datagram, or the errno that came instead."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((address, port))
        try:
            sock.send(data)
            return sock.recv(65535)
        except OSError as error:
            return error.errno or -1


@pytest.mark.parametrize("mtu", [1500, 65520])
def test_datagrams_of_every_size(mtu: int) -> None:
    def work() -> None:
        with Network(Settings(mtu=mtu, disable_host_loopback=False)) as network:
            port, port6 = serve_udp("127.0.0.1", lambda d, p: d), serve_udp(HOST6, lambda d, p: d)
            for size in (0, 1, 1472, 1473, 9000, 65507):
                data = os.urandom(size)
                assert network.run(lambda data=data: exchange(GATEWAY, port, data)) == data
                assert network.run(lambda data=data: exchange(HOST6, port6, data)) == data

    on_a_host(work)


@pytest.mark.parametrize("host", [HOST, HOST6])
def test_a_burst_arrives_in_order(host: str) -> None:
    """What is sent in one turn of the network's loop goes out in runs: of one size, with a shorter last."""
    sizes = [50] * 10 + [30, 30, 0, 0, 50, 200] + [1400] * 20 + [1399, 9000, 9000, 9000, 1, 2, 3, 2, 1]
    burst = [bytes((number % 256,)) * size for number, size in enumerate(sizes)]

    def send(port: int, payloads: list[bytes]) -> None:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((host, port))
            for payload in payloads:
                sock.send(payload)

    def work() -> None:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.settimeout(PATIENCE)
            sink.bind((host, 0))
            with Network() as network:
                network.run(lambda: send(sink.getsockname()[1], burst[:1]))  # a guest may disorder what waits for ARP
                assert sink.recv(65535) == burst[0]
                network.run(lambda: send(sink.getsockname()[1], burst))
                assert [sink.recv(65535) for _ in burst] == burst
                os.kill(network.pid, signal.SIGSTOP)
                network.run(lambda: send(sink.getsockname()[1], burst))
                os.kill(network.pid, signal.SIGCONT)
                assert [sink.recv(65535) for _ in burst] == burst

    on_a_host(work)


def test_a_burst_to_a_closed_port_is_refused() -> None:
    def send() -> int | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((HOST, 9))
            try:
                for _ in range(50):
                    sock.send(bytes(100))
                sock.recv(1)
            except OSError as error:
                return error.errno
            return None

    def work() -> None:
        with Network() as network:
            assert network.run(send) == errno.ECONNREFUSED
            assert network.run(send) == errno.ECONNREFUSED

    on_a_host(work)


@pytest.mark.parametrize("host", [HOST, HOST6])
def test_runs_that_the_guest_leaves_uncut(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    runs = [[1200] * 20 + [700], [1400] * 20, [1200] * 10 + [1]]

    def send(port: int) -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((host, port))
            for run in runs:
                parts = [bytes((number,)) * size for number, size in enumerate(run)]
                sock.sendmsg(parts, [(socket.IPPROTO_UDP, 103, struct.pack("=H", run[0]))])
                sock.recv(10)

    def work() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sock, Network() as network:
            sock.settimeout(PATIENCE)
            sock.bind((host, 0))
            running = network.start(lambda: send(sock.getsockname()[1]))
            for run in runs:
                for number, size in enumerate(run):
                    payload, peer = sock.recvfrom(65535)
                    assert payload == bytes((number,)) * size
                sock.sendto(b"next", peer)
            running.wait()

    on_a_host(work)


@pytest.mark.parametrize(("host", "mtu"), [(HOST, 65520), (HOST6, 65520), (HOST, 1500), (HOST6, 1280)])
def test_what_arrives_gathered_is_cut_again(host: str, mtu: int) -> None:
    """A sender whose kernel cuts runs (udp(7), UDP_SEGMENT) reaches us uncut; the guest hears what was meant."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    runs = [[1200] * 40 + [700], [1200] * 40, [1], [1400] * 30, [1200] * 10 + [1]]

    def receive(port: int) -> list[tuple[int, int]]:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((host, port))
            sock.send(b"ready")
            seen = []
            for _ in range(100):
                sock.recv(10)
            for run in runs:
                sock.send(b"next")
                for _ in run:
                    payload = sock.recv(2000)
                    seen.append((payload[0], len(payload)))
            return seen

    def work() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sock, Network(Settings(mtu=mtu)) as network:
            sock.settimeout(PATIENCE)
            sock.bind((host, 0))
            running = network.start(lambda: receive(sock.getsockname()[1]))
            peer = sock.recvfrom(10)[1]
            os.kill(network.pid, signal.SIGSTOP)
            for _ in range(100):  # so many wait at once that they are gathered from now on
                sock.sendto(b"many", peer)
            os.kill(network.pid, signal.SIGCONT)
            for run in runs:
                assert sock.recv(10) == b"next"
                parts = [bytes((number,)) * size for number, size in enumerate(run)]
                sock.sendmsg(parts, [(socket.IPPROTO_UDP, 103, struct.pack("=H", run[0]))], 0, peer)
            assert running.wait() == [place for run in runs for place in enumerate(run)]

    on_a_host(work)


def test_a_closed_port_is_refused() -> None:
    def work() -> None:
        with Network() as network:
            for address in (GATEWAY, GATEWAY6, HOST):
                assert network.run(lambda address=address: exchange(address, 9, b"x")) == errno.ECONNREFUSED
        with Network(Settings()) as network:
            port = serve_udp("127.0.0.1", lambda d, p: d)
            assert network.run(lambda: exchange(GATEWAY, port, b"x")) == errno.ECONNREFUSED

    on_a_host(work)


def test_published_ports_keep_the_clients_address() -> None:
    def work() -> None:
        def server() -> list[str]:
            peers = []
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("0.0.0.0", 53))
                os.write(ready_write, b"1")
                for _ in range(3):
                    data, peer = sock.recvfrom(65535)
                    peers.append(peer[0])
                    sock.sendto(data, peer)
            return peers

        def ask(source: str, target: str) -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE)
                sock.bind((source, 0))
                sock.connect((target, 5353))  # so that an answer from another address would not arrive
                sock.send(source.encode())
                return sock.recv(100)

        ready, ready_write = os.pipe()
        with Network(Settings(publish=(PublishedPort(53, 5353, protocol="udp"),))) as network:
            running = network.start(server)
            os.read(ready, 1)
            assert ask(OTHER, HOST) == OTHER.encode()
            assert ask("127.0.0.5", "127.0.0.1") == b"127.0.0.5"
            assert ask("127.0.0.1", "127.0.0.9") == b"127.0.0.1"
            assert running.wait() == [OTHER, GATEWAY, GATEWAY]

    on_a_host(work)


def query(identifier: int) -> bytes:
    return struct.pack("!HHHHHH", identifier, 0x0100, 1, 0, 0, 0) + b"\7example\0\0\1\0\1"


def dns_answer(data: bytes, mark: bytes) -> bytes:
    return data[:2] + b"\x81\x80" + data[4:] + mark


def test_names_are_asked_of_the_hosts_servers() -> None:
    def work() -> None:
        def over_tcp(connection: socket.socket) -> None:
            data = connection.recv(1000)
            answer = dns_answer(data[2:], b"tcp")
            connection.sendall(len(answer).to_bytes(2, "big") + answer)

        def ask_tcp() -> bytes:
            with connect(RESOLVER, 53) as sock:
                sock.sendall(len(query(5)).to_bytes(2, "big") + query(5))
                return sock.recv(1000)[2:]

        # The first refuses, the second is silent once, the third answers.
        silent = threading.Event()

        def second(data: bytes, peer: Any) -> bytes | None:
            if silent.is_set():
                return dns_answer(data, b"second")
            silent.set()
            return None

        settings = Settings(dns=("127.0.0.1", "127.0.0.2", "127.0.0.3"))
        with Network(settings) as network:
            serve_udp("127.0.0.2", second, port=53)
            serve_udp("127.0.0.3", lambda data, peer: dns_answer(data, b"third"), port=53)
            serve_tcp("127.0.0.3", over_tcp, port=53)
            assert network.run(lambda: exchange(RESOLVER, 53, query(1))) == dns_answer(query(1), b"third")
            assert network.run(lambda: exchange(RESOLVER, 53, query(2))) == dns_answer(query(2), b"second")
            assert network.run(ask_tcp) == dns_answer(query(5), b"tcp")
            assert network.run(lambda: exchange("fd00::3", 53, query(3))) == dns_answer(query(3), b"second")
            assert network.run(lambda: exchange(RESOLVER, 54, b"x")) == errno.ECONNREFUSED

    on_a_host(work)


def test_no_name_server_is_said_at_once() -> None:
    def work() -> None:
        with Network(Settings(dns=("127.0.0.1",))) as network:
            answer = network.run(lambda: exchange(RESOLVER, 53, query(77)))
            assert isinstance(answer, bytes)
            assert answer[:2] == (77).to_bytes(2, "big") and answer[3] & 15 == 2  # SERVFAIL
        with Network(Settings(disable_dns=True)) as network:
            assert network.run(lambda: exchange(RESOLVER, 53, query(1))) == errno.ECONNREFUSED

    on_a_host(work)


def ping6(address: str, payload: bytes) -> bytes | None:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.settimeout(2)
        sock.connect((address, 0))
        sock.send(struct.pack("!BBHHH", icmpv6.ECHO_REQUEST, 0, 0, 4711, 3) + payload)
        try:
            while True:
                data = sock.recv(65535)
                if data[0] == icmpv6.ECHO_REPLY and data[4:8] == struct.pack("!HH", 4711, 3):
                    return data[8:]
        except TimeoutError:
            return None


def ping(address: str, payload: bytes) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(2)
        sock.connect((address, 0))
        sock.send(IcmpMessage(icmp.ECHO_REQUEST, 0, 4711, 3, payload).to_bytes())
        try:
            while True:
                reply = IcmpMessage.parse(sock.recv(65535)[20:])
                if reply.kind == icmp.ECHO_REPLY and (reply.first, reply.second) == (4711, 3):
                    return bytes(reply.payload)
        except TimeoutError:
            return None


def test_pings() -> None:
    def work() -> None:
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
            file.write("0 0")
        with Network() as network:
            assert network.run(lambda: ping(GATEWAY, b"gateway")) == b"gateway"
            assert network.run(lambda: ping(RESOLVER, bytes(20000))) == bytes(20000)
            assert network.run(lambda: ping(HOST, b"beyond")) == b"beyond"
            assert network.run(lambda: ping6(GATEWAY6, b"gateway")) == b"gateway"
            assert network.run(lambda: ping6(HOST6, b"beyond")) == b"beyond"

    on_a_host(work)


def test_pings_that_the_host_forbids_are_prohibited_and_noted() -> None:
    def refused(address: str) -> int | None:
        try:
            return ping(address, b"beyond") and 0
        except OSError as error:
            return error.errno

    def work() -> None:
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
            file.write("1 0")
        with Network() as network:
            assert network.run(lambda: refused(HOST)) == errno.EHOSTUNREACH
            network.control.settimeout(10)
            assert b"sysctl -w net.ipv4.ping_group_range=" in network.control.recv(1000)

    on_a_host(work)


def test_dhcp_offers_the_address() -> None:
    def work() -> None:
        def client() -> DhcpMessage:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(PATIENCE)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap0")
                sock.bind(("", 68))
                sock.sendto(DhcpMessage(1, 99, b"\2" * 6, options={53: b"\1"}).to_bytes(), ("255.255.255.255", 67))
                return DhcpMessage.parse(sock.recv(2000))

        with Network(Settings(cidr="172.30.7.0/24")) as network:
            offer = network.run(client)
            assert (offer.transaction, socket.inet_ntoa(offer.yours)) == (99, "172.30.7.100")
            assert socket.inet_ntoa(offer.options[6]) == "172.30.7.3"

    on_a_host(work)
