"""Where the guest's addresses lead, and above all where they do not."""

from __future__ import annotations

import socket

import pytest

from netns.reach import Reach, Special
from netns.settings import Settings


def pack(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.0.2.2", "10.0.2.4", "10.0.2.100", "::1", "fd00::2", "fd00::77", "fe80::1",
        "::ffff:127.0.0.1", "::ffff:192.0.2.1", "::127.0.0.1",
    ],
)  # fmt: skip
def test_forbidden_by_default(address: str) -> None:
    assert Reach(Settings()).of(pack(address), 80) is Special.FORBIDDEN


def test_the_gateway_is_the_hosts_loopback_where_that_is_allowed() -> None:
    reach = Reach(Settings(disable_host_loopback=False))
    assert reach.of(pack("10.0.2.2"), 80) == ("127.0.0.1", 80)
    assert reach.of(pack("fd00::2"), 80) == ("::1", 80)
    assert reach.of(pack("127.0.0.1"), 80) is Special.FORBIDDEN


def test_the_gateway_is_the_host_where_that_has_an_address_of_the_guests_network() -> None:
    """Virtual machines behind NAT are 10.0.2.15 by custom (QEMU, VirtualBox)."""
    reach = Reach(Settings(behind_gateway="10.0.2.15"))
    assert reach.of(pack("10.0.2.2"), 80) == ("10.0.2.15", 80)
    for address in ("10.0.2.15", "127.0.0.1"):
        assert reach.of(pack(address), 80) is Special.FORBIDDEN


def test_the_resolver_only_resolves() -> None:
    assert Reach(Settings()).of(pack("10.0.2.3"), 53) is Special.RESOLVER
    assert Reach(Settings()).of(pack("fd00::3"), 53) is Special.RESOLVER
    assert Reach(Settings()).of(pack("10.0.2.3"), 80) is Special.FORBIDDEN
    assert Reach(Settings(disable_dns=True)).of(pack("10.0.2.3"), 53) is Special.FORBIDDEN


def test_everything_else_is_itself() -> None:
    for address in ("192.0.2.1", "10.0.3.1", "2001:db8::1", "fd01::1"):
        assert Reach(Settings()).of(pack(address), 443) == (address, 443)


def test_without_ipv6_its_network_is_not_special() -> None:
    assert Reach(Settings(ipv6=False)).of(pack("fd00::2"), 80) == ("fd00::2", 80)


def test_the_host_behind_the_gateway_is_that_of_the_moment() -> None:
    now, host = 100.0, "192.0.2.1"

    def address(*, six: bool) -> str | None:
        assert not six
        return host or None

    reach = Reach(Settings(behind_gateway="10.0.2.15"), host=address, clock=lambda: now)
    assert reach.of(pack("10.0.2.2"), 80) == ("10.0.2.15", 80)
    now += 5
    assert reach.of(pack("10.0.2.2"), 80) == ("192.0.2.1", 80)
    host = "192.0.2.2"
    assert reach.of(pack("10.0.2.2"), 80) == ("192.0.2.1", 80)  # it is not looked for each time
    reach.forget_host()
    assert reach.of(pack("10.0.2.2"), 80) == ("192.0.2.2", 80)
    host = ""
    now += 5
    assert reach.of(pack("10.0.2.2"), 80) == ("192.0.2.2", 80)  # there is none: it may come back


def test_nobody_looks_for_the_host_where_the_gateway_does_not_lead_there() -> None:
    def address(*, six: bool) -> str:
        raise AssertionError

    for settings in (Settings(), Settings(disable_host_loopback=False)):
        reach = Reach(settings, host=address)
        reach.forget_host()
        reach.of(pack("10.0.2.2"), 80)


def test_the_first_use_is_told_once() -> None:
    reach = Reach(Settings())
    told: list[int] = []
    reach.when_used(lambda: told.append(1))
    reach.of(pack("192.0.2.1"), 80)
    reach.of(pack("192.0.2.1"), 80)
    assert told == [1]


@pytest.mark.parametrize(
    ("four", "six", "datagrams", "dialled"),
    [
        ("192.0.2.1", "2001:db8::1", "192.0.2.1", ["2001:db8::1", "192.0.2.1"]),
        ("192.0.2.1", None, "192.0.2.1", ["192.0.2.1"]),
        (None, "2001:db8::1", "2001:db8::1", ["2001:db8::1"]),
    ],
)
def test_the_gateway_of_ipv6_is_the_host_over_either_family(
    four: str | None, six: str | None, datagrams: str, dialled: list[str]
) -> None:
    wanted = {False: four, True: six}

    def address(*, six: bool) -> str | None:
        return wanted[six]

    reach = Reach(Settings(behind_gateway=four or six), host=address)
    gateway = pack("fd00::2")
    target = reach.of(gateway, 80)
    assert target == (datagrams, 80)
    assert isinstance(target, tuple)
    assert reach.candidates(gateway, target) == [(address, 80) for address in dialled]


def test_whom_to_dial() -> None:
    reach = Reach(Settings(disable_host_loopback=False))
    assert reach.candidates(pack("fd00::2"), ("::1", 1)) == [("::1", 1), ("127.0.0.1", 1)]
    assert reach.candidates(pack("10.0.2.2"), ("127.0.0.1", 1)) == [("127.0.0.1", 1)]
    assert reach.candidates(pack("2001:db8::1"), ("2001:db8::1", 1)) == [("2001:db8::1", 1)]
