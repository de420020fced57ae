"""The namespaces of contrib/bench/net, and the programs that it compares in them.

    far 192.0.2.2 ---- veth ---- 192.0.2.1 host 198.51.100.1 ---- delay line ---- 198.51.100.2 distant
                                             |
                                  each network under test
                                             |
                                      guest 10.0.2.100

The host is the bench's own network namespace, in a user namespace of an unprivileged user. A guest has a user namespace
and a network namespace of its own, as containers have; the others have network namespaces only.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

BENCH = Path(__file__).resolve().parent
CHECKOUT = BENCH.parent.parent
PATIENCE = 20.0
"""Seconds that a program has until it is ready."""

HOST, FAR = "192.0.2.1", "192.0.2.2"
NEAR_END, DISTANT = "198.51.100.1", "198.51.100.2"
LOOPBACK = "127.0.0.1"
GUEST, GATEWAY, RESOLVER = "10.0.2.100", "10.0.2.2", "10.0.2.3"
PUBLISHED = (5201, 8080)
"""Ports of the guest that the host has under the same numbers."""
EPHEMERAL = "10000 65535"
"""Above every port that is served: a client that closed first keeps its port for a minute."""
MTU = "65520"
DELAY = 10
"""Milliseconds, each way."""


class Failed(Exception):
    """A program did not do what it is there for; the message is for people."""


class Place:
    """A network namespace in which programs are started."""

    def __init__(self, name: str, *, pid: int = 0, enter: Sequence[str] = ()) -> None:
        self.name = name
        self.pid = pid
        """A process in it; 0 for the bench's own."""
        self._enter = list(enter)

    def run(self, command: Sequence[str], *, timeout: float = 120.0) -> str:
        """What the command prints. Raises Failed."""
        try:
            done = subprocess.run(
                [*self._enter, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{shlex.join(command)} in {self.name} did not end in {timeout:.0f} s") from None
        if done.returncode:
            raise Failed(
                f"{shlex.join(command)} in {self.name} ended with {done.returncode}: "
                f"{(done.stderr or done.stdout).strip()[-500:]}"
            )
        return done.stdout

    @contextmanager
    def running(self, command: Sequence[str], *, ready: str) -> Iterator[subprocess.Popen[str]]:
        """The command, from when it has printed a line with `ready`; it is ended afterwards. Raises Failed."""
        process = subprocess.Popen(
            [*self._enter, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            said = ""
            while ready not in said:
                line = process.stdout.readline()
                if not line:
                    raise Failed(f"{shlex.join(command)} in {self.name} ended: {said.strip()[-500:]}")
                said += line
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Terminate it, and wait."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def ip(place: Place, *commands: str) -> None:
    """ip(8), one command line each."""
    for command in commands:
        place.run(["ip", *command.split()])


def sysctl(place: Place, **values: str) -> None:
    """Network settings of the place; names have _ for the dots after net.ipv4."""
    for name, value in values.items():
        place.run(["sh", "-c", 'echo "$2" >"/proc/sys/net/ipv4/$1"', "sh", name, value])


@contextmanager
def namespace(name: str, *, user: bool = False) -> Iterator[Place]:
    """A new network namespace, with `user` in a user namespace of its own; its loopback is up."""
    flags = ["--user", "--map-root-user"] if user else []
    command = ["unshare", *flags, "--net", "sh", "-c", "echo ready; exec cat"]
    with Place("the host").running(command, ready="ready") as process:
        enter = ["--user", "--preserve-credentials"] if user else []
        place = Place(name, pid=process.pid, enter=["nsenter", "--target", str(process.pid), *enter, "--net"])
        ip(place, "link set lo up")
        sysctl(place, ip_local_port_range=EPHEMERAL, tcp_tw_reuse="1")
        yield place


class Lab:
    """The host, what it is connected to, and the servers that all rows use."""

    def __init__(self, host: Place, far: Place, distant: Place) -> None:
        self.host = host
        self.far = far
        self.distant = distant


@contextmanager
def lab(directory: str) -> Iterator[Lab]:
    """Set up everything but the guests. The mount namespace must be ours too: /etc/resolv.conf is replaced."""
    with ExitStack() as stack:
        host = Place("the host")
        ip(host, "link set lo up")
        sysctl(host, ping_group_range="0 0", ip_local_port_range=EPHEMERAL, tcp_tw_reuse="1")
        far = stack.enter_context(namespace("far"))
        ip(host, f"link add near type veth peer name far netns {far.pid}", f"address add {HOST}/24 dev near")
        ip(host, "link set near up")
        ip(far, f"address add {FAR}/24 dev far", "link set far up", f"route add default via {HOST}")
        ip(host, f"route add default via {FAR}")  # pasta wants one, as a sign of a network
        distant = stack.enter_context(namespace("distant"))
        words = [sys.executable, f"{BENCH}/delayline.py", str(distant.pid), str(DELAY), "line0", "line1"]
        stack.enter_context(host.running(words, ready="ready"))
        for place, name, address in ((host, "line0", NEAR_END), (distant, "line1", DISTANT)):
            ip(place, f"address add {address}/24 dev {name}", f"link set {name} mtu 1500 txqueuelen 10000 up")
        resolvers = f"{directory}/resolv.conf"
        Path(resolvers).write_text(f"nameserver {LOOPBACK}\n")
        host.run(["mount", "--bind", resolvers, os.path.realpath("/etc/resolv.conf")])
        yield Lab(host, far, distant)


class Joined:
    """A place from which programs reach the host through the network under test."""

    def __init__(self, place: Place, *, gateway: str, resolver: str, pid: int = 0) -> None:
        self.place = place
        self.gateway = gateway
        """Leads to the host's loopback."""
        self.resolver = resolver
        self.pid = pid
        """The process that serves the network; 0 where there is none."""

    def processor_seconds(self) -> float:
        """What the network has used so far, its children included; proc_pid_stat(5)."""
        ticks = sum(sum(int(value) for value in _stat(pid)[11:15]) for pid in _family(self.pid))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Proportional bytes of the network's processes, proc_pid_smaps(5)."""
        total = 0
        for pid in _family(self.pid):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        return total


def _stat(pid: int) -> list[str]:
    """The fields from the third on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            yield from _family(int(child))


class Contender(Protocol):
    name: str
    title: str

    def join(self, directory: str) -> Generator[Joined, None, None]:
        """Start a network, and end it when closed. Raises Failed."""


class Slirp:
    """slirp4netns(1), or what takes its options."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.title = name
        self._command = command

    def join(self, directory: str) -> Generator[Joined, None, None]:
        api, log = f"{directory}/api", f"{directory}/log"
        ready, writing = os.pipe()
        with namespace("a guest", user=True) as guest, open(log, "wb") as output, os.fdopen(ready, "rb") as pipe:
            words = ["-c", "-m", MTU, "-r", str(writing), "-a", api, str(guest.pid), "tap0"]
            process = subprocess.Popen(
                [*self._command, *words],
                pass_fds=[writing],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            )
            os.close(writing)
            try:
                if pipe.read(1) != b"1":
                    raise Failed(f"{self.name} did not start: {Path(log).read_text(errors='replace').strip()[-500:]}")
                for port in PUBLISHED:
                    self._publish(api, port)
                yield Joined(guest, gateway=GATEWAY, resolver=RESOLVER, pid=process.pid)
                if process.poll() is not None:
                    raise Failed(f"{self.name} died: {Path(log).read_text(errors='replace').strip()[-500:]}")
            finally:
                end(process)
                with suppress(FileNotFoundError):
                    os.unlink(api)

    def _publish(self, api: str, port: int) -> None:
        arguments = {
            "proto": "tcp",
            "host_addr": "0.0.0.0",
            "host_port": port,
            "guest_addr": GUEST,
            "guest_port": port,
        }
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(api)
            sock.sendall(json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())
            sock.shutdown(socket.SHUT_WR)
            answer = sock.makefile().read()
        if "return" not in answer:
            raise Failed(f"{self.name} does not publish port {port}: {answer}")


class Pasta:
    """pasta(1), with the addresses of the others."""

    name = title = "pasta"

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def join(self, directory: str) -> Generator[Joined, None, None]:
        log = f"{directory}/log"
        ports = [word for port in PUBLISHED for word in ("-t", str(port))]
        words = ["-f", "-q", "--config-net", "-a", GUEST, "-n", "24", "-g", GATEWAY, "-m", MTU, *ports]
        words += ["-u", "none", "-T", "none", "-U", "none", "--dns-forward", RESOLVER, "-I", "tap0"]
        with namespace("a guest", user=True) as guest, open(log, "wb") as output:
            process = subprocess.Popen(
                [*self._command, *words, str(guest.pid)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                deadline = time.monotonic() + PATIENCE
                while "tap0\t00000000" not in Path(f"/proc/{guest.pid}/net/route").read_text():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise Failed(f"pasta did not start: {Path(log).read_text(errors='replace').strip()[-500:]}")
                    time.sleep(0.01)
                yield Joined(guest, gateway=GATEWAY, resolver=RESOLVER, pid=process.pid)
            finally:
                end(process)


class Host:
    """No network between: what runs in a guest elsewhere runs on the host itself, over its loopback."""

    name = "host"
    title = "the host itself"

    def join(self, directory: str) -> Generator[Joined, None, None]:
        yield Joined(Place("the host"), gateway=LOOPBACK, resolver=LOOPBACK)
