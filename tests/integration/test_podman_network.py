"""Podman with `rcontain-slirp` as its slirp4netns."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_podman import CHECKOUT, Podman

pytestmark = [pytest.mark.podman, pytest.mark.userns, pytest.mark.fuse, pytest.mark.tun]

LIMITS = ("--cgroups", "disabled")
PATIENCE = 30.0  # seconds after which a test is stuck
SERVE = "mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www"


class Networked(Podman):
    """Podman whose user-mode networks are ours."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, "pyfuse3")
        program = self._file(
            "network-command", f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m netns "$@"\n'
        )
        os.chmod(program, 0o755)
        self._file("containers.conf", f'[engine]\nnetwork_cmd_path = "{program}"\n')

    def said(self, options: str, script: str, *more: str) -> list[str]:
        """The lines that a shell script says in a container with these options of --network slirp4netns."""
        network = f"slirp4netns:{options}" if options else "slirp4netns"
        done = self("run", "--rm", *LIMITS, "--network", network, *more, "demo", "sh", "-ec", script)
        return done.splitlines()

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command whose output is read while it runs."""
        command = [*self._command, *words]
        return subprocess.Popen(command, env=self._environment, cwd=self.folder, stdout=subprocess.PIPE, text=True)

    def networks(self) -> list[str]:
        """Processes of the network."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{name}/cmdline").read_text().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "netns" in words and any(word.startswith(f"{self.folder}/") for word in words):
                found.append(name)
        return found

    def no_networks(self) -> None:
        """All of them end, since their containers have."""
        deadline = time.monotonic() + PATIENCE
        while self.networks():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def podman() -> Iterator[Networked]:
    folder = tempfile.mkdtemp(prefix="pn", dir="/tmp")  # sockets in it must have short names
    os.chmod(folder, 0o755)
    try:
        command = Networked(folder)
        subprocess.run([CHECKOUT / "contrib/demo-image", f"{folder}/layout"], check=True, stdout=subprocess.DEVNULL)
        command("tag", command("pull", "--quiet", "oci:layout:latest").strip(), "localhost/demo")
        try:
            yield command
        finally:
            command.finish()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def container(podman: Networked) -> Iterator[str]:
    """A name for one that is removed after the test."""
    name = f"c{uuid.uuid4().hex[:8]}"
    try:
        yield name
    finally:
        podman("rm", "--force", "--ignore", "--time", "0", name)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def fetch(port: int) -> bytes:
    """What the container's web server has; it may not have started yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
                sock.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
                answer = b""
                while data := sock.recv(4096):
                    answer += data
        except (ConnectionRefusedError, ConnectionResetError):
            answer = b""
        if answer:
            return answer.rpartition(b"\r\n\r\n")[2]
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Peers:
    """A server on the host's loopback that tells each client its address and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.seen: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            with connection:
                self.seen.append(peer[0])
                connection.sendall(b"hello\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def peers() -> Iterator[Peers]:
    server = Peers()
    yield server
    server.close()


def test_plain(podman: Networked) -> None:
    script = "ip address show tap0; ping -c 1 10.0.2.2; cat /etc/resolv.conf"
    text = "\n".join(podman.said("", script))
    for part in ("mtu 65520", "inet 10.0.2.100/24", "inet6 fd00::100/64", "1 packets received", "nameserver 10.0.2.3"):
        assert part in text
    podman.no_networks()


def test_options_of_the_link(podman: Networked) -> None:
    text = "\n".join(podman.said("mtu=1000,cidr=10.9.8.0/24", "ip address show tap0; ping -c 1 10.9.8.2"))
    assert "mtu 1000" in text and "inet 10.9.8.100/24" in text and "1 packets received" in text
    text = "\n".join(podman.said("enable_ipv6=false", "ip address show tap0"))
    assert "inet 10.0.2.100/24" in text and "inet6 fd00" not in text


def test_the_hosts_loopback(podman: Networked, peers: Peers) -> None:
    script = f"nc -w 5 10.0.2.2 {peers.port} < /dev/null || echo refused"
    assert podman.said("allow_host_loopback=true", script) == ["hello"]
    assert podman.said("", script) == ["refused"]
    assert podman.said("allow_host_loopback=true,outbound_addr=127.0.0.5", script) == ["hello"]
    assert podman.said("allow_host_loopback=true,outbound_addr=lo", script) == ["hello"]
    assert peers.seen == ["127.0.0.1", "127.0.0.5", "127.0.0.1"]


@pytest.mark.parametrize("handler", ["rootlesskit", "slirp4netns"])
def test_a_published_port(podman: Networked, container: str, handler: str) -> None:
    port = free_port()
    network = f"slirp4netns:port_handler={handler}"
    published = f"127.0.0.1:{port}:80" if handler == "rootlesskit" else f"{port}:80"
    podman(
        *("run", "--detach", "--name", container, *LIMITS, "--network", network, "--publish", published),
        *("demo", "sh", "-ec", SERVE),
    )
    assert fetch(port) == b"served\n"
    (published,) = json.loads(podman("inspect", container))[0]["NetworkSettings"]["Ports"]["80/tcp"]
    assert published["HostPort"] == str(port)
    podman("stop", "--time", "0", container)
    podman.no_networks()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


ECHO = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 53))
print("ready", flush=True)
while True:
    sock.sendto(*sock.recvfrom(100))
"""


def test_a_published_udp_port(podman: Networked, container: str) -> None:
    port = free_port(socket.SOCK_DGRAM)
    network = "slirp4netns:port_handler=slirp4netns"
    podman(
        *("run", "--detach", "--name", container, *LIMITS, "--network", network, "--publish", f"{port}:53/udp"),
        *("demo", "sleep", "1000"),
    )
    pid = podman("inspect", "--format", "{{.State.Pid}}", container).strip()
    with podman.start("unshare", "nsenter", "-t", pid, "-n", sys.executable, "-c", ECHO) as server:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.sendto(b"asked", ("127.0.0.1", port))
            assert sock.recv(100) == b"asked"
        server.kill()


def test_its_end_is_the_end_of_the_network(podman: Networked, container: str) -> None:
    podman("run", "--detach", "--name", container, *LIMITS, "--network", "slirp4netns", "demo", "sleep", "1000")
    (network,) = podman.networks()
    status = Path(f"/proc/{network}/status").read_text()
    assert "CapEff:\t0000000000000400" in status and "NoNewPrivs:\t1" in status  # CAP_NET_BIND_SERVICE
    podman("kill", container)
    podman.no_networks()
    podman("wait", "--condition", "exited", container)  # so what Podman itself does at its end is over
    podman("start", container)
    assert len(podman.networks()) == 1
    podman("rm", "--force", "--time", "0", container)
    podman.no_networks()


def test_podman_finds_the_version(podman: Networked) -> None:
    assert json.loads(podman("info", "--format", "json"))["host"]["slirp4netns"]["version"].startswith(
        "slirp4netns version 1.2.1"
    )
