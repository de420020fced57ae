"""Names: asked by dig and the C library in a guest, answered by servers of a host made for the test."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import pytest

from netns.process import Settings
from netns.wire.dns import DnsHeader
from netns.wire.dnsmessage import DnsQuestion
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


def dig(*words: str) -> str:
    """What dig says, in short."""
    command = ["dig", f"@{RESOLVER}", "+time=8", "+tries=1", "+short", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.stdout.strip()


def full(*words: str) -> str:
    """All that dig says."""
    command = ["dig", f"@{RESOLVER}", "+time=8", "+tries=1", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


def status(*words: str) -> str:
    """The status of dig's answer: NOERROR, REFUSED..."""
    return full(*words).partition("status: ")[2].partition(",")[0]


def address_of(*addresses: str) -> Callable[[bytes, Any], bytes]:
    """A server for which every name has these addresses."""

    def answer(query: bytes, peer: Any) -> bytes:
        end = DnsQuestion.parse(query).end
        head = DnsHeader(DnsHeader.parse(query).identifier, 0x8180, 1, len(addresses), 0, 0).to_bytes()
        records = (struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address) for address in addresses)
        return head + query[12:end] + b"".join(records)

    return answer


def framed(answer: Callable[[bytes, Any], bytes], *, per_connection: int = 100) -> Callable[[socket.socket], None]:
    """The same over TCP; it hangs up after so many answers."""

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as file:
            for _ in range(per_connection):
                head = file.read(2)
                if len(head) < 2:
                    return
                data = answer(file.read(int.from_bytes(head, "big")), None)
                connection.sendall(len(data).to_bytes(2, "big") + data)

    return serve


def query(identifier: int, name: str = "a.example") -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    return DnsHeader(identifier, 0x100, 1, 0, 0, 0).to_bytes() + labels + b"\0\0\1\0\1"


