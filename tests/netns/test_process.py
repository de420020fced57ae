"""Ports, TAPs and the serving process as an engine uses them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest

from netns import process
from netns.errors import NetworkError
from netns.process import PublishedPort, Settings, reserve_ports
from tests.kit.userns import in_namespaces
from tests.netns.network import GATEWAY, PATIENCE, Network, connect, on_a_host, serve_tcp

real = [pytest.mark.userns, pytest.mark.tun]


def close_all(settings: Settings) -> list[int]:
    """The host ports that `settings` reserve."""
    reservations = reserve_ports(settings)
    ports = [reservation.port.host_port for reservation in reservations]
    for reservation in reservations:
        reservation.close()
    return ports


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_in_use_is_said_before_anything_starts(protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        for host_ip in ("127.0.0.1", ""):
            free = PublishedPort(80, 0, "127.0.0.1", protocol)
            with pytest.raises(NetworkError) as caught:
                reserve_ports(Settings(publish=(free, PublishedPort(80, port, host_ip, protocol))))
            assert f"{port}/{protocol}" in str(caught.value) and "in use" in str(caught.value)
            assert caught.value.hint is not None and free_port_of(caught.value.hint, protocol) not in (0, port)


@pytest.mark.userns
def test_a_privileged_port_is_said_with_the_knob() -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) == 0:
            pytest.skip("the host has no privileged ports (net.ipv4.ip_unprivileged_port_start is 0)")
    with pytest.raises(NetworkError) as caught:
        reserve_ports(Settings(publish=(PublishedPort(80, 1, "127.0.0.1"),)))
    assert caught.value.hint is not None and "net.ipv4.ip_unprivileged_port_start" in str(caught.value)
    assert free_port_of(caught.value.hint) >= 1024


def free_port_of(hint: str, protocol: str = "tcp") -> int:
    """The port that the advice names, once it was bound."""
    port = int(hint.partition(" such as ")[2].split(",")[0])
    assert close_all(Settings(publish=(PublishedPort(80, port, "127.0.0.1", protocol),))) == [port]
    return port


def test_an_address_of_another_host() -> None:
    with pytest.raises(NetworkError, match="not an address of this host"):
        reserve_ports(Settings(publish=(PublishedPort(80, 0, "203.0.113.5"),)))


def test_the_kernel_chooses_one_port_for_both_families() -> None:
    ports = close_all(Settings(publish=(PublishedPort(80),)))
    assert len(set(ports)) == 1 and ports[0] > 0


def test_ranges_are_reserved_whole() -> None:
    for first in range(20000, 30000, 100):  # below what the kernel chooses from; one of three may be taken all the same
        try:
            reserved = close_all(Settings(publish=(PublishedPort(80, first, "127.0.0.1", count=3),)))
        except NetworkError:
            continue
        assert reserved == [first, first + 1, first + 2]
        return
    pytest.fail("no three ports in a row are free")


class TestServing:
    pytestmark = real

    def test_the_tap_is_made_from_a_user_namespace_on_the_hosts_own_network(self) -> None:
        """No power over the host's network namespace, and the caller stays in it."""

        def work() -> None:
            before = os.readlink("/proc/self/ns/net")
            with Network(Settings(interface="eth0", mtu=9000, mac="02:00:00:00:00:09")) as network:
                assert os.readlink("/proc/self/ns/net") == before
                port = serve_tcp("127.0.0.1", lambda connection: connection.sendall(b"hello"))

                def look() -> str:
                    words = ["ip", "-brief", "address", "show", "eth0"]
                    return (
                        subprocess.run(words, capture_output=True, text=True, check=True).stdout
                        + subprocess.run(
                            ["ip", "link", "show", "eth0"], capture_output=True, text=True, check=True
                        ).stdout
                    )

                text = network.run(look)
                for part in ("10.0.2.100/24", "fd00::100/64", "mtu 9000", "02:00:00:00:00:09"):
                    assert part in text
                assert port

        in_namespaces(work)

    def test_a_guest_without_ipv6_gets_ipv4(self) -> None:
        def work() -> None:
            def forbid() -> None:
                with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as file:
                    file.write("1")

            def look() -> str:
                words = ["ip", "-brief", "address", "show", "tap0"]
                return subprocess.run(words, capture_output=True, text=True, check=True).stdout

            with Network(prepare=forbid) as network:
                text = network.run(look)
                assert "10.0.2.100/24" in text and "fd00" not in text

        on_a_host(work)

    def test_the_device_may_go_down_and_up(self) -> None:
        def work() -> None:
            port = serve_tcp("127.0.0.1", lambda connection: connection.sendall(b"hello"))

            def flap() -> bytes:
                for words in ("link set tap0 down", "link set tap0 up", f"route add default via {GATEWAY}"):
                    subprocess.run(["ip", *words.split()], check=True)
                with connect(GATEWAY, port) as sock:
                    return sock.recv(10)

            with Network() as network:
                assert network.run(flap) == b"hello"

        on_a_host(work)

    def test_only_loopback(self) -> None:
        def work() -> None:
            with Network() as network:
                process.loopback_up(network.pidfd)
                with pytest.raises(NetworkError, match="tap0"):
                    process.open_tap(network.pidfd, network.settings)  # the name is taken

        on_a_host(work)

    def test_it_holds_no_descriptor_of_its_parent(self) -> None:
        def work() -> None:
            read, write = os.pipe()
            with Network() as network:
                targets = {os.readlink(f"/proc/{network.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{network.pid}/fd")}
                assert os.readlink(f"/proc/self/fd/{read}") not in targets
                assert network.descriptors() <= 8
                with open(f"/proc/{network.pid}/status") as file:
                    status = file.read()
                assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
            os.close(write)

        on_a_host(work)

    def test_it_ends_with_its_parent_and_with_its_device(self) -> None:
        def work() -> None:
            with Network() as network:
                network.control.close()
                assert os.waitid(os.P_PID, network.pid, os.WEXITED | os.WNOWAIT) is not None
            with Network() as network:
                network.run(lambda: subprocess.run(["ip", "link", "delete", "tap0"], check=True) and None)
                deadline = time.monotonic() + PATIENCE
                while os.waitid(os.P_PID, network.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)

        on_a_host(work)

    def test_signals_of_the_terminal_do_not_end_it(self) -> None:
        def work() -> None:
            with Network() as network:
                os.kill(network.pid, signal.SIGINT)
                port = serve_tcp("127.0.0.1", lambda connection: connection.sendall(b"hello"))

                def client() -> bytes:
                    with connect(GATEWAY, port) as sock:
                        return sock.recv(10)

                assert network.run(client) == b"hello"

        on_a_host(work)
