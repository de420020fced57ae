"""--network and its options, the networks of others, rules and captures; against sockets of the host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.test_network import GATEWAY, HOST, free_port, persistent_exchange, tcp_server
from tests.integration.test_run import sh
from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


def persistent(attempt: Callable[[], str]) -> str:
    """The first answer of `attempt` that is not empty."""
    for _ in range(100):
        answer = attempt()
        if answer:
            return answer
        threading.Event().wait(0.05)
    return ""


def test_the_users_options(auto_box: Rcontain, demo: str) -> None:
    options = "mtu=1400,cidr=192.168.7.0/24,interface=eth7,mac=02:00:00:00:00:07,enable_ipv6=false"
    script = "ip -o addr show dev eth7; ip route; cat /sys/class/net/eth7/mtu /sys/class/net/eth7/address /etc/hosts"
    said = sh(auto_box, demo, script, "--network", f"user:{options}", "--name", "own")
    assert "192.168.7.100/24" in said and "default via 192.168.7.2 dev eth7" in said and "inet6 fd" not in said
    assert {"1400", "02:00:00:00:00:07"} <= set(said.split("\n"))
    hosts = {tuple(line.split()) for line in said.split("\n")}
    assert any(words[:1] == ("192.168.7.2",) and HOST in words for words in hosts)
    assert any(words[:1] == ("192.168.7.100",) and "own" in words for words in hosts)


def test_the_hardware_address_that_the_kernel_chose(auto_box: Rcontain, demo: str) -> None:
    with running(auto_box, demo, "own"):
        seen = auto_box.text("exec", "own", "cat", "/sys/class/net/tap0/address")
        assert auto_box.text("inspect", "own", "--format", "{{.NetworkSettings.MacAddress}}") == seen


@pytest.mark.parametrize("network", ["slirp4netns:mtu=1400,cidr=192.168.7.0/24", "pasta:-m,1400,-a,192.168.7.100"])
def test_the_options_of_podmans_networks(auto_box: Rcontain, demo: str, network: str) -> None:
    with tcp_server(lambda connection: connection.sendall(b"hello\n")) as port:
        said = sh(auto_box, demo, f"ip -o addr; cat /sys/class/net/tap0/mtu; nc {HOST} {port}", "--network", network)
    assert "192.168.7.100/24" in said and said.endswith("1400\nhello")


def test_an_address_to_send_from(auto_box: Rcontain, demo: str) -> None:
    """The host sees the connection come from there. (All of 127.0.0.0/8 is the host's own.)"""
    peers: list[str] = []
    network = "user:allow_host_loopback=true,outbound_addr=127.0.0.9"
    with tcp_server(lambda connection: peers.append(connection.getpeername()[0]), "127.0.0.1") as port:
        sh(auto_box, demo, f"nc {GATEWAY} {port}", "--network", network)
    assert peers == ["127.0.0.9"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--network", "user:outbound_addr=192.0.2.77"], "cannot send from the address 192.0.2.77"),
        (["--network", "user:outbound_addr=nolink0"], "cannot send from the interface nolink0"),
        (["--network", "user:mtu=1"], "MTU of 1"),
        (["--network", "pasta:-t,all"], 'pasta\'s ports "all"'),
        (["--network", "container:nobody"], 'no container with name or ID "nobody"'),
        (["--network", "ns:/no/such"], "cannot open the network namespace /no/such"),
        (["--network", "ns:/dev/null"], "/dev/null is not a namespace"),
        (["--network", "ns:/proc/self/ns/uts"], "not of a network"),
        (["--network", "ns:/proc/1/ns/net"], "/proc/1/ns/net"),
        (["--network", "none", "--egress", "deny"], "--egress needs the user-mode network"),
        (["--egress", "permit=all"], "permit=all"),
        (["--network-pcap", "/no/such/file"], "cannot write the capture /no/such/file"),
    ],
)
def test_networks_that_cannot_be(auto_box: Rcontain, demo: str, flags: list[str], words: str) -> None:
    result = auto_box("run", "--rm", *flags, demo, "true", check=False)
    said = result.stderr.decode()
    assert result.returncode == 125 and words in said and said.count("\n") <= 2, said


@contextmanager
def running(
    box: Rcontain, demo: str, name: str, *flags: str, command: tuple[str, ...] = ("sleep", "1000")
) -> Iterator[None]:
    box("run", "-d", "--rm", "--name", name, *flags, demo, *command)
    try:
        yield
    finally:
        box("rm", "-f", "-t", "0", name)


