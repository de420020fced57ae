"""Clients of the host's loopback, joined to the guest."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from netns.process import PublishedPort, Settings
from tests.netns.network import PATIENCE, Network, on_a_host, receive_all, serve_tcp

pytestmark = [pytest.mark.userns, pytest.mark.tun]

PORT = 8000
Handler = Callable[[socket.socket], None]


@contextlib.contextmanager
def served(handle: Handler, address: str = "0.0.0.0", *, port: int = PORT) -> Iterator[tuple[Network, int]]:
    """A guest that serves at `address`, and the host port of 127.0.0.1 that leads there."""
    with Network(Settings(publish=(PublishedPort(port, 0, "127.0.0.1"),)), joins=True) as network:
        ready, ready_write = os.pipe()

        def serve() -> None:
            serve_tcp(address, handle, port=port)
            os.write(ready_write, b"1")
            threading.Event().wait()  # until the guest is killed

        server = network.start(serve)
        os.close(ready_write)
        with open(ready, "rb", buffering=0) as file:
            assert file.read(1) == b"1"
        try:
            yield network, network.reservations[0].port.host_port
        finally:  # it has our end of the network's line, too
            os.kill(server._pid, signal.SIGKILL)
            os.waitpid(server._pid, 0)
            os.close(server._result)


def tell_peer(connection: socket.socket) -> None:
    connection.sendall(f"{connection.getpeername()[0]} {connection.getsockname()[0]}".encode())


def dial(port: int, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((address, port), PATIENCE)


def flows(network: Network) -> list[dict[str, object]]:
    network.control.send(b'{"ask": "flows"}')
    _, fds, _, _ = socket.recv_fds(network.control, 4096, 1)
    with open(fds[0], "rb") as file:
        document = json.load(file)
    found = document["flows"] if isinstance(document, dict) else document
    return [flow for flow in found if isinstance(flow, dict) and flow.get("protocol") == "tcp"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("0.0.0.0", "10.0.2.100 10.0.2.100"),
        ("10.0.2.100", "10.0.2.100 10.0.2.100"),
        ("fd00::100", "fd00::100 fd00::100"),
        ("127.0.0.1", "127.0.0.1 127.0.0.1"),
        ("::1", "::1 ::1"),
    ],
)
def test_the_guest_sees_itself_at_its_address_or_its_loopback(address: str, expected: str) -> None:
    def work() -> str:
        with served(tell_peer, address) as (_, port), dial(port) as sock:
            return receive_all(sock).decode()

    assert on_a_host(work) == expected


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 18):
        connection.sendall(data)


@pytest.mark.parametrize("size", [1, 65536, 5_000_000, 40_000_000])
def test_bytes_arrive_in_order_both_ways_at_once(size: int) -> None:
    def work() -> bool:
        data = random.Random(size).randbytes(size)
        with served(echo) as (network, port), dial(port) as sock:

            def send() -> None:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=send)
            thread.start()
            time.sleep(0.2 if size > 1 << 20 else 0)  # until everything between is full
            good = receive_all(sock) == data
            thread.join()
            assert network.descriptors() < 40
        return good

    assert on_a_host(work)


def test_little_and_large_messages_alternate() -> None:
    def work() -> None:
        source = random.Random(7)
        with served(echo) as (_, port), dial(port) as sock:
            for size in (1, 1 << 20, 3, 200_000, 65536, 65537, 2, 3 << 20, 10):
                data = source.randbytes(size)
                thread = threading.Thread(target=sock.sendall, args=(data,))
                thread.start()
                received = bytearray()
                while len(received) < size:
                    received += sock.recv(1 << 18)
                thread.join()
                assert received == data

    on_a_host(work)


def test_each_way_ends_by_itself() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"first")
        connection.shutdown(socket.SHUT_WR)
        count = len(receive_all(connection))
        with open("/proc/self/comm", "w") as file:
            file.write(f"got{count}")

    def work() -> str:
        with served(answer) as (network, port), dial(port) as sock:
            assert receive_all(sock) == b"first"
            sock.sendall(b"x" * 100_000)
            sock.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + PATIENCE
            while flows(network):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return "over"

    assert on_a_host(work) == "over"


def hang_up(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_resets_cross_both_ways() -> None:
    def work() -> None:
        with served(hang_up) as (network, port):
            with dial(port) as sock:
                sock.sendall(b"x")
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
            sock = dial(port)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            deadline = time.monotonic() + PATIENCE
            while flows(network):
                assert time.monotonic() < deadline
                time.sleep(0.01)

    on_a_host(work)


def test_a_port_where_nobody_listens_is_a_reset() -> None:
    def work() -> None:
        for port in (80, 40000):
            with served(echo, port=port) as (network, host_port):
                network.run(lambda: None)
            settings = Settings(publish=(PublishedPort(port, 0, "127.0.0.1"),))
            with Network(settings, joins=True) as network:
                with dial(network.reservations[0].port.host_port) as sock, pytest.raises(ConnectionResetError):
                    sock.recv(1)
                assert host_port and network.descriptors() < 30

    on_a_host(work)


def test_a_guest_that_does_not_answer_itself_is_reached_over_the_tap() -> None:
    def work() -> str:
        with served(tell_peer) as (network, port):
            network.run(lambda: subprocess.run(["ip", "link", "set", "lo", "down"], check=True) and None)
            with dial(port) as sock:
                return receive_all(sock).decode()

    assert on_a_host(work) == "10.0.2.2 10.0.2.100"


def test_a_slow_reader_stalls_nobody_and_costs_no_time() -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"x" * 50_000_000)

    def work() -> None:
        with served(flood) as (network, port), dial(port) as slow:
            time.sleep(0.3)
            used = cpu(network.pid)
            time.sleep(0.5)
            assert cpu(network.pid) - used < 10  # ticks of 10 ms: it waits and does not spin
            with dial(port) as other:
                assert len(receive_all(other)) == 50_000_000
            assert len(receive_all(slow)) == 50_000_000

    on_a_host(work)


def test_a_client_that_is_done_with_sending_costs_no_time() -> None:
    def wait(connection: socket.socket) -> None:
        connection.recv(1)
        threading.Event().wait(2)

    def work() -> None:
        with served(wait) as (network, port), dial(port) as sock:
            sock.shutdown(socket.SHUT_WR)
            used = cpu(network.pid)
            time.sleep(0.5)
            assert cpu(network.pid) - used < 10

    on_a_host(work)


def cpu(pid: int) -> int:
    """Clock ticks that a process has used (proc(5), stat)."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_many_connections_leave_nothing() -> None:
    def work() -> None:
        with served(tell_peer) as (network, port):
            for _ in range(20):
                dial(port).close()
            before = network.descriptors()
            for _ in range(5):
                socks = [dial(port) for _ in range(100)]
                for sock in socks:
                    assert receive_all(sock) == b"10.0.2.100 10.0.2.100"
                    sock.close()
            deadline = time.monotonic() + PATIENCE
            while network.descriptors() > before + 16:  # sockets that wait to be used
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert flows(network) == []

    on_a_host(work)


def test_it_is_listed() -> None:
    def work() -> dict[str, object]:
        with served(echo) as (network, port), dial(port) as sock:
            sock.sendall(b"12345")
            assert sock.recv(5) == b"12345"
            (flow,) = flows(network)
            assert flow["far"] == f"127.0.0.1:{sock.getsockname()[1]}"
            return flow

    flow = on_a_host(work)
    assert (flow["direction"], flow["container"], flow["state"]) == ("in", f"10.0.2.100:{PORT}", "established")
    assert (flow["received"], flow["sent"]) == (5, 5)


def test_without_descriptors_it_goes_without_pipes() -> None:
    def work() -> bool:
        data = os.urandom(3_000_000)
        with served(echo) as (network, port):
            resource.prlimit(network.pid, resource.RLIMIT_NOFILE, (network.descriptors() + 12, 4096))
            with dial(port) as first, dial(port) as second, dial(port) as third:
                for sock in (first, second, third):
                    thread = threading.Thread(target=sock.sendall, args=(data,))
                    thread.start()
                    received = bytearray()
                    while len(received) < len(data):
                        received += sock.recv(1 << 18)
                    thread.join()
                    if received != data:
                        return False
        return True

    assert on_a_host(work)
