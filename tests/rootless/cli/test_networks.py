"""--network: what it says, and in which words it is refused."""

from __future__ import annotations

import pytest

from rootless.cli.networks import Choice, parse_address, parse_extra_host, parse_network
from rootless.container.options import Link
from rootless.errors import UsageError


def parse(text: str) -> Choice:
    return parse_network(text, "/where")


@pytest.mark.parametrize("name", ["user", "slirp4netns", "pasta", "private", "bridge", "default"])
def test_the_users_network_has_many_names(name: str) -> None:
    assert parse(name) == Choice(mode="user")


@pytest.mark.parametrize("name", ["none", "host"])
def test_networks_without_options(name: str) -> None:
    assert parse(name) == Choice(mode=name)


def test_networks_of_others() -> None:
    assert parse("container:web") == Choice(mode="container", target="web")
    assert parse("ns:/proc/1/ns/net") == Choice(mode="ns", target="/proc/1/ns/net")
    assert parse("ns:there") == Choice(mode="ns", target="/where/there")


@pytest.mark.parametrize(
    ("options", "link"),
    [
        ("mtu=1500", Link(mtu=1500)),
        ("cidr=192.168.7.0/24", Link(cidr="192.168.7.0/24")),
        ("enable_ipv6=false", Link(ipv6=False)),
        ("outbound_addr=192.0.2.1", Link(outbound="192.0.2.1")),
        ("outbound_addr=eth0,outbound_addr6=eth1", Link(outbound="eth0", outbound6="eth1")),
        ("outbound_addr6=2001:db8::1", Link(outbound6="2001:db8::1")),
    ],
)
@pytest.mark.parametrize("name", ["user", "slirp4netns"])
def test_options(name: str, options: str, link: Link) -> None:
    assert parse(f"{name}:{options}").link == link


def test_options_of_the_users_network() -> None:
    found = parse("user:interface=eth0,mac=02:00:00:00:00:01,ipv6=false,dns=192.0.2.1,dns=192.0.2.2")
    assert found.link == Link(interface="eth0", mac="02:00:00:00:00:01", ipv6=False)
    assert found.dns == ("192.0.2.1", "192.0.2.2")


def test_who_leads_ports_in_makes_no_difference() -> None:
    assert parse("slirp4netns:port_handler=slirp4netns,mtu=1500") == parse("slirp4netns:mtu=1500")


@pytest.mark.parametrize("name", ["user", "slirp4netns"])
def test_the_hosts_loopback(name: str) -> None:
    assert parse(f"{name}:allow_host_loopback=true").host_loopback
    assert not parse(f"{name}:allow_host_loopback=false").host_loopback


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("-m,1500", Choice(mode="user", link=Link(mtu=1500))),
        ("--mtu=1500,--ipv4-only", Choice(mode="user", link=Link(mtu=1500, ipv6=False))),
        ("-a,192.168.7.100,-n,24,-g,192.168.7.2", Choice(mode="user", link=Link(cidr="192.168.7.0/24"))),
        ("-a,192.168.7.100/25", Choice(mode="user", link=Link(cidr="192.168.7.0/25"))),
        ("-n,255.255.0.0", Choice(mode="user", link=Link(cidr="10.0.0.0/16"))),
        (
            "-I,eth0,--ns-mac-addr,02:00:00:00:00:01",
            Choice(mode="user", link=Link(interface="eth0", mac="02:00:00:00:00:01")),
        ),
        ("-D,192.0.2.1,-S,a.test,--search,none", Choice(mode="user", dns=("192.0.2.1",), dns_search=("a.test", "."))),
        ("-o,192.0.2.1,-o,2001:db8::1", Choice(mode="user", link=Link(outbound="192.0.2.1", outbound6="2001:db8::1"))),
        ("--outbound-if4,eth0,--outbound-if6,eth1", Choice(mode="user", link=Link(outbound="eth0", outbound6="eth1"))),
        ("--map-gw", Choice(mode="user", host_loopback=True)),
        ("--map-gw,--no-map-gw", Choice(mode="user")),
        ("--map-host-loopback,10.0.2.2", Choice(mode="user", host_loopback=True)),
        ("--map-host-loopback=none,--dns-forward,10.0.2.3", Choice(mode="user")),
        ("-p,dump", Choice(mode="user", link=Link(pcap="/where/dump"))),
        ("--config-net,-q,-f,--no-dhcp-dns,-t,none,-T,none,-U,none", Choice(mode="user")),
    ],
)
def test_options_of_pasta(options: str, expected: Choice) -> None:
    assert parse(f"pasta:{options}") == expected


def test_ports_of_pasta() -> None:
    found = parse("pasta:-t,127.0.0.1/8080:80,-u,53,-t,9000-9001").published
    assert [(port.host_ip, port.host_port, port.container_port, port.protocol) for port in found] == [
        ("127.0.0.1", 8080, 80, "tcp"),
        ("", 53, 53, "udp"),
        ("", 9000, 9000, "tcp"),
        ("", 9001, 9001, "tcp"),
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", '""'),
        ("x", '"x"'),
        ("none:mtu=1500", "mtu=1500"),
        ("host:", "host"),
        ("container:", "container"),
        ("ns:", "ns:"),
        ("user:nonsense", "nonsense"),
        ("user:mtu=1k", "mtu=1k"),
        ("user:mtu=99999999999999999999", "mtu"),
        ("user:mtu=500", "500"),
        ("user:cidr=", "cidr="),
        ("user:cidr=10.0.0.0/30", "10.0.0.0/30"),
        ("user:enable_ipv6=maybe", "maybe"),
        ("user:outbound_addr=2001:db8::1", "2001:db8::1"),
        ("user:outbound_addr6=192.0.2.1", "192.0.2.1"),
        ("user:outbound_addr=a/b", "a/b"),
        ("user:dns=localhost", "localhost"),
        ("user:mac=xyz", "xyz"),
        ("user:interface=", "interface="),
        ("user:port_handler=rootlesskit", "port_handler"),
        ("slirp4netns:port_handler=x", "port_handler=x"),
        ("slirp4netns:mac=02:00:00:00:00:01", "mac="),
        ("pasta:--nonsense", "nonsense"),
        ("pasta:-z", "-z"),
        ("pasta:-m", "-m"),
        ("pasta:word", "word"),
        ("pasta:-t,auto", "auto"),
        ("pasta:-t,8080:", "8080"),
        ("pasta:-T,auto", "--tcp-ns auto"),
        ("pasta:-6", "--ipv6-only"),
        ("pasta:-i,eth0", "--interface eth0"),
        ("pasta:-D,none", "--dns none"),
        ("pasta:-a,192.168.7.15", "192.168.7.15"),
        ("pasta:-a,2001:db8::1", "2001:db8::1"),
        ("pasta:-g,10.0.2.1", "10.0.2.1"),
        ("pasta:--map-host-loopback,169.254.1.2", "169.254.1.2"),
        ("pasta:--dns-forward,169.254.1.1", "169.254.1.1"),
    ],
)
def test_one_sentence_that_names_what_is_wrong(text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_addresses() -> None:
    assert parse_address("2001:db8::53", "--dns") == "2001:db8::53"
    assert parse_extra_host("c=host-gateway") == "c:host-gateway"
    for text in ("localhost", "", "1.2.3"):
        with pytest.raises(UsageError):
            parse_address(text, "--dns")
