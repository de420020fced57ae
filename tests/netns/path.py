"""A path of routers behind the test's host, each a network namespace: for what a guest sees beyond its host.

    host 198.18.1.1 - 198.18.1.2 FIRST - 198.18.2.2 SECOND - 198.18.3.2 FAR
         2001:db8:1::1          ::2      2001:db8:2::2       2001:db8:3::2

The links' MTUs are 1500, 1400 and 1300. Nobody limits how many ICMP errors it sends. FIRST says of 198.18.4.0/24 and
2001:db8:4::/64 that they cannot be reached, and of 198.18.5.0/24 and 2001:db8:5::/64 that they are prohibited.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.kit.userns import Clone, _unshare

FIRST, SECOND, FAR = "198.18.1.2", "198.18.2.2", "198.18.3.2"
FIRST6, SECOND6, FAR6 = "2001:db8:1::2", "2001:db8:2::2", "2001:db8:3::2"
UNREACHABLE, UNREACHABLE6 = "198.18.4.1", "2001:db8:4::1"
PROHIBITED, PROHIBITED6 = "198.18.5.1", "2001:db8:5::1"

_MTUS = (1500, 1400, 1300)
_SETTINGS = ("ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1", "ipv4.icmp_ratelimit=0", "ipv6.icmp.ratelimit=0")


@contextmanager
def path() -> Iterator[list[int]]:
    """The path, from the network namespace of the caller, who is root of it; the processes that stand for its nodes."""
    nodes: list[int] = []
    try:
        for _ in range(3):
            nodes.append(_node())
        chain = [os.getpid(), *nodes]
        for number, mtu in enumerate(_MTUS, 1):
            _connect(chain[number - 1], chain[number], number, mtu)
        for place, pid in enumerate(chain):
            _route(pid, place)
        for setting in _SETTINGS[2:]:
            _set(os.getpid(), setting)
        yield nodes
    finally:
        for pid in nodes:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def inside(pid: int, *command: str) -> None:
    """Run a command in the network namespace of `pid`."""
    subprocess.run(["nsenter", "-t", str(pid), "-n", *command], check=True)


def said(*command: str) -> str:
    """What a command says, whether it succeeds or not."""
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=50, check=False
    )
    return result.stdout


def _node() -> int:
    ready, ready_write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _unshare(Clone.NEWNET)
            os.write(ready_write, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready_write)
    with open(ready, "rb", buffering=0) as file:
        assert file.read(1) == b"1"
    return pid


def _set(pid: int, setting: str) -> None:
    name, value = setting.split("=")
    inside(pid, "sh", "-c", f"echo {value} > /proc/sys/net/{name.replace('.', '/')}")


def _connect(left: int, right: int, number: int, mtu: int) -> None:
    near, far = f"right{number}", f"left{number}"
    pair = f"name {near} mtu {mtu} type veth peer name {far} mtu {mtu} netns {right}"
    inside(left, "ip", "link", "add", *pair.split())
    for pid, name, host in ((left, near, 1), (right, far, 2)):
        inside(pid, "ip", "link", "set", "lo", "up")
        inside(pid, "ip", "address", "add", f"198.18.{number}.{host}/24", "dev", name)
        inside(pid, "ip", "address", "add", f"2001:db8:{number}::{host}/64", "dev", name, "nodad")
        inside(pid, "ip", "link", "set", name, "up")


def _route(pid: int, place: int) -> None:
    if place:
        for setting in _SETTINGS:
            _set(pid, setting)
        inside(pid, "ip", "route", "add", "default", "via", f"198.18.{place}.1")
        inside(pid, "ip", "route", "add", "default", "via", f"2001:db8:{place}::1")
    if place == 1:
        for kind, network in (("unreachable", 4), ("prohibit", 5)):
            inside(pid, "ip", "route", "add", kind, f"198.18.{network}.0/24")
            inside(pid, "ip", "route", "add", kind, f"2001:db8:{network}::/64")
    for beyond in range(place + 2, 6 if place < 1 else 4):
        inside(pid, "ip", "route", "add", f"198.18.{beyond}.0/24", "via", f"198.18.{place + 1}.2")
        inside(pid, "ip", "route", "add", f"2001:db8:{beyond}::/64", "via", f"2001:db8:{place + 1}::2")


_DATAGRAMS = """
import socket, sys
address, port = sys.argv[1:]
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((address, int(port)))
print(flush=True)
while True:
    sock.sendto(*sock.recvfrom(65535))
"""
_ONE_STREAM = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print(flush=True)
    sock = server.accept()[0]
while data := sock.recv(65536):
    sock.sendall(data)
"""


def echo(pid: int, address: str, port: int, *, stream: bool = False) -> subprocess.Popen[bytes]:
    """A process in the network namespace of `pid` that answers datagrams, or one stream, with what it gets.

    It runs when this returns.
    """
    program = _ONE_STREAM if stream else _DATAGRAMS
    command = ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", program, address, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    return process