def test_the_network_of_another_container(auto_box: Rcontain, demo: str) -> None:
    """As seen inside, and at work: on the other's loopback interface, on its ports, by its names."""
    port = free_port()
    serve = ("sh", "-c", "while :; do nc -l -p 80 -e echo first; done")
    with running(auto_box, demo, "first", "-p", f"{port}:8000", "--add-host", "far:192.0.2.1", command=serve):
        inode = auto_box.text("exec", "first", "readlink", "/proc/self/ns/net")
        shares = ("--network", "container:first")
        said = sh(auto_box, demo, "readlink /proc/self/ns/net; cat /proc/sys/kernel/hostname; cat /etc/hosts", *shares)
        assert said.split("\n")[:2] == [inode, auto_box.text("exec", "first", "hostname")]
        assert "192.0.2.1\tfar" in said
        assert persistent(lambda: sh(auto_box, demo, "nc 127.0.0.1 80", *shares)) == "first"
        with running(auto_box, demo, "second", *shares, command=("nc", "-l", "-p", "8000", "-e", "echo", "second")):
            assert persistent_exchange(port, b"") == b"second\n"
        shown = auto_box.text("container", "inspect", "first", "--format", "{{.Id}}")
        with running(auto_box, demo, "third", *shares):
            network = "{{.HostConfig.NetworkMode}} {{.NetworkSettings.IPAddress}}"
            assert auto_box.text("inspect", "third", "--format", network) == f"container:{shown} 10.0.2.100"
            assert auto_box.text("exec", "third", "readlink", "/proc/self/ns/net") == inode
            said = sh(auto_box, demo, "readlink /proc/self/ns/net; cat /etc/hosts", "--network", "container:third")
            assert said.split("\n")[0] == inode and "192.0.2.1\tfar" in said


def test_power_over_the_network_of_another_container(auto_box: Rcontain, demo: str) -> None:
    """Root may there what it may in the other: low ports, and with the capability the interfaces."""
    with running(auto_box, demo, "first"):
        shares = ("--network", "container:first")
        listens = "nc -l -p 79 & until netstat -ltn | grep -q ':79 '; do kill -0 $! || exit; sleep 0.02; done; kill $!"
        sh(auto_box, demo, f"{listens}; ls /sys/class/net/tap0", *shares)
        sh(auto_box, demo, "ip link set tap0 mtu 1400", *shares, "--cap-add", "net_admin")
        assert auto_box.text("exec", "first", "cat", "/sys/class/net/tap0/mtu") == "1400"
        assert "mtu 1400" in sh(auto_box, demo, "ip -o link show tap0", *shares, "--userns", "keep-id")


@pytest.mark.parametrize("flags", [["--userns", "keep-id"], ["--userns", "nomap"], ["--privileged"], ["--read-only"]])
def test_other_containers_in_the_network_of_one(auto_box: Rcontain, demo: str, flags: list[str]) -> None:
    with running(auto_box, demo, "first"), running(auto_box, demo, "second", "--network", "container:first", *flags):
        assert "10.0.2.100/24" in auto_box.text("exec", "second", "ip", "-o", "addr", "show", "tap0")


def test_low_ports_of_a_root_that_is_none_for_the_network(auto_box: Rcontain, demo: str) -> None:
    """Another user namespace than the one that the network belongs to."""
    with running(auto_box, demo, "first"):
        script = "nc -l -p 80 & until netstat -ltn | grep -q ':80 '; do kill -0 $! || exit; sleep 0.02; done; kill $!"
        sh(auto_box, demo, script, "--network", "container:first", "--userns", "keep-id")


def test_a_container_whose_network_others_have_is_removed_after_them(box: Rcontain, demo: str) -> None:
    for name, network in (("a", "user"), ("b", "container:a"), ("c", "container:b")):
        box("create", "--name", name, "--network", network, demo, "true")
    for flags in ((), ("-f",)):
        refused = box("rm", *flags, "a", check=False)
        assert refused.returncode and "must be removed before" in refused.stderr.decode()
    assert box.text("rm", "a", "b", "c").split() == ["c", "b", "a"]
    for name, network in (("a", "user"), ("b", "container:a"), ("c", "container:b")):
        box("create", "--name", name, "--network", network, demo, "true")
    assert len(box.text("rm", "--depend", "a").split()) == 3 and not box.text("ps", "-aq")
    for name, network in (("a", "user"), ("b", "container:a")):
        box("create", "--name", name, "--network", network, demo, "true")
    assert len(box.text("rm", "-a").split()) == 2