def look_up(name: str) -> list[str] | int:
    """The addresses that the C library finds, or its error."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        return error.errno or 0


def test_the_c_library_hears_addresses_and_refusals() -> None:
    def work() -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(f"nameserver {RESOLVER}\noptions timeout:20\n")
            file.flush()
            subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
            serve_udp("127.0.0.2", address_of("192.0.2.9"), port=53)
            with Network(Settings(dns=("127.0.0.2",), egress=("allow=*.good.example",))) as network:
                assert network.run(lambda: look_up("www.good.example")) == ["192.0.2.9"]
                # The library does not wait for its 20 seconds to pass, which would be too long for the test.
                assert network.run(lambda: look_up("www.bad.example")) in (socket.EAI_AGAIN, socket.EAI_NONAME)

    on_a_host(work)


def test_dig_asks_dnsmasq() -> None:
    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            records = "".join(f"txt-record=long.example,{'x' * 200}{number}\n" for number in range(15))
            with open(f"{folder}/conf", "w") as file:
                file.write(f"address=/a.example/192.0.2.99\naddress=/a.example/2001:db8::99\n{records}")
            command = [
                "dnsmasq", "-k", "-C", f"{folder}/conf", "--no-resolv", "--no-hosts", "--listen-address=127.0.0.1",
                "--bind-interfaces", f"--pid-file={folder}/pid", "--user=root", "--group=root", "--cache-size=0",
            ]  # fmt: skip
            with subprocess.Popen(command) as server:
                try:
                    with Network(Settings(dns=("127.0.0.1",))) as network:
                        for _ in range(100):
                            if network.run(lambda: dig("a.example")) == "192.0.2.99":
                                break
                        assert network.run(lambda: dig("a.example", "AAAA")) == "2001:db8::99"
                        assert network.run(lambda: dig("+tcp", "a.example")) == "192.0.2.99"
                        # An answer of 3 KiB: whole where the guest takes it, over TCP after a truncated one else.
                        assert network.run(lambda: dig("+bufsize=4096", "long.example", "TXT")).count("x" * 200) == 15
                        assert network.run(lambda: dig("+bufsize=512", "long.example", "TXT")).count("x" * 200) == 15
                        assert network.run(lambda: status("nowhere.test")) == "REFUSED"
                finally:
                    server.terminate()

    on_a_host(work)


def test_tcp_goes_on_to_the_server_that_answers() -> None:
    """The first refuses, the second is silent, the third hangs up after each answer."""

    def work() -> None:
        silent = socket.create_server(("127.0.0.2", 53))
        with Network(Settings(dns=("127.0.0.1", "127.0.0.2", "127.0.0.3"))) as network:
            serve_tcp("127.0.0.3", framed(address_of("192.0.2.3"), per_connection=1), port=53)
            assert network.run(lambda: dig("+tcp", "a.example")) == "192.0.2.3"

            def pipelined() -> set[int]:
                with connect(RESOLVER, 53) as sock:
                    data = b"".join(struct.pack("!H", len(query(number))) + query(number) for number in range(5))
                    sock.sendall(data[:7])
                    sock.sendall(data[7:])
                    sock.shutdown(socket.SHUT_WR)
                    file = sock.makefile("rb")
                    answers = set()
                    while head := file.read(2):
                        answer = DnsHeader.parse(file.read(int.from_bytes(head, "big")))
                        assert answer.answers == 1
                        answers.add(answer.identifier)
                    return answers

            assert network.run(pipelined) == set(range(5))
            silent.close()

    on_a_host(work)


def test_over_tcp_servfail_where_nobody_answers_and_a_reset_for_what_is_no_query() -> None:
    def work() -> None:
        with Network(Settings(dns=("127.0.0.1",))) as network:
            assert network.run(lambda: status("+tcp", "a.example")) == "SERVFAIL"

            def nonsense() -> bytes | str:
                with connect(RESOLVER, 53) as sock:
                    sock.sendall(b"\0\2xx")
                    try:
                        return sock.recv(10)
                    except ConnectionResetError:
                        return "reset"

            assert network.run(nonsense) == "reset"
            before = network.descriptors()
            for _ in range(20):
                network.run(nonsense)
            assert network.descriptors() <= before

    on_a_host(work)


def test_a_query_that_waits_follows_a_change_of_servers() -> None:
    """It waits for a server that is silent when the host is told of another."""

    def work() -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("nameserver 127.0.0.2\n")
            file.flush()
            asked = threading.Event()

            def silent(data: bytes, peer: Any) -> None:
                asked.set()

            serve_udp("127.0.0.2", silent, port=53)
            serve_udp("127.0.0.3", address_of("192.0.2.3"), port=53)
            subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
            with Network(Settings()) as network:
                running = network.start(lambda: dig("+time=12", "a.example"))
                assert asked.wait(PATIENCE)
                with open("/etc/resolv.conf", "w") as changed:
                    changed.write("nameserver 127.0.0.3\nsearch a.example\n")
                assert running.wait() == "192.0.2.3"
                assert network.run(lambda: dig("a.example")) == "192.0.2.3"

    on_a_host(work)


def test_many_ports_that_ask_a_silent_server_hold_few_descriptors() -> None:
    def work() -> None:
        serve_udp("127.0.0.2", lambda data, peer: None, port=53)
        with Network(Settings(dns=("127.0.0.2",), egress=("deny=known.example",))) as network:

            def flood() -> int:
                # Answered at once: the guest's kernel keeps few datagrams for a neighbour that it has yet to find.
                assert status("known.example") == "REFUSED"
                failed = 0
                socks = []
                for number in range(600):
                    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    socks.append(sock)
                    sock.settimeout(PATIENCE)
                    sock.connect((RESOLVER, 53))
                    sock.send(query(number))
                for number, sock in enumerate(socks):
                    answer = DnsHeader.parse(sock.recv(512))
                    failed += answer.identifier == number and answer.flags & 15 == 2
                    sock.close()
                return failed

            running = network.start(flood)
            assert running.wait() == 600
            assert network.descriptors() < 300

    on_a_host(work)


def test_rules_by_name_hold_for_what_the_guest_was_told() -> None:
    def work() -> None:
        port = serve_tcp(HOST, lambda sock: sock.sendall(b"here"))
        serve_tcp(OTHER, lambda sock: sock.sendall(b"here"), port=port)

        def answer(data: bytes, peer: Any) -> bytes:
            return address_of(HOST if DnsQuestion.parse(data).name.endswith("good.example") else OTHER)(data, peer)

        serve_udp("127.0.0.2", answer, port=53)
        serve_tcp("127.0.0.2", framed(answer), port=53)

        def fetch(address: str) -> bytes | str:
            try:
                with connect(address, port) as sock:
                    return sock.recv(10)
            except OSError as error:
                return type(error).__name__

        settings = Settings(dns=("127.0.0.2",), egress=("allow=*.good.example",))
        with Network(settings) as network:
            assert network.run(lambda: fetch(HOST)) == "ConnectionRefusedError"
            assert network.run(lambda: status("bad.example")) == "REFUSED"
            assert network.run(lambda: status("+tcp", "bad.example")) == "REFUSED"
            assert "(Prohibited): (refused by the egress rules)" in network.run(lambda: full("bad.example"))
            assert network.run(lambda: dig("www.good.example")) == HOST
            assert network.run(lambda: fetch(HOST)) == b"here"
            assert network.run(lambda: fetch(OTHER)) == "ConnectionRefusedError"
            network.control.settimeout(PATIENCE)
            assert b"refused by the egress rules: tcp to 192.0.2.1" in network.control.recv(4096)

    on_a_host(work)


def test_the_host_has_a_name_for_rules() -> None:
    def work() -> None:
        port = serve_tcp(HOST, lambda sock: sock.sendall(b"here"))

        def fetch() -> bytes | str:
            try:
                with connect(GATEWAY, port) as sock:
                    return sock.recv(10)
            except OSError as error:
                return type(error).__name__

        for rule, outcome in (("allow=host.containers.internal", b"here"), ("deny", "ConnectionRefusedError")):
            with Network(Settings(behind_gateway=HOST, egress=(rule,))) as network:
                assert network.run(fetch) == outcome

    on_a_host(work)


def test_the_owner_hears_of_other_domains() -> None:
    """As when a VPN comes up: the host's resolv.conf names another domain, and somebody asks."""

    def work() -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("search old.example\nnameserver 127.0.0.2\n")
            file.flush()
            os.utime(file.name, (1, 1))
            subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
            serve_udp("127.0.0.2", address_of("192.0.2.9"), port=53)
            with Network(Settings()) as network:
                assert network.run(lambda: dig("a.example")) == "192.0.2.9"
                file.write("search new.example\n")
                file.flush()
                threading.Event().wait(1.1)  # the file is looked at once a second
                assert network.run(lambda: dig("b.example")) == "192.0.2.9"
                network.control.settimeout(PATIENCE)
                assert json.loads(network.control.recv(4096)) == {"search": ["new.example"]}

    on_a_host(work)


@pytest.mark.parametrize("server", ["0.0.0.0", "::", HOST, HOST6])
def test_the_host_over_ipv6(server: str) -> None:
    """Whichever family a program on the host listens on, its name in the container leads there."""

    def fetch(port: int) -> bytes:
        with connect(GATEWAY6, port) as sock:
            return sock.recv(10)

    def ask(port: int) -> bytes:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((GATEWAY6, port))
            sock.send(b"abc")
            try:
                return sock.recv(10)
            except ConnectionRefusedError:
                return b"refused"

    def work() -> None:
        subprocess.run(["ip", "route", "add", "local", "203.0.113.1", "dev", "lo", "src", HOST], check=True)
        port = serve_tcp(server, lambda sock: sock.sendall(b"here"))
        datagrams = serve_udp(server, lambda data, peer: data * 2)
        with Network(Settings(behind_gateway=HOST)) as network:
            assert network.run(lambda: fetch(port)) == b"here"
            expected = b"refused" if server == HOST6 else b"abcabc"
            assert network.run(lambda: ask(datagrams)) == expected

    on_a_host(work)
