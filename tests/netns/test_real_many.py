"""Very many connections, one after the other and at once: afterwards everything is as it was."""

from __future__ import annotations

import resource
import select
import socket
import threading

import pytest

from tests.netns.network import GATEWAY, Network, connect, on_a_host

pytestmark = [pytest.mark.userns, pytest.mark.tun, pytest.mark.slow]

ONE_BY_ONE = 10_000
AT_ONCE = 1_000
GROWTH = 12_000  # kB that the process may have kept: tables and the allocator's, whatever the number


def serve_echo(address: str) -> int:
    """Echo in one thread that ends with the process; the port."""
    listener = socket.create_server((address, 0), backlog=4096)
    listener.setblocking(False)

    def serve() -> None:
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN)
        connections: dict[int, socket.socket] = {}
        while True:
            for fd, _ in epoll.poll():
                if fd == listener.fileno():
                    try:
                        connection, _ = listener.accept()
                    except BlockingIOError:
                        continue
                    connections[connection.fileno()] = connection
                    epoll.register(connection, select.EPOLLIN)
                    continue
                connection = connections[fd]
                try:
                    data = connection.recv(1 << 16)
                    connection.sendall(data)
                except OSError:
                    data = b""
                if not data:
                    epoll.unregister(fd)
                    connections.pop(fd).close()

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def resident(pid: int) -> int:
    """The memory of a process in kB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def one_by_one(port: int, count: int) -> int:
    served = 0
    for _ in range(count):
        with connect(GATEWAY, port) as sock:
            sock.sendall(b"x")
            served += sock.recv(10) == b"x"
    return served


def at_once(port: int, count: int) -> int:
    served = 0
    socks = [connect(GATEWAY, port) for _ in range(count)]
    for sock in socks:
        sock.sendall(b"y" * 1000)
    for sock in socks:
        served += len(sock.recv(1000, socket.MSG_WAITALL)) == 1000
        sock.close()
    return served


def test_ten_thousand_in_a_row_and_a_thousand_at_once_leave_nothing() -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        with Network() as network:
            port = serve_echo("127.0.0.1")
            assert network.run(lambda: one_by_one(port, 50)) == 50
            descriptors, memory = network.descriptors(), resident(network.pid)
            assert network.run(lambda: one_by_one(port, ONE_BY_ONE)) == ONE_BY_ONE
            for _ in range(2):
                assert network.run(lambda: at_once(port, AT_ONCE)) == AT_ONCE
            for _ in range(200):
                if network.descriptors() <= descriptors:
                    break
                threading.Event().wait(0.05)
            assert network.descriptors() <= descriptors
            assert resident(network.pid) - memory < GROWTH

    on_a_host(work)
