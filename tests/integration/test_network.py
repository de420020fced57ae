"""The three networks, published ports, names, ping; against sockets of the host."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netns.process import host_address
from tests.integration.test_run import sh
from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]

GATEWAY = "10.0.2.2"
HOST = "host.containers.internal"
LOOPBACK = ("--network", "user:allow_host_loopback=true")
LARGE = 20_000_000


@contextmanager
def tcp_server(
    answer: Callable[[socket.socket], None], address: str = "0.0.0.0", family: int = socket.AF_INET
) -> Iterator[int]:
    """A server on all addresses of the host; yields its port. Serves one connection."""
    with socket.create_server((address, 0), family=family) as listener:
        listener.settimeout(30)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # nobody came
            with connection:
                connection.settimeout(30)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def exchange(port: int, data: bytes, address: str = "127.0.0.1") -> bytes:
    """What a server says to `data`, over TCP, until it closes."""
    with socket.create_connection((address, port), timeout=30) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        chunks = []
        while chunk := connection.recv(1 << 16):
            chunks.append(chunk)
    return b"".join(chunks)


def test_none_has_only_loopback(auto_box: Rcontain, demo: str) -> None:
    script = "ls /sys/class/net; ip -4 addr show lo | grep -c 127.0.0.1; ip route | wc -l; cat /etc/hosts | tail -n 1"
    interfaces, loopback, routes, hosts = sh(auto_box, demo, script, "--network", "none", "-h", "own").split("\n")
    assert (interfaces, loopback, routes) == ("lo", "1", "0") and "own" in hosts.split()


def test_host_is_the_callers(auto_box: Rcontain, demo: str) -> None:
    with tcp_server(lambda connection: connection.sendall(b"hello\n")) as port:
        assert sh(auto_box, demo, f"nc 127.0.0.1 {port}; hostname", "--network", "host").split() == [
            "hello",
            socket.gethostname(),
        ]


def test_interface_addresses_and_routes(auto_box: Rcontain, demo: str) -> None:
    said = sh(auto_box, demo, "ip -4 -o addr show dev tap0; ip route; cat /sys/class/net/tap0/mtu")
    assert "10.0.2.100/24" in said and f"default via {GATEWAY} dev tap0" in said and said.endswith("65520")


@pytest.mark.parametrize("name", ["host.containers.internal", "host.docker.internal"])
def test_the_host_is_reached_by_name(auto_box: Rcontain, demo: str, name: str) -> None:
    with tcp_server(lambda connection: connection.sendall(b"hello from the host\n")) as port:
        assert sh(auto_box, demo, f"nc {name} {port}") == "hello from the host"


def test_the_hosts_loopback_needs_an_option(auto_box: Rcontain, demo: str) -> None:
    """As with Podman: services that listen on 127.0.0.1 only are not meant for containers."""
    for flags, said in (((), "refused"), (LOOPBACK, "private")):
        with tcp_server(lambda connection: connection.sendall(b"private\n"), "127.0.0.1") as port:
            assert said in sh(auto_box, demo, f"nc {GATEWAY} {port} 2>&1 || true", *flags)


def test_a_refused_connection_is_refused_at_once(auto_box: Rcontain, demo: str) -> None:
    assert "refused" in sh(auto_box, demo, f"nc -w 20 {GATEWAY} {free_port()} 2>&1 || true")


def test_large_transfers_both_ways(auto_box: Rcontain, demo: str) -> None:
    received: list[int] = []

    def swallow(connection: socket.socket) -> None:
        total = 0
        while chunk := connection.recv(1 << 20):
            total += len(chunk)
        received.append(total)

    with tcp_server(swallow) as port:
        sh(auto_box, demo, f"head -c {LARGE} /dev/zero | nc {HOST} {port}")
    assert received == [LARGE]
    with tcp_server(lambda connection: connection.sendall(bytes(LARGE))) as port:
        assert sh(auto_box, demo, f"nc {HOST} {port} </dev/null | wc -c") == str(LARGE)


def test_many_connections_at_once(auto_box: Rcontain, demo: str) -> None:
    script = "for i in $(seq 40); do (echo $i | nc host.containers.internal $PORT) & done; wait"
    with socket.create_server(("0.0.0.0", 0), backlog=64) as listener:
        listener.settimeout(5)
        port = listener.getsockname()[1]
        seen = []

        def serve() -> None:
            for _ in range(40):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # fewer came
                with connection:
                    connection.settimeout(30)
                    line = connection.makefile("rb").readline()
                    connection.sendall(line)
                    seen.append(int(line))

        thread = threading.Thread(target=serve)
        thread.start()
        said = sh(auto_box, demo, script, "-e", f"PORT={port}")
        thread.join()
    assert sorted(seen) == sorted(map(int, said.split())) == list(range(1, 41))


def python(directory: Path, code: str) -> tuple[list[str], list[str]]:
    """Flags and command for running `code` with a copy of the host's own interpreter, mounted into the container.

    busybox-static has nothing that receives a datagram. A copy, since the engine's own program may not be run.
    """
    shutil.copy2(os.path.realpath(sys.executable), directory / "python")
    paths = [path for path in ("/usr", "/lib", "/lib64", sys.base_prefix) if os.path.isdir(path)]
    flags = [f"-v{path}:{path}:ro" for path in dict.fromkeys(paths)]
    return [*flags, f"-v{directory}/python:/python:ro", f"-ePYTHONHOME={sys.base_prefix}"], [
        "/python",
        "-S",
        "-c",
        code,
    ]


def test_udp_to_the_host(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    """Both ways, and a datagram larger than an Ethernet frame."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 0))
        server.settimeout(10)

        def serve() -> None:
            try:
                data, client = server.recvfrom(60000)
                server.sendto(data * 2, client)
            except OSError:
                return  # nothing came

        answers = threading.Thread(target=serve)
        answers.start()
        flags, command = python(
            tmp_path,
            "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(10);"
            f"s.sendto(bytes(20000), ('{HOST}', {server.getsockname()[1]})); print(len(s.recv(65535)))",
        )
        assert auto_box.text("run", "--rm", *flags, demo, *command) == "40000"
        answers.join()


