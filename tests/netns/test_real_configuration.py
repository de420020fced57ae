"""A guest that configures itself, with the tools that guests have: rdisc6, the kernel, busybox's DHCP client."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns.wire import dhcpv6
from netns.wire.dhcpv6 import Association, Dhcpv6Message
from tests.netns.command import a_guest, in_guest, slirp

pytestmark = [pytest.mark.userns, pytest.mark.tun]

# Asks by DHCPv6 from the port that clients have; prints the answer's bytes.
SOLICIT = """
import socket, sys
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.settimeout(20)
sock.bind(("::", 546))
sock.sendto(bytes.fromhex(sys.argv[1]), ("ff02::1:2", 547, 0, socket.if_nametoindex("tap0")))
answer, source = sock.recvfrom(2000)
print(answer.hex(), source[0].partition("%")[0], source[1])
"""


@pytest.fixture
def guest() -> Iterator[int]:
    with a_guest() as pid:
        yield pid


def test_router_advertisements_as_rdisc6_and_the_kernel_read_them(guest: int) -> None:
    with slirp("-6", str(guest), "tap0"):
        in_guest(guest, "sysctl", "-w", "net.ipv6.conf.tap0.accept_dad=0")
        in_guest(guest, "ip", "link", "set", "tap0", "up")
        said = in_guest(guest, "rdisc6", "-1", "tap0")
        for line in (
            "Stateful address conf.    :          Yes",
            "Router lifetime           :         1800",
            "Prefix                   : fd00::/64",
            "Recursive DNS server     : fd00::3",
            "from fe80::2",
        ):
            assert line in said
        assert "default via fe80::2" in in_guest(guest, "ip", "-6", "route", "show", "dev", "tap0")


def test_dhcpv6_over_the_link(guest: int) -> None:
    association = Association(b"\0\0\0\1").to_bytes()
    options = [(dhcpv6.OPTION_CLIENT, b"client"), (dhcpv6.OPTION_RAPID_COMMIT, b""), (dhcpv6.OPTION_IA_NA, association)]
    with slirp("-6", str(guest), "tap0"):
        in_guest(guest, "sysctl", "-w", "net.ipv6.conf.tap0.accept_dad=0")
        in_guest(guest, "ip", "link", "set", "tap0", "up")
        asked = Dhcpv6Message(dhcpv6.SOLICIT, b"abc", options).to_bytes().hex()
        answer, source, port = in_guest(guest, sys.executable, "-c", SOLICIT, asked).split()
    assert (source, port) == ("fe80::2", "547")
    reply = Dhcpv6Message.parse(bytes.fromhex(answer))
    lease = reply.get(dhcpv6.OPTION_IA_NA)
    assert reply.kind == dhcpv6.REPLY and lease is not None
    assert Association.parse(lease).addresses() == [socket.inet_pton(socket.AF_INET6, "fd00::100")]
    assert reply.get(dhcpv6.OPTION_DNS) == socket.inet_pton(socket.AF_INET6, "fd00::3")


def test_busybox_is_leased_an_address(guest: int, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && echo "got $ip $mask $router $dns $mtu $lease"\nexit 0\n')
    script.chmod(0o755)
    with slirp("--cidr", "172.30.7.0/24", str(guest), "tap0"):
        in_guest(guest, "ip", "link", "set", "tap0", "up")
        said = in_guest(guest, "busybox", "udhcpc", "-i", "tap0", "-n", "-q", "-f", "-s", str(script), "-O", "mtu")
    assert "got 172.30.7.100 24 172.30.7.2 172.30.7.3 65520 86400" in said
