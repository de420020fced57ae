"""Ten thousand connections one after the other and a thousand at once, and what they leave: nothing."""

from __future__ import annotations

import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable
from unittest import mock

import pytest

from tests.netns.network import GATEWAY, PATIENCE, Network, connect, on_a_host

pytestmark = [pytest.mark.userns, pytest.mark.tun, pytest.mark.slow]

SEQUENTIAL = 10_000
CONCURRENT = 1_000
DESCRIPTORS = 4 * CONCURRENT
FEW = 4  # descriptors that come with the first use of something
GROWTH = 3 << 20  # bytes between one round and the next: of pages that the allocator gives back late


def raise_limit() -> None:
    """Clients, servers and the network each hold a descriptor for every connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS, f"ulimit -Hn is {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


def serve_echo() -> int:
    """One thread that answers all connections, and ends with the process; the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=CONCURRENT)
    listener.setblocking(False)
    poll = selectors.EpollSelector()
    poll.register(listener, selectors.EVENT_READ)

    def serve() -> None:
        while True:
            for key, _ in poll.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is listener:
                    poll.register(listener.accept()[0], selectors.EVENT_READ)
                elif data := sock.recv(4096):
                    sock.send(data)
                else:
                    poll.unregister(sock)
                    sock.close()

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def ask(sock: socket.socket, question: bytes) -> None:
    sock.sendall(question)
    assert sock.recv(4096) == question


def one_after_the_other(port: int) -> None:
    for number in range(SEQUENTIAL):
        with connect(GATEWAY, port) as sock:
            ask(sock, b"%d" % number)


def all_at_once(port: int) -> None:
    raise_limit()
    socks = [connect(GATEWAY, port) for _ in range(CONCURRENT)]
    for turn in range(3):
        for number, sock in enumerate(socks):
            sock.sendall(b"%d %d" % (turn, number))
        for number, sock in enumerate(socks):
            assert sock.recv(4096) == b"%d %d" % (turn, number)
    for sock in socks:
        sock.close()


def resident(pid: int) -> int:
    """Bytes, proc_pid_status(5)."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))


@pytest.mark.parametrize("connections", [one_after_the_other, all_at_once])
def test_nothing_is_left_of_many_connections(connections: Callable[[int], None]) -> None:
    def work() -> None:
        raise_limit()
        # The guest's ports are its own affair: it closes first, and would keep each for a minute.
        port = serve_echo()
        with Network(prepare=reuse_ports) as network:
            before = network.descriptors()
            network.run(lambda: connections(port))
            assert settled(network, before + FEW), network.descriptors()
            memory = resident(network.pid)
            network.run(lambda: connections(port))
            assert settled(network, before + FEW), network.descriptors()
            assert resident(network.pid) - memory < GROWTH

    with mock.patch("netns.tcp.connection.TIME_WAIT_SECONDS", 0.2):
        on_a_host(work)


def reuse_ports() -> None:
    for name, value in (("ip_local_port_range", "1024 65535"), ("tcp_tw_reuse", "1")):
        with open(f"/proc/sys/net/ipv4/{name}", "w") as file:
            file.write(value)


def settled(network: Network, limit: int) -> bool:
    """Whether the network comes to have no more descriptors than that."""
    deadline = time.monotonic() + PATIENCE
    while network.descriptors() > limit:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