@contextmanager
def served(box: Rcontain, demo: str, published: str, *command: str) -> Iterator[None]:
    """A container named `server` with a published port."""
    box("run", "-d", "--rm", "--name", "server", "-p", published, demo, *command)
    try:
        yield
    finally:
        box("rm", "-f", "-t", "0", "server")


def persistent_exchange(port: int, data: bytes, address: str = "127.0.0.1") -> bytes:
    """As `exchange`, again and again until the server in the container listens."""
    for _ in range(200):
        try:
            answer = exchange(port, data, address)
        except ConnectionError:
            answer = b""
        if answer:
            return answer
        threading.Event().wait(0.02)
    return b""


@pytest.mark.parametrize("address", ["", "127.0.0.1:"])
def test_published_tcp_port(auto_box: Rcontain, demo: str, address: str) -> None:
    port = free_port()
    command = ("sh", "-c", "while :; do nc -l -p 80 -e sh -c 'read line; echo got $line'; done")
    with served(auto_box, demo, f"{address}{port}:80", *command):
        assert [persistent_exchange(port, b"this\n") for _ in range(3)] == [b"got this\n"] * 3


def peers_of_a_published_port(box: Rcontain, demo: str, address: str) -> list[str]:
    """The far ends of the server's connections, as it sees them, while somebody connects to `address`."""
    port = free_port()
    command = ("nc", "-l", "-p", "80", "-e", "sh", "-c", "read line; netstat -tn | grep :80")
    with served(box, demo, f"{port}:80", *command):
        said = persistent_exchange(port, b"go\n", address).decode()
    rows = [line.split() for line in said.splitlines()]
    return [row[4].rpartition(":")[0].removeprefix("::ffff:") for row in rows if row[3].endswith(":80")]


def test_clients_of_a_published_port_on_loopback_appear_as_the_container(auto_box: Rcontain, demo: str) -> None:
    """They are joined to it inside."""
    assert peers_of_a_published_port(auto_box, demo, "127.0.0.1") == ["10.0.2.100"]


def test_other_clients_of_a_published_port_keep_their_address(auto_box: Rcontain, demo: str) -> None:
    address = host_address()
    if address is None or address.startswith("10.0.2."):
        pytest.skip("needs an address of this machine that is not in the container's network, 10.0.2.0/24")
    assert peers_of_a_published_port(auto_box, demo, address) == [address]


def test_a_large_answer_of_a_published_port(auto_box: Rcontain, demo: str) -> None:
    port = free_port()
    command = ("nc", "-l", "-p", "80", "-e", "sh", "-c", f"read line; head -c {LARGE} /dev/zero")
    with served(auto_box, demo, f"{port}:80", *command):
        assert len(persistent_exchange(port, b"go\n")) == LARGE


