"""What a guest learns of the path beyond its host, with the tools that people use, over a path of the test's own."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
from collections.abc import Callable

import pytest

from netns import errorqueue
from netns.process import Settings
from tests.netns import path
from tests.netns.network import GATEWAY, GATEWAY6, HOST, PATIENCE, Network, on_a_host
from tests.netns.path import (
    FAR,
    FAR6,
    FIRST,
    FIRST6,
    PROHIBITED,
    PROHIBITED6,
    SECOND,
    SECOND6,
    UNREACHABLE,
    UNREACHABLE6,
)

pytestmark = [pytest.mark.userns, pytest.mark.tun]


def with_a_path(work: Callable[[Network], None], settings: Settings | None = None) -> None:
    def whole() -> None:
        with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
            file.write("0 0")
        with path.path(), Network(settings or Settings()) as network:
            work(network)

    on_a_host(whole)


def hops(text: str) -> list[str]:
    """Who answered, hop by hop, in the words of traceroute(8)."""
    lines = [line.split() for line in text.splitlines() if re.match(r" *\d+  ", line)]
    return [words[1] if len(words) > 1 else "" for words in lines]


@pytest.mark.parametrize("how", ["udp", "udp to one port", "icmp"])
def test_traceroute(how: str) -> None:
    def work(network: Network) -> None:
        for far, expected in (
            (FAR, [GATEWAY, FIRST, SECOND, FAR]),
            (FAR6, [GATEWAY6, FIRST6, SECOND6, FAR6]),
        ):
            options = {"udp to one port": ["-U", "-p", "33434"], "icmp": ["-I"], "udp": []}[how]
            command = ["traceroute", "-n", "-w", "5", "-m", "8", *options, far]
            text = network.run(lambda command=command: path.said(*command))
            assert hops(text) == expected, text
            assert "*" not in text, text

    with_a_path(work)


def test_traceroute_by_tcp() -> None:
    def work(network: Network) -> None:
        for far, expected in (
            (FAR, [GATEWAY, FIRST, SECOND, FAR]),
            (FAR6, [GATEWAY6, FIRST6, SECOND6, FAR6]),
        ):
            command = ["traceroute", "-n", "-T", "-p", "9", "-w", "5", "-m", "8", far]
            text = network.run(lambda command=command: path.said(*command))
            assert hops(text) == expected and "*" not in text, text

    with_a_path(work)


def test_traceroute_of_busybox() -> None:
    def work(network: Network) -> None:
        for options in ([], ["-I"]):
            command = ["busybox", "traceroute", "-n", "-w", "5", "-q", "1", "-m", "8", *options, FAR]
            text = network.run(lambda command=command: path.said(*command))
            assert hops(text) == [GATEWAY, FIRST, SECOND, FAR], text

    with_a_path(work)


def test_a_host_address_is_behind_the_gateway() -> None:
    def work(network: Network) -> None:
        text = network.run(lambda: path.said("traceroute", "-n", "-w", "5", HOST))
        assert hops(text) == [GATEWAY, HOST], text
        assert hops(network.run(lambda: path.said("traceroute", "-n", "-w", "5", GATEWAY))) == [GATEWAY]

    with_a_path(work)


def test_the_path_mtu_is_found() -> None:
    def work(network: Network) -> None:
        for far, first, second in ((FAR, FIRST, SECOND), (FAR6, FIRST6, SECOND6)):
            text = network.run(lambda far=far: path.said("traceroute", "-n", "-w", "5", "-m", "8", "--mtu", far))
            found = re.findall(r"^ *\d+  (\S+) .*?F=(\d+)", text, re.MULTILINE)
            assert dict(found) == {first: "1500", second: "1400", far: "1300"}, text

    with_a_path(work)


@pytest.mark.parametrize(("far", "headers"), [(FAR, 28), (FAR6, 48)])
def test_pings_that_must_not_be_cut(far: str, headers: int) -> None:
    def work(network: Network) -> None:
        def ping(size: int) -> str:
            options = ["-n", "-c", "1", "-W", "5", "-M", "do", "-s", str(size - headers)]
            return network.run(lambda: path.said("ping", *options, far))

        for size, mtu in ((2000, 1500), (1500, 1400), (1400, 1300)):
            text = ping(size)
            assert "100% packet loss" in text and re.search(rf"mtu[ =:]+{mtu}", text, re.IGNORECASE), text
        assert " 0% packet loss" in ping(1300)

    with_a_path(work)


@pytest.mark.parametrize(
    ("far", "said", "number"),
    [
        (UNREACHABLE, "From 198.18.1.2 .*Destination Host Unreachable", errno.EHOSTUNREACH),
        (UNREACHABLE6, "From 2001:db8:1::2 .*unreachable: No route", errno.ENETUNREACH),
        (PROHIBITED, "From 198.18.1.2 .*Packet filtered", errno.EHOSTUNREACH),
        (PROHIBITED6, "From 2001:db8:1::2 .*unreachable: Administratively prohibited", errno.EACCES),
        ("::5", f"From {GATEWAY6} .*unreachable: Administratively prohibited", errno.ECONNREFUSED),
        ("203.0.113.9", f"From {GATEWAY} .*Destination Net Unreachable", None),
        ("2001:db8:77::9", f"From {GATEWAY6} .*unreachable: No route", None),
    ],
)
def test_what_routers_say_is_passed_on(far: str, said: str, number: int | None) -> None:
    def work(network: Network) -> None:
        text = network.run(lambda: path.said("ping", "-n", "-c", "1", "-W", "5", far))
        assert re.search(said, text), text
        if number is not None:
            assert network.run(lambda: exchange(far, 9)[0]) == number

    with_a_path(work)


@pytest.mark.parametrize(
    ("far", "hop_limit", "number", "kind", "source"),
    [
        (FAR, 2, errno.EHOSTUNREACH, (11, 0), FIRST),
        (FAR6, 3, errno.EHOSTUNREACH, (3, 0), SECOND6),
        (UNREACHABLE, 64, errno.EHOSTUNREACH, (3, 1), FIRST),
        (UNREACHABLE6, 64, errno.ENETUNREACH, (1, 0), FIRST6),
        (PROHIBITED, 64, errno.EHOSTUNREACH, (3, 13), FIRST),
        (PROHIBITED6, 64, errno.EACCES, (1, 1), FIRST6),
        (FAR, 64, errno.ECONNREFUSED, None, None),
    ],
)
def test_a_connection_that_fails_hears_which_router_said_so(
    far: str, hop_limit: int, number: int, kind: tuple[int, int] | None, source: str | None
) -> None:
    def work(network: Network) -> None:
        assert network.run(lambda: connect_error(far, hop_limit)) == (number, kind, source)

    with_a_path(work)


def connect_error(far: str, hop_limit: int) -> tuple[int, tuple[int, int] | None, str | None]:
    """How connecting fails, and what ICMP message was the reason: type, code and sender."""
    six = ":" in far
    family, level = (socket.AF_INET6, socket.IPPROTO_IPV6) if six else (socket.AF_INET, socket.IPPROTO_IP)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(level, socket.IPV6_UNICAST_HOPS if six else socket.IP_TTL, hop_limit)
        errorqueue.enable(sock)
        sock.settimeout(PATIENCE)
        number = sock.connect_ex((far, 9))
        sock.setblocking(False)
        queue = errorqueue.drain(sock)
        return number, (queue[0].kind, queue[0].code) if queue else None, queue[0].offender_name if queue else None


def test_a_connection_outlives_what_icmp_says_of_it_later() -> None:
    """A route that goes and comes back: TCP sends again until it arrives (RFC 1122 section 4.2.3.9)."""

    def talk(ready: int, go: int) -> bytes:
        with socket.create_connection((SECOND, 7), PATIENCE) as sock:
            os.write(ready, b"1")
            os.read(go, 1)
            sock.send(b"still there")
            return sock.recv(100)

    def unreachable() -> int:
        with open("/proc/net/snmp", encoding="ascii") as file:
            names, numbers = (line.split() for line in file if line.startswith("Icmp:"))
        return int(dict(zip(names, numbers, strict=True))["InDestUnreachs"])

    def whole() -> None:
        with path.path() as nodes, Network(Settings()) as network:
            server = path.echo(nodes[1], SECOND, 7, stream=True)
            try:
                (ready, ready_write), (go, go_write) = os.pipe(), os.pipe()
                talking = network.start(lambda: talk(ready_write, go))
                os.read(ready, 1)
                before = unreachable()
                path.inside(nodes[0], "ip", "route", "add", "unreachable", f"{SECOND}/32")
                os.write(go_write, b"1")
                deadline = time.monotonic() + PATIENCE
                while unreachable() == before and time.monotonic() < deadline:
                    time.sleep(0.02)
                path.inside(nodes[0], "ip", "route", "delete", "unreachable", f"{SECOND}/32")
                assert unreachable() > before
                assert talking.wait() == b"still there"
            finally:
                server.kill()
                server.wait()

    on_a_host(whole)


def test_pings_obey_the_rules() -> None:
    def work(network: Network) -> None:
        for far, expected in (
            (FAR, "Packet filtered"),
            (FAR6, "Administratively prohibited"),
            (FIRST, " 0% packet loss"),
        ):
            text = network.run(lambda far=far: path.said("ping", "-n", "-c", "1", "-W", "5", far))
            assert expected in text, text

    with_a_path(work, Settings(egress=(f"allow={FIRST}",)))


def exchange(far: str, port: int) -> tuple[int, bytes]:
    """The errno that comes back for a datagram, with the payload that is quoted and the address that says so."""
    six = ":" in far
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP, 25 if six else 11, 1)  # RECVERR
        sock.connect((far, port))
        sock.send(b"question")
        try:
            sock.recv(10)
        except OSError as error:
            payload, ancillary, _, _ = sock.recvmsg(100, 200, socket.MSG_ERRQUEUE)
            return error.errno or 0, payload + ancillary[0][2][20:24]
        return 0, b""


def test_a_socket_hears_who_refused() -> None:
    """A datagram of ordinary size, refused by a host three routers away, from the one who did."""

    def work(network: Network) -> None:
        assert network.run(lambda: exchange(FAR, 9)) == (errno.ECONNREFUSED, b"question" + socket.inet_aton(FAR))

    with_a_path(work)


def test_large_datagrams_arrive_cut() -> None:
    """The link's MTU is larger than any network's: what the guest sends is cut, and nothing is lost to learn that."""

    def echo(far: str) -> bytes:
        with socket.socket(socket.AF_INET6 if ":" in far else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((far, 7))
            sock.send(bytes(9000))
            return sock.recv(10000)

    def work(network: Network) -> None:
        for far in (FIRST, FIRST6):
            assert network.run(lambda far=far: echo(far)) == bytes(9000)

    def whole() -> None:
        with path.path() as nodes, Network(Settings()) as network:
            echoes = [path.echo(nodes[0], address, 7) for address in (FIRST, FIRST6)]
            try:
                work(network)
            finally:
                for process in echoes:
                    process.kill()
                    process.wait()

    on_a_host(whole)
