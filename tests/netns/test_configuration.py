"""What a guest that configures itself is told."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.configuration import dhcp_answer, dhcpv6_answer, search_list
from netns.settings import Settings
from netns.wire import dhcp, dhcpv6
from netns.wire.dhcp import DhcpMessage
from netns.wire.dhcpv6 import Association, Dhcpv6Message, Options
from netns.wire.error import WireError

ADDRESSES = Settings().addresses()
MAC = b"\x52\x55\x0a\0\2\2"
OURS = b"\0\3\0\1" + MAC
CLIENT = (dhcpv6.OPTION_CLIENT, b"client")
SERVER = (dhcpv6.OPTION_SERVER, OURS)
GUEST6 = socket.inet_pton(socket.AF_INET6, "fd00::100")
OTHER6 = socket.inet_pton(socket.AF_INET6, "fd00::7")


def association(*addresses: bytes, identifier: bytes = b"\0\0\0\1") -> tuple[int, bytes]:
    options = [(dhcpv6.OPTION_IA_ADDRESS, dhcpv6.address(address, 0, 0)) for address in addresses]
    return dhcpv6.OPTION_IA_NA, Association(identifier, options).to_bytes()


def ask6(kind: int, *options: tuple[int, bytes]) -> Dhcpv6Message | None:
    request = Dhcpv6Message(kind, b"abc", list(options))
    return dhcpv6_answer(request, ADDRESSES, MAC, dns=True, search=("corp.example",))


def granted(answer: Dhcpv6Message) -> list[tuple[bytes, Options]]:
    return [
        (parsed.identifier, parsed.options)
        for code, value in answer.options
        if code == dhcpv6.OPTION_IA_NA
        for parsed in (Association.parse(value),)
    ]


def ask(*, search: tuple[str, ...] = ()) -> DhcpMessage:
    request = DhcpMessage(dhcp.BOOT_REQUEST, 1, b"\2" * 6, options={dhcp.OPTION_MESSAGE_TYPE: b"\1"})
    answer = dhcp_answer(request, ADDRESSES, 1500, dns=True, search=search)
    assert answer is not None
    return DhcpMessage.parse(answer.to_bytes())


def test_search_domains_in_dhcp() -> None:
    options = ask(search=("corp.example", "example")).options
    assert options[119] == b"\4corp\7example\0\7example\0"
    assert options[15] == b"corp.example"
    assert not {119, 15} & set(ask().options)


def test_search_domains_that_are_odd_or_too_many_are_left_out() -> None:
    assert search_list(["", ".", "a" * 64, "ü.example", "a..b", "b.example."]) == b"\1b\7example\0"
    many = search_list([f"{'x' * 40}{number}.example" for number in range(9)])
    assert 0 < len(many) <= 160
    assert len(ask(search=("x" * 63 + ".example",) * 9).to_bytes()) <= 548


@given(st.lists(st.text(max_size=70), max_size=5))
def test_any_text_may_stand_in_the_hosts_file(domains: list[str]) -> None:
    assert len(search_list(domains)) <= 160
    assert len(ask(search=tuple(domains)).to_bytes()) <= 548


def test_a_client_solicits_and_requests() -> None:
    offer = ask6(dhcpv6.SOLICIT, CLIENT, association())
    assert offer is not None and offer.kind == dhcpv6.ADVERTISE and offer.transaction == b"abc"
    assert offer.options[:2] == [CLIENT, SERVER]
    ((identifier, options),) = granted(offer)
    assert identifier == b"\0\0\0\1" and [value[:16] for _, value in options] == [GUEST6]
    assert offer.get(dhcpv6.OPTION_DNS) == socket.inet_pton(socket.AF_INET6, "fd00::3")
    assert offer.get(dhcpv6.OPTION_SEARCH) == b"\4corp\7example\0"
    reply = ask6(dhcpv6.REQUEST, CLIENT, SERVER, association(GUEST6))
    assert reply is not None and reply.kind == dhcpv6.REPLY and granted(reply) == granted(offer)


def test_rapid_commit() -> None:
    reply = ask6(dhcpv6.SOLICIT, CLIENT, (dhcpv6.OPTION_RAPID_COMMIT, b""), association())
    assert reply is not None and reply.kind == dhcpv6.REPLY
    assert reply.get(dhcpv6.OPTION_RAPID_COMMIT) == b""


@pytest.mark.parametrize(("kind", "server"), [(dhcpv6.RENEW, (SERVER,)), (dhcpv6.REBIND, ())])
def test_addresses_that_are_not_ours_run_out(kind: int, server: tuple[tuple[int, bytes], ...]) -> None:
    reply = ask6(kind, CLIENT, *server, association(OTHER6), association(identifier=b"\0\0\0\2"))
    assert reply is not None
    (_, first), (_, second) = granted(reply)
    assert first[0][1][:16] == GUEST6
    assert first[1][1] == dhcpv6.address(OTHER6, 0, 0)
    assert second == [(dhcpv6.OPTION_STATUS, dhcpv6.status(dhcpv6.NO_ADDRESSES, "there is one address"))]


def test_confirm_release_decline_and_prefixes() -> None:
    for address, code in ((GUEST6, dhcpv6.SUCCESS), (OTHER6, dhcpv6.NOT_ON_LINK)):
        reply = ask6(dhcpv6.CONFIRM, CLIENT, association(address))
        assert reply is not None and reply.get(dhcpv6.OPTION_STATUS) == dhcpv6.status(code)
    assert ask6(dhcpv6.CONFIRM, CLIENT, association()) is None
    for kind in (dhcpv6.RELEASE, dhcpv6.DECLINE):
        reply = ask6(kind, CLIENT, SERVER, association(GUEST6))
        assert reply is not None and reply.get(dhcpv6.OPTION_STATUS) == dhcpv6.status(dhcpv6.SUCCESS)
    reply = ask6(dhcpv6.REQUEST, CLIENT, SERVER, (dhcpv6.OPTION_IA_PD, bytes(12)))
    delegated = reply.get(dhcpv6.OPTION_IA_PD) if reply is not None else None
    assert delegated is not None
    assert Association.parse(delegated).options[0][1][:2] == b"\0\6"


def test_information_only() -> None:
    reply = ask6(dhcpv6.INFORMATION_REQUEST)
    assert reply is not None
    assert [code for code, _ in reply.options] == [dhcpv6.OPTION_SERVER, dhcpv6.OPTION_DNS, dhcpv6.OPTION_SEARCH]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (dhcpv6.SOLICIT, []), (dhcpv6.SOLICIT, [CLIENT, SERVER]), (dhcpv6.REQUEST, [CLIENT]),
        (dhcpv6.REQUEST, [SERVER]), (dhcpv6.REBIND, [CLIENT, SERVER]),
        (dhcpv6.REQUEST, [CLIENT, (dhcpv6.OPTION_SERVER, b"another")]),
        (dhcpv6.REPLY, [CLIENT, SERVER]), (dhcpv6.ADVERTISE, [CLIENT]), (12, [CLIENT]), (0, [CLIENT]),
        (dhcpv6.INFORMATION_REQUEST, [(dhcpv6.OPTION_SERVER, b"another")]),
    ],
)  # fmt: skip
def test_what_is_not_for_us_is_not_answered(kind: int, options: Options) -> None:
    assert ask6(kind, *options) is None


def test_without_ipv6_nobody_answers() -> None:
    addresses = Settings(ipv6=False).addresses()
    assert dhcpv6_answer(Dhcpv6Message(dhcpv6.SOLICIT, b"abc", [CLIENT]), addresses, MAC, dns=True) is None


@given(st.integers(0, 13), st.lists(st.tuples(st.sampled_from((1, 2, 3, 5, 13, 14, 25)), st.binary(max_size=40))))
def test_no_options_break_it(kind: int, options: Options) -> None:
    for request in (options, [CLIENT, *options], [CLIENT, SERVER, *options]):
        try:
            answer = ask6(kind, *request)
        except WireError:
            continue
        assert answer is None or Dhcpv6Message.parse(answer.to_bytes()) == answer


@given(st.dictionaries(st.sampled_from((50, 53, 54, 12, 55)), st.binary(max_size=8)), st.integers(0, 3))
def test_no_options_of_dhcp_break_it(options: dict[int, bytes], operation: int) -> None:
    answer = dhcp_answer(DhcpMessage(operation, 1, b"\2" * 6, options=options), ADDRESSES, 1500, dns=True)
    assert answer is None or DhcpMessage.parse(answer.to_bytes()).transaction == 1
