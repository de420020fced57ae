"""TCP between a guest and servers on a host made for the test, and over published ports."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import select
import socket
import struct
import threading

import pytest

from netns.process import PublishedPort, Settings
from tests.netns.network import (
    GATEWAY,
    GATEWAY6,
    HOST,
    HOST6,
    OTHER,
    Network,
    connect,
    on_a_host,
    receive_all,
    serve_tcp,
)

pytestmark = [pytest.mark.userns, pytest.mark.tun]

LARGE = 48 << 20


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 18):
        connection.sendall(data)


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


@pytest.mark.parametrize("mtu", [1500, 65520])
@pytest.mark.parametrize(("gateway", "loopback"), [(GATEWAY, "127.0.0.1"), (GATEWAY6, "::1")])
def test_large_transfers_arrive_whole(mtu: int, gateway: str, loopback: str) -> None:
    def work() -> None:
        data = os.urandom(1 << 20) * (LARGE >> 20)

        def server(connection: socket.socket) -> None:
            connection.sendall(digest(receive_all(connection)))
            connection.sendall(data)

        def client() -> bool:
            with connect(gateway, port) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                answer = receive_all(sock)
            return answer[:64] == digest(data) and answer[64:] == data

        with Network(Settings(mtu=mtu, disable_host_loopback=False)) as network:
            port = serve_tcp(loopback, server)
            assert network.run(client)

    on_a_host(work)


def test_both_directions_at_once() -> None:
    def work() -> None:
        data = os.urandom(1 << 20) * 24

        def client() -> bool:
            with connect(GATEWAY, port) as sock:
                sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
                sender.start()
                answer = receive_all(sock)
                sender.join()
            return answer == data

        with Network() as network:
            port = serve_tcp("127.0.0.1", echo)
            assert network.run(client)

    on_a_host(work)


def test_half_close_either_way() -> None:
    def work() -> None:
        def reads_to_the_end(connection: socket.socket) -> None:
            connection.sendall(b"<" + receive_all(connection) + b">")

        def closes_first(connection: socket.socket) -> None:
            connection.sendall(b"greeting")
            connection.shutdown(socket.SHUT_WR)
            heard.append(receive_all(connection))
            done.set()

        def client() -> tuple[bytes, bytes]:
            with connect(GATEWAY, first) as sock:
                sock.sendall(b"half")
                sock.shutdown(socket.SHUT_WR)
                one = receive_all(sock)
            with connect(GATEWAY, second) as sock:
                two = receive_all(sock)
                sock.sendall(b"after the end")
            return one, two

        heard: list[bytes] = []
        done = threading.Event()
        with Network() as network:
            first, second = serve_tcp("127.0.0.1", reads_to_the_end), serve_tcp("127.0.0.1", closes_first)
            assert network.run(client) == (b"<half>", b"greeting")
            assert done.wait(10)
            assert heard == [b"after the end"]

    on_a_host(work)


def connection_error(address: str, port: int) -> int:
    """The errno of connecting, 0 if it works."""
    try:
        connect(address, port).close()
    except OSError as error:
        return error.errno or -1
    return 0


def test_refused_connections_are_refused() -> None:
    def work() -> None:
        with Network() as network:
            for address in (GATEWAY, GATEWAY6, HOST, HOST6):
                assert network.run(lambda address=address: connection_error(address, 9)) == errno.ECONNREFUSED

    on_a_host(work)


def test_unreachable_networks_are_unreachable() -> None:
    def work() -> None:
        with Network() as network:
            for address in ("198.51.100.1", "2001:db8:ffff::1"):
                error = network.run(lambda address=address: connection_error(address, 80))
                assert error == errno.ENETUNREACH  # the host's own word for it

    on_a_host(work)


def test_the_hosts_loopback_is_out_of_reach_by_default() -> None:
    def work() -> None:
        with Network(Settings()) as network:
            port, port6 = serve_tcp("127.0.0.1", echo), serve_tcp("::1", echo)
            outside = serve_tcp(HOST, echo)
            assert network.run(lambda: connection_error(GATEWAY, port)) == errno.ECONNREFUSED
            assert network.run(lambda: connection_error(GATEWAY6, port6)) == errno.ECONNREFUSED
            assert network.run(lambda: connection_error("10.0.2.3", port)) == errno.ECONNREFUSED
            assert network.run(lambda: connection_error(HOST, outside)) == 0

    on_a_host(work)


def test_a_reset_crosses_in_both_directions() -> None:
    def work() -> None:
        linger = struct.pack("ii", 1, 0)

        def resets(connection: socket.socket) -> None:
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        def is_reset(connection: socket.socket) -> None:
            connection.sendall(b"x")
            try:
                connection.recv(1)
            except ConnectionResetError:
                seen.set()

        def client() -> bool:
            with connect(GATEWAY, second) as sock:
                sock.recv(1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            with connect(GATEWAY, first) as sock:
                sock.sendall(b"x")
                try:
                    sock.recv(1)
                except ConnectionResetError:
                    return True
            return False

        seen = threading.Event()
        with Network() as network:
            first, second = serve_tcp("127.0.0.1", resets), serve_tcp("127.0.0.1", is_reset)
            assert network.run(client)
            assert seen.wait(10)

    on_a_host(work)


def test_urgent_bytes_stay_in_their_place() -> None:
    def work() -> None:
        def urgent(sock: socket.socket) -> None:
            sock.sendall(b"abc")
            sock.send(b"!", socket.MSG_OOB)
            sock.sendall(b"def")

        def both(connection: socket.socket) -> None:
            urgent(connection)
            connection.shutdown(socket.SHUT_WR)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            heard.append(receive_all(connection))
            done.set()

        def client() -> bytes:
            with connect(GATEWAY, port) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                urgent(sock)
                return receive_all(sock)

        heard: list[bytes] = []
        done = threading.Event()
        with Network() as network:
            port = serve_tcp("127.0.0.1", both)
            assert network.run(client) == b"abc!def"
            assert done.wait(10) and heard == [b"abc!def"]

    on_a_host(work)


def test_descriptors_that_datagrams_hold_give_way_to_connections() -> None:
    def work() -> None:
        def floods() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                for target in range(20000, 20400):
                    sock.sendto(b"x", (HOST, target))

        def client() -> int:
            floods()
            served = 0
            socks = [connect(GATEWAY, port) for _ in range(20)]
            for sock in socks:
                sock.sendall(b"one")
                served += sock.recv(10) == b"one"
                sock.close()
            return served

        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with Network() as network:
            holders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20000, 20100)]
            for place, holder in enumerate(holders):
                holder.bind((HOST, 20000 + place))
            port = serve_tcp("127.0.0.1", echo)
            assert network.run(client) == 20
            assert network.descriptors() <= 256 - 32

    on_a_host(work)


def test_an_interface_can_be_what_traffic_leaves_by() -> None:
    def work() -> None:
        with Network(Settings(outbound="lo", outbound6="lo", disable_host_loopback=False)) as network:
            for address in (HOST, HOST6):
                port = serve_tcp(address, echo)
                assert network.run(lambda address=address, port=port: connection_error(address, port)) == 0
        with Network(Settings(outbound="gone", disable_host_loopback=False)) as network:
            port = serve_tcp(HOST, echo)
            error = network.run(lambda: connection_error(HOST, port))
            assert error in (errno.EHOSTUNREACH, errno.ENETUNREACH)
            local = serve_tcp("127.0.0.1", echo)
            assert network.run(lambda: connection_error(GATEWAY, local)) == 0

    on_a_host(work)


def test_many_connections_leave_nothing() -> None:
    def work() -> None:
        def client() -> int:
            served = 0
            for _ in range(200):
                with connect(GATEWAY, port) as sock:
                    sock.sendall(b"one")
                    served += sock.recv(10) == b"one"
            at_once = [connect(GATEWAY, port) for _ in range(200)]
            for sock in at_once:
                sock.sendall(b"two")
            for sock in at_once:
                served += sock.recv(10) == b"two"
                sock.close()
            return served

        with Network() as network:
            port = serve_tcp("127.0.0.1", echo)
            assert network.run(lambda: connection_error(GATEWAY, port)) == 0  # what is opened once, at the first flow
            before = network.descriptors()
            assert network.run(client) == 400
            deadline = threading.Event()
            for _ in range(200):
                if network.descriptors() <= before:
                    break
                deadline.wait(0.05)
            assert network.descriptors() <= before

    on_a_host(work)


def resident(pid: int) -> int:
    """Kilobytes, proc_pid_status(5) VmRSS."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def test_a_reader_that_sleeps_stalls_nobody_else() -> None:
    def work() -> None:
        def floods(connection: socket.socket) -> None:
            while True:
                connection.sendall(bytes(1 << 20))

        def never_reads(connection: socket.socket) -> None:
            over.wait(60)

        def client() -> bytes:
            with connect(GATEWAY, flood) as slow, connect(GATEWAY, sink) as full:
                full.setblocking(False)
                while select.select([], [full], [], 0.5)[1]:  # until everything on the way is full
                    full.send(bytes(1 << 16))
                with connect(GATEWAY, port) as sock:
                    sock.sendall(b"not stalled")
                    answer = sock.recv(100)
                assert len(slow.recv(1 << 16))
            return answer

        over = threading.Event()
        with Network() as network:
            flood, sink = serve_tcp("127.0.0.1", floods), serve_tcp("127.0.0.1", never_reads)
            port = serve_tcp("127.0.0.1", echo)
            before = resident(network.pid)  # with all that the tests before have left in the process it was forked from
            assert network.run(client) == b"not stalled"
            assert resident(network.pid) < before + 40_000  # buffers are bounded
        over.set()

    on_a_host(work)