def test_published_udp_port(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    """Two clients at once: each gets the answers to its own datagrams."""
    port = free_port(socket.SOCK_DGRAM)
    flags, command = python(
        tmp_path,
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 53));"
        "print('up', flush=True)\nwhile True: d, a = s.recvfrom(65535); s.sendto(b'got ' + d, a)",
    )
    auto_box("run", "-d", "--rm", "--name", "server", "-p", f"{port}:53/udp", *flags, demo, *command)
    try:
        while "up" not in auto_box.text("logs", "server"):
            pass
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for number, client in enumerate(clients):
            client.settimeout(10)
            client.sendto(b"%d" % number, ("127.0.0.1", port))
        assert [client.recv(100) for client in clients] == [b"got 0", b"got 1"]
        for client in clients:
            client.close()
    finally:
        auto_box("rm", "-f", "-t", "0", "server")


def test_a_range_of_ports_and_ports_of_the_kernels_choice(auto_box: Rcontain, demo: str) -> None:
    auto_box("run", "-d", "--name", "server", "-p", "8000-8001", "-p", "127.0.0.1::53/udp", demo, "sleep", "100")
    try:
        said = auto_box.text("ps", "--format", "{{.Ports}}")
        ports = [word.strip() for word in said.split(",")]
        assert any(word.endswith("->53/udp") and word.startswith("127.0.0.1:") for word in ports)
        assert "8000" in said and "8001" in said and ":0->" not in said
    finally:
        auto_box("rm", "-f", "-t", "0", "server")


def test_a_published_port_is_free_again_afterwards(auto_box: Rcontain, demo: str) -> None:
    port = free_port()
    for _ in range(3):
        auto_box("run", "--rm", "-p", f"{port}:80", "-p", f"{port}:80/udp", demo, "true")
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_server_of_the_container_that_is_not_there_yet(auto_box: Rcontain, demo: str) -> None:
    """A connection to a published port where nothing listens ends; it does not hang."""
    port = free_port()
    with served(auto_box, demo, f"{port}:80", "sleep", "100"):
        try:
            assert exchange(port, b"x") == b""
        except ConnectionError:
            pass  # the better answer


def test_ping(auto_box: Rcontain, demo: str) -> None:
    """busybox's ping wants a raw socket; the default capabilities, as Podman's, have none."""
    said = sh(auto_box, demo, f"ping -c 2 -q {GATEWAY}; ping -c 1 -q 127.0.0.1", "--cap-add", "net_raw")
    assert "2 packets transmitted, 2 packets received" in said and "1 packets received" in said


def test_ping_of_alpine(auto_box: Rcontain, alpine: str) -> None:
    """Alpine's is setuid root."""
    said = auto_box.text("run", "--rm", alpine, "ping", "-c", "1", "-q", GATEWAY)
    assert "1 packets received" in said


def test_names_are_resolved_by_the_hosts_server(auto_box: Rcontain, demo: str) -> None:
    """The host's server may know nothing, but an answer of its comes: its own words, or that it cannot be reached."""
    said = auto_box("run", "--rm", demo, "nslookup", "no-such-name.invalid", check=False).stdout.decode()
    assert "10.0.2.3" in said and ("NXDOMAIN" in said or "SERVFAIL" in said or "REFUSED" in said)


def test_containers_do_not_see_each_other(auto_box: Rcontain, demo: str) -> None:
    auto_box("run", "-d", "--rm", "--name", "server", demo, "nc", "-l", "-p", "80")
    try:
        assert "refused" in sh(auto_box, demo, "nc -w 5 10.0.2.100 80 2>&1 || true")
    finally:
        auto_box("kill", "server")


def test_ipv6_to_the_host(auto_box: Rcontain, demo: str) -> None:
    with tcp_server(lambda connection: connection.sendall(b"six\n"), "::1", socket.AF_INET6) as port:
        assert sh(auto_box, demo, f"nc fd00::2 {port}", *LOOPBACK) == "six"


def test_the_network_ends_with_the_container(auto_box: Rcontain, demo: str) -> None:
    """An open connection of a killed container is closed for the other side."""
    closed = threading.Event()

    def watch(connection: socket.socket) -> None:
        connection.sendall(b"go\n")
        try:
            while connection.recv(100):
                pass
        except ConnectionError:
            pass
        closed.set()

    with tcp_server(watch) as port:
        command = ("sh", "-c", f"nc {HOST} {port} && sleep 100")
        with auto_box.started("run", "-i", "--rm", "--name", "client", demo, *command) as running:
            assert running.stdout is not None and running.stdout.readline() == b"go\n"
            auto_box("kill", "client")
        assert closed.wait(20)
