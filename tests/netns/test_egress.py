"""The language of the rules, what they let through, and what is remembered of the rest."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.egress import Egress, parse
from netns.errors import NetworkError


def pack(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def allows(rules: str, address: str, port: int, protocol: str = "tcp", name: str | None = None) -> bool:
    egress = parse(rules.split())
    if name is not None:
        egress.heard(name, [pack(address)], 60)
    return egress.allows(pack(address), port, protocol)


@pytest.mark.parametrize(
    ("rules", "address", "port", "allowed"),
    [
        ("", "192.0.2.1", 80, True),
        ("deny", "192.0.2.1", 80, False),
        ("deny", "2001:db8::1", 80, False),
        ("allow", "192.0.2.1", 80, True),
        ("allow=10.0.0.0/8", "10.255.0.1", 80, True),
        ("allow=10.0.0.0/8", "11.0.0.1", 80, False),
        ("allow=10.0.0.0/8", "a00::1", 80, False),
        ("allow=10.1.2.3/8", "10.9.9.9", 80, True),  # host bits do not matter
        ("deny=169.254.0.0/16", "169.254.169.254", 80, False),
        ("deny=169.254.0.0/16", "192.0.2.1", 80, True),
        ("allow deny=192.0.2.1 allow=192.0.2.0/24", "192.0.2.1", 80, False),
        ("allow=192.0.2.1 deny=192.0.2.0/24 allow", "192.0.2.1", 80, True),
        ("allow=192.0.2.1:443", "192.0.2.1", 443, True),
        ("allow=192.0.2.1:443", "192.0.2.1", 80, False),
        ("allow=192.0.2.0/24:8000-8002/tcp", "192.0.2.9", 8002, True),
        ("allow=192.0.2.0/24:8000-8002", "192.0.2.9", 8003, False),
        ("allow=192.0.2.1/udp", "192.0.2.1", 80, False),
        ("allow=any:443", "2001:db8::1", 443, True),
        ("allow=any:443", "2001:db8::1", 80, False),
        ("allow=*:443", "192.0.2.1", 443, True),
        ("allow=2001:db8::/32", "2001:db8::1", 80, True),
        ("allow=2001:db8::1", "2001:db8::1", 80, True),
        ("allow=[2001:db8::]/32:443", "2001:db8::1", 443, True),
        ("allow=[2001:db8::/32]:443", "2001:db8::1", 443, True),
        ("allow=[2001:db8::/32]:443/tcp", "2001:db8::1", 80, False),
        ("deny allow=[2001:db8::1]", "2001:db8::1", 80, True),
        ("allow=0.0.0.0/0", "2001:db8::1", 80, False),
    ],
)
def test_addresses_and_ports(rules: str, address: str, port: int, allowed: bool) -> None:
    assert allows(rules, address, port) is allowed


@pytest.mark.parametrize(
    ("rules", "name", "allowed"),
    [
        ("allow=deb.debian.org", "deb.debian.org", True),
        ("allow=Deb.Debian.Org.", "DEB.debian.org.", True),
        ("allow=deb.debian.org", "xdeb.debian.org", False),
        ("allow=deb.debian.org", None, False),
        ("allow=*.debian.org:443", "deb.debian.org", True),
        ("allow=*.debian.org:443", "a.b.debian.org", True),
        ("allow=*.debian.org:443", "debian.org", False),
        ("allow=*.debian.org:443", "evildebian.org", False),
        ("allow=*.debian.org:80", "deb.debian.org", False),
        ("deny=*.example", "a.example", False),
        ("deny=*.example", "b.test", True),
        ("allow=localhost", "localhost", True),
        ("allow=_srv._tcp.example", "_srv._tcp.example", True),
    ],
)
def test_names(rules: str, name: str | None, allowed: bool) -> None:
    assert allows(rules, "192.0.2.1", 443, "tcp", name) is allowed


def test_protocols() -> None:
    assert allows("allow=192.0.2.1", "192.0.2.1", 0, "icmp")
    assert allows("allow=any/icmp", "192.0.2.1", 0, "icmp")
    assert not allows("allow=any:1-65535", "192.0.2.1", 0, "icmp")
    assert not allows("allow=any/icmp", "192.0.2.1", 80, "tcp")
    assert allows("allow=any:123/udp", "192.0.2.1", 123, "udp")
    assert not allows("allow=any:123/udp", "192.0.2.1", 123, "tcp")


@pytest.mark.parametrize(
    ("rules", "name", "allowed"),
    [
        ("", "anything.example", True),
        ("deny", "anything.example", False),
        ("deny", "", False),
        ("allow=10.0.0.0/8", "db.example", True),  # names are needed to find what is in there
        ("allow=any:443", "db.example", True),
        ("allow=*.debian.org:443", "deb.debian.org", True),
        ("allow=*.debian.org:443", "DEB.debian.org.", True),
        ("allow=*.debian.org:443", "data-carried-out.example", False),
        ("allow=*.debian.org:443 allow=10.0.0.0/8", "db.example", False),
        ("allow=*.debian.org:443 allow=any:80", "db.example", True),
        ("deny=*.example", "a.example", False),
        ("deny=*.example:25", "a.example", True),  # the other ports are allowed
        ("deny=any", "a.example", False),
        ("deny=10.0.0.0/8", "a.example", True),
    ],
)
def test_which_names_may_be_asked_for(rules: str, name: str, allowed: bool) -> None:
    assert parse(rules.split()).may_ask(name) is allowed


@pytest.mark.parametrize(
    "rule",
    [
        "", "permit", "allow=", "deny=:80", "allow=a.example:0", "allow=a.example:70000", "allow=a.example:9-8",
        "allow=any/sctp", "allow=any:1/icmp", "allow=300.1.1.1", "allow=10.0.0.0/33", "allow=a..example",
        "allow=*.*.example", "allow=[a.example]:1", "allow=http://a.example/", "allow=-a.example", "allow=ex ample",
        "allow=*.", "allow=" + "a" * 64, "allow=" + "a." * 127, "allow=a.example:99999999999999999999", "allow=[::1",
        "allow=münchen.example",
    ],
)  # fmt: skip
def test_what_is_no_rule(rule: str) -> None:
    with pytest.raises(NetworkError, match="cannot be used"):
        parse([rule])


def test_two_defaults_are_one_too_many() -> None:
    with pytest.raises(NetworkError, match="two defaults"):
        parse(["allow", "deny"])
    assert not parse(["deny", "deny"]).allows(pack("192.0.2.1"), 1, "tcp")


@given(st.text(max_size=60) | st.from_regex(r"(allow|deny)=[0-9a-f.:/*\[\]-]{0,40}(/tcp)?", fullmatch=True))
def test_any_text_is_a_rule_or_the_one_error(rule: str) -> None:
    try:
        egress = parse([rule])
    except NetworkError:
        return
    assert isinstance(egress.allows(b"\x0a\0\0\1", 80, "tcp"), bool)
    assert isinstance(egress.allows(bytes(16), 0, "icmp"), bool)
    assert isinstance(egress.may_ask("a.example"), bool)


def test_what_was_refused_is_counted_and_bounded() -> None:
    egress = parse(["allow=*.example"])
    for _ in range(3):
        assert not egress.allows(pack("192.0.2.1"), 443, "tcp")
    assert not egress.may_ask("carried.out.test")
    assert [(d.far, d.port, d.protocol, d.count) for d in egress.denied] == [
        ("192.0.2.1", 443, "tcp", 3), ("carried.out.test", 53, "dns", 1),
    ]  # fmt: skip
    for port in range(1000):
        egress.allows(pack("192.0.2.2"), port, "udp")
    assert len(egress.denied) == 256
    assert egress.denied[-1].port == 999


def test_a_refusal_names_what_it_was_about() -> None:
    egress = parse(["allow=10.0.0.0/8"])
    egress.heard("mail.example", [pack("192.0.2.1")], 60)
    assert egress.refusal(pack("192.0.2.1"), 25, "tcp") == (
        "refused by the egress rules: tcp to mail.example (192.0.2.1), port 25"
    )
    assert egress.refusal(pack("2001:db8::1"), 0, "icmp") == "refused by the egress rules: icmp to 2001:db8::1"


def test_names_hold_as_long_as_they_were_given_or_are_used() -> None:
    now = 0.0
    egress = parse(["allow=a.example"], clock=lambda: now)
    egress.heard("a.example", [pack("192.0.2.1"), pack("192.0.2.2")], 5000)
    now = 4999.0
    assert egress.allows(pack("192.0.2.1"), 443, "tcp")
    now = 5001.0
    assert egress.allows(pack("192.0.2.1"), 443, "tcp")
    assert not egress.allows(pack("192.0.2.2"), 443, "tcp")


def test_without_rules_everything_is_allowed_and_nothing_counted() -> None:
    egress = Egress()
    assert egress.allows(pack("192.0.2.1"), 443, "tcp") and egress.may_ask("a.example")
    assert egress.denied == []