def guest_server(address: str, ready: int, port: int = 80, family: int = socket.AF_INET) -> list[str]:
    """Serve two connections in the guest; who they were."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen()
        os.write(ready, b"1")
        peers = []
        for _ in range(2):
            connection, peer = listener.accept()
            peers.append(peer[0])
            with connection:
                connection.sendall(receive_all(connection))
    return peers


def ask(source: str | None, target: str, port: int, data: bytes) -> bytes:
    with socket.create_connection((target, port), timeout=10, source_address=(source, 0) if source else None) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


def test_published_ports_keep_the_clients_address() -> None:
    def work() -> None:
        settings = Settings(publish=(PublishedPort(80, 8080),))
        with Network(settings) as network:
            ready, ready_write = os.pipe()
            server = network.start(lambda: guest_server("0.0.0.0", ready_write))
            os.read(ready, 1)
            data = os.urandom(3 << 20)
            assert ask(OTHER, HOST, 8080, data) == data
            assert ask(None, "127.0.0.1", 8080, b"local") == b"local"
            assert server.wait() == [OTHER, GATEWAY]

            server = network.start(lambda: guest_server("::", ready_write, family=socket.AF_INET6))
            os.read(ready, 1)
            assert ask(HOST6, HOST6, 8080, data) == data
            assert ask(None, "127.0.0.1", 8080, b"other family") == b"other family"
            assert server.wait() == [HOST6, GATEWAY6]

            server = network.start(lambda: guest_server("0.0.0.0", ready_write))
            os.read(ready, 1)
            assert ask(HOST6, HOST6, 8080, b"falls back") == b"falls back"
            assert ask(None, "::1", 8080, b"local6") == b"local6"
            assert server.wait() == [GATEWAY, GATEWAY]

    on_a_host(work)


def test_a_published_port_nobody_serves_is_reset() -> None:
    def work() -> None:
        with Network(Settings(publish=(PublishedPort(80, 8080, "127.0.0.1"),))):
            with pytest.raises(ConnectionResetError), connect("127.0.0.1", 8080) as sock:
                sock.recv(1)

    on_a_host(work)
