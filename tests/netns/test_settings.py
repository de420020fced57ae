"""What a network cannot be is said in a sentence."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from netns.errors import NetworkError
from netns.resolver import Resolver, nameservers
from netns.settings import PublishedPort, Settings


@pytest.mark.parametrize(
    "values",
    [
        {"mtu": 65522}, {"mtu": 575}, {"mtu": 575, "ipv6": False}, {"cidr": "10.0.2.0/26"}, {"cidr": "nonsense"},
        {"cidr": "127.0.0.0/8"}, {"cidr6": "fd00::/48"}, {"cidr6": "fe80::/64"}, {"interface": ""},
        {"interface": "a" * 16}, {"interface": "a/b"}, {"dns": ("example.org",)}, {"mac": "01:00:00:00:00:00"},
        {"behind_gateway": "x"}, {"outbound": "::1"}, {"outbound6": "127.0.0.1"}, {"outbound": "a b"}, {"outbound": ""},
        {"publish": (PublishedPort(0, 1),)}, {"publish": (PublishedPort(1, 65535, count=2),)},
        {"publish": (PublishedPort(1, path="/x", protocol="udp"),)},
        {"publish": (PublishedPort(1, path="/x", count=2),)},
        {"publish": (PublishedPort(1, 1, "host"),)}, {"publish": (PublishedPort(1, 1, protocol="sctp"),)},
    ],
)  # fmt: skip
def test_impossible_settings(values: dict[str, Any]) -> None:
    with pytest.raises(NetworkError):
        Settings(**values)


def test_addresses() -> None:
    addresses = Settings(cidr="192.168.7.1/24").addresses()
    assert socket.inet_ntoa(addresses.guest) == "192.168.7.100"
    assert socket.inet_ntoa(addresses.broadcast) == "192.168.7.255"
    assert Settings(ipv6=False).addresses().guest6 is None
    assert Settings(mtu=1279).addresses().guest6 is None


def test_outbound_is_an_address_or_an_interface() -> None:
    assert Settings(outbound="192.0.2.1", outbound6="2001:db8::1").outbound6 == "2001:db8::1"
    assert Settings(outbound="eth0", outbound6="wg-home").outbound == "eth0"


def test_ranges_of_ports() -> None:
    ports = PublishedPort(80, 8080, "::1", "udp", count=3)
    assert str(ports) == "[::1]:8080-8082/udp"
    assert [(port.container_port, port.host_port) for port in ports.expanded()] == [(80, 8080), (81, 8081), (82, 8082)]
    assert [port.host_port for port in PublishedPort(80, count=2).expanded()] == [0, 0]


def test_resolv_conf_is_read_as_the_c_library_does(tmp_path: Any) -> None:
    text = "# comment\nnameserver 127.0.0.53\nnameserver\nnameserver bad\n nameserver fe80::1%eth0\noptions x\n"
    assert nameservers(text) == [("127.0.0.53", 53), ("fe80::1%eth0", 53)]
    assert len(nameservers("nameserver 10.0.0.1\n" * 9)) == 3
    path = tmp_path / "resolv.conf"
    resolver = Resolver(path=str(path))
    assert resolver.servers() == [("127.0.0.1", 53)]
    path.write_text("nameserver 192.0.2.1\n")
    resolver._looked = float("-inf")
    assert resolver.servers() == [("192.0.2.1", 53)]
    path.write_text("nameserver 192.0.2.2\nnameserver 192.0.2.3\n")
    resolver._looked = float("-inf")
    assert resolver.servers() == [("192.0.2.2", 53), ("192.0.2.3", 53)]
    assert Resolver(("192.0.2.9",)).servers() == [("192.0.2.9", 53)]