def test_the_hosts_network_by_another_container(auto_box: Rcontain, demo: str) -> None:
    inode = os.readlink("/proc/self/ns/net")
    with running(auto_box, demo, "first", "--network", "host"):
        assert sh(auto_box, demo, "readlink /proc/self/ns/net", "--network", "container:first") == inode


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dns", "192.0.2.1"], "conflicting options: dns and the network mode: container"),
        (["--dns-search", "a"], "conflicting options: dns-search and the network mode: container"),
        (["--add-host", "a:192.0.2.1"], "conflicting options: add-host and the network mode: container"),
        (["-p", "80:80"], "Port mappings have no effect"),
        ([], "cannot share the network of container first: it is not running"),
    ],
)
def test_what_does_not_go_with_the_network_of_another(
    auto_box: Rcontain, demo: str, flags: list[str], words: str
) -> None:
    auto_box("create", "--name", "first", demo, "true")
    try:
        result = auto_box("run", "--rm", "--network", "container:first", *flags, demo, "true", check=False)
        assert words in result.stderr.decode() and result.returncode == 125
    finally:
        auto_box("rm", "first")


def test_the_network_of_a_path(auto_box: Rcontain, demo: str) -> None:
    with running(auto_box, demo, "first"):
        pid = auto_box.text("inspect", "first", "--format", "{{.State.Pid}}")
        said = sh(auto_box, demo, "ip -o addr show dev tap0", "--network", f"ns:/proc/{pid}/ns/net")
        assert "10.0.2.100/24" in said


def test_a_network_without_a_way_out(auto_box: Rcontain, demo: str) -> None:
    """Refused at once, told in `inspect` and by `network flows`; what is allowed goes on."""
    with (
        tcp_server(lambda connection: connection.sendall(b"allowed\n")) as port,
        running(auto_box, demo, "jail", "--egress", f"allow={HOST}:{port}"),
    ):
        assert "refused" in auto_box.text("exec", "jail", "sh", "-c", f"nc -w 9 {GATEWAY} {port + 1} 2>&1 || true")
        assert "refused" in auto_box.text("exec", "jail", "sh", "-c", "nc -w 9 192.0.2.1 80 2>&1 || true")
        assert auto_box.text("exec", "jail", "nc", HOST, str(port)) == "allowed"
        lines = auto_box.text("network", "flows", "--denied", "--noheading", "jail").split("\n")
        denied = {tuple(line.split()) for line in lines}
        assert ("tcp", "192.0.2.1", "80", "1") in denied and ("tcp", GATEWAY, str(port + 1), "1") in denied
        warnings = auto_box.text("inspect", "jail", "--format", "{{json .State.Warnings}}")
        assert "refused by the egress rules: tcp to 192.0.2.1, port 80" in warnings
        assert len(denied) == 2 and warnings.count("refused by") == 2


def test_flows(auto_box: Rcontain, demo: str) -> None:
    """Both directions, with bytes; those of a container that shares the network are the network's."""
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        assert connection.recv(100) == b"question\n"
        connection.sendall(b"the answer\n")
        done.wait(30)

    with tcp_server(serve) as port:
        command = ("sh", "-c", f"(echo question; sleep 1000) | nc {HOST} {port}")
        try:
            with (
                running(auto_box, demo, "client", command=command),
                running(auto_box, demo, "guest", "--network", "container:client"),
            ):
                while auto_box.text("logs", "client") != "the answer":
                    pass
                for name in ("client", "guest"):
                    told = auto_box.text("network", "flows", name, "--format", "{{.Protocol}} {{.Far}} {{.State}}")
                    assert told == f"tcp {GATEWAY}:{port} established"
                documents = json.loads(auto_box.text("network", "flows", "client", "--format", "json"))
                assert [(one["direction"], one["received"], one["sent"]) for one in documents] == [("out", 11, 9)]
        finally:
            done.set()


def test_a_capture(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    capture = tmp_path / "capture"
    with tcp_server(lambda connection: connection.sendall(b"hello\n")) as port:
        auto_box("run", "--rm", "--network-pcap", str(capture), demo, "nc", HOST, str(port))
    assert capture.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"  # a section header block: pcapng, section 4.1
    command = ["tshark", "-r", capture, "-T", "fields", "-e", "tcp.payload", "-Y", f"tcp.srcport == {port}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert b"hello\n".hex() in said


def test_what_the_network_has_to_say(auto_box: Rcontain, demo: str) -> None:
    """Here: which setting of the host keeps pings from leaving, unless it lets them leave."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ping_group_range").read_text().split())
    allowed = any(low <= group <= high for group in (os.getgid(), *os.getgroups()))
    with running(auto_box, demo, "pinger", "--cap-add", "net_raw"):
        auto_box("exec", "pinger", "ping", "-c", "1", "-W", "1", "192.0.2.1", check=False)
        while not allowed and "net.ipv4.ping_group_range" not in auto_box.text("inspect", "pinger"):
            pass
