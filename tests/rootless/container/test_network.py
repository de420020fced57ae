"""What a container's network becomes on the host's side."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

import netns.process
from rootless.container import network
from rootless.container.options import Link
from rootless.container.record import Network
from rootless.errors import HostError, UsageError


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.2.15", None])
def test_the_gateway_leads_to_the_host(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.setattr(netns.process, "host_address", lambda *, six=False: None if six else address)
    assert network.reserve(Network(mode="user")).settings.behind_gateway == address
    assert network.reserve(Network(mode="user", host_loopback=True)).settings.behind_gateway is None


def test_a_record_of_an_older_version_is_read() -> None:
    old = b'{"mode":"user","host_loopback":true,"published":[],"dns":["192.0.2.1"],"dns_search":[],"add_hosts":[]}'
    wanted = msgspec.json.decode(old, type=Network)
    assert wanted == Network(mode="user", host_loopback=True, dns=("192.0.2.1",))
    settings = network.reserve(wanted).settings
    assert (settings.mtu, settings.cidr, settings.interface, settings.egress) == (65520, "10.0.2.0/24", "tap0", ())


def test_everything_arrives() -> None:
    link = Link(
        mtu=1500,
        cidr="192.168.7.0/24",
        ipv6=False,
        interface="eth0",
        mac="02:00:00:00:00:07",
        outbound="127.0.0.1",
        outbound6="lo",
        egress=("deny",),
    )
    settings = network.reserve(Network(mode="user", link=link, dns=("192.0.2.1",), dns_search=("a.test", "."))).settings
    assert (settings.mtu, settings.cidr, settings.ipv6, settings.interface) == (1500, "192.168.7.0/24", False, "eth0")
    assert (settings.mac, settings.outbound, settings.outbound6) == ("02:00:00:00:00:07", "127.0.0.1", "lo")
    assert (settings.egress, settings.dns, settings.search) == (("deny",), ("192.0.2.1",), ("a.test",))


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (Link(outbound="192.0.2.77"), "192.0.2.77"),
        (Link(outbound6="nosuchlink0"), "nosuchlink0"),
        (Link(pcap="/no/such/file"), "/no/such/file"),
    ],
)
def test_what_the_machine_cannot_provide(link: Link, words: str) -> None:
    with pytest.raises(HostError, match=words):
        network.reserve(Network(mode="user", link=link))


def test_a_capture_is_only_the_users_to_read(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    network.reserve(Network(mode="user", link=Link(pcap=str(path))))
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "link", [Link(mtu=575), Link(cidr="10.0.0.0/26"), Link(mac="x"), Link(interface="a/b"), Link(egress=("permit",))]
)
def test_networks_that_cannot_be(link: Link) -> None:
    with pytest.raises(UsageError):
        network.check(Network(mode="user", link=link))


def test_as_the_flag_takes_it() -> None:
    assert str(Network(mode="user")) == "user" and str(Network(mode="ns", target="/a")) == "ns:/a"


def test_rules_know_the_names_in_the_containers_hosts() -> None:
    """Nobody asks the network for their addresses, so it could not know them."""
    rules = (
        "deny",
        "allow=Host.containers.internal:80/tcp",
        "allow=db",
        "allow=six:1-2",
        "deny=a.test",
        "allow=*.db",
    )
    wanted = Network(
        mode="user",
        link=Link(cidr="192.168.7.0/24", egress=rules),
        add_hosts=("db:192.0.2.1", "db:2001:db8::1", "six:2001:db8::2", "up:host-gateway"),
    )
    assert network.reserve(wanted).settings.egress == (
        "deny",
        "allow=192.168.7.2:80/tcp",
        "allow=[fd00::2]:80/tcp",
        "allow=Host.containers.internal:80/tcp",
        "allow=192.0.2.1",
        "allow=[2001:db8::1]",
        "allow=db",
        "allow=[2001:db8::2]:1-2",
        "allow=six:1-2",
        "deny=a.test",
        "allow=*.db",
    )
