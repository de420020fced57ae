"""/etc/hosts and /etc/resolv.conf as text."""

from __future__ import annotations

import pytest

from netns.settings import Settings
from rootless.container.etcfiles import hosts, parse_resolv_conf, resolv_conf, with_search
from rootless.container.record import Network

PLAIN = Settings().addresses()

HOST = """\
127.0.0.1 localhost
127.0.1.1 machine.example machine # comment
::1 localhost ip6-localhost
nonsense line
300.1.1.1 bad
"""


def names(text: str) -> dict[str, str]:
    """The first address of each name, as a resolver takes it."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        address, *aliases = line.split()
        for name in aliases:
            found.setdefault(name, address)
    return found


def test_user_network() -> None:
    found = names(hosts(HOST, Network(mode="user"), PLAIN, hostname="box", name="calm_curie"))
    assert found["localhost"] == "127.0.0.1" and found["machine"] == "127.0.1.1"
    assert found["box"] == found["calm_curie"] and found["box"].startswith("10.")
    assert found["host.containers.internal"] == found["host.docker.internal"] != found["box"]
    assert found["host.containers.internal"] == "10.0.2.2"
    assert "bad" not in found and "line" not in found and "comment" not in found


@pytest.mark.parametrize("mode", ["none", "host"])
def test_other_networks(mode: str) -> None:
    assert names(hosts(HOST, Network(mode=mode), PLAIN, hostname="box", name="x"))["box"] == "127.0.0.1"


def test_what_the_user_adds_comes_first() -> None:
    network = Network(mode="user", add_hosts=("machine:192.0.2.1", "six:2001:db8::1", "up:host-gateway"))
    found = names(hosts(HOST, network, PLAIN, hostname="box", name="x"))
    assert (found["machine"], found["six"]) == ("192.0.2.1", "2001:db8::1")
    assert found["up"] == found["host.containers.internal"]


def test_the_containers_names_are_not_the_hosts() -> None:
    """A container that is called as this machine is reaches itself by that name."""
    found = names(hosts("192.0.2.9 box other\n", Network(mode="user"), PLAIN, hostname="box", name="x"))
    assert found["box"].startswith("10.") and found["other"] == "192.0.2.9"


def test_another_network() -> None:
    addresses = Settings(cidr="192.168.7.0/24").addresses()
    network = Network(mode="user", add_hosts=("up:host-gateway",))
    found = names(hosts(HOST, network, addresses, hostname="box", name="x"))
    assert found["host.containers.internal"] == found["up"] == "192.168.7.2" and found["box"] == "192.168.7.100"
    assert resolv_conf("", network, addresses) == "nameserver 192.168.7.3\n"


def test_no_hosts_file() -> None:
    assert names(hosts("", Network(mode="none"), PLAIN, hostname="box", name="x"))["localhost"] == "127.0.0.1"


def test_resolv_conf() -> None:
    text = (
        "# c\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver nonsense\n"
        "search a.test b.test\noptions ndots:2 ; c\n"
    )
    assert parse_resolv_conf(text) == (["192.0.2.1", "fe80::1%eth0"], ["a.test", "b.test"], ["ndots:2"])
    assert resolv_conf(text, Network(mode="host"), PLAIN).splitlines() == [
        "search a.test b.test",
        "nameserver 192.0.2.1",
        "nameserver fe80::1%eth0",
        "options ndots:2",
    ]
    assert resolv_conf(text, Network(mode="user"), PLAIN).splitlines()[1:] == ["nameserver 10.0.2.3", "options ndots:2"]


def test_the_users_servers_and_domains() -> None:
    """The relay of a user-mode network asks the user's servers: a container that asked them itself would pass it by."""
    host = "nameserver 1.1.1.1\nsearch a\n"
    network = Network(mode="user", dns=("192.0.2.53",), dns_search=("x.test",))
    assert resolv_conf(host, network, PLAIN) == "search x.test\nnameserver 10.0.2.3\n"
    assert resolv_conf(host, Network(mode="none", dns=("192.0.2.53",)), PLAIN) == "search a\nnameserver 192.0.2.53\n"
    assert resolv_conf("search a\n", Network(mode="user", dns_search=(".",)), PLAIN) == "nameserver 10.0.2.3\n"


def test_the_host_has_an_address_of_ipv6_where_the_network_has() -> None:
    for settings, there in ((Settings(), True), (Settings(ipv6=False), False), (Settings(mtu=1000), False)):
        text = hosts(HOST, Network(mode="user"), settings.addresses(), hostname="box", name="x")
        assert ("fd00::2\thost.containers.internal host.docker.internal\n" in text) is there


def test_other_domains_for_short_names() -> None:
    text = "search old.example\n# kept\nnameserver 10.0.2.3\ndomain x\n\noptions ndots:2\n"
    rest = "# kept\nnameserver 10.0.2.3\n\noptions ndots:2\n"
    assert with_search(text, ("a.example", "b")) == "search a.example b\n" + rest
    assert with_search(text, ()) == rest
    assert with_search(rest, ("a",)) == "search a\n" + rest
