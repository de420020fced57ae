"""DHCPv6's formats, well-formed and not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns.wire import dhcpv6
from netns.wire.dhcpv6 import Association, Dhcpv6Message
from netns.wire.error import WireError

OPTIONS = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=30)), max_size=8)


@given(st.integers(0, 255), st.binary(min_size=3, max_size=3), OPTIONS)
def test_messages_come_back(kind: int, transaction: bytes, options: list[tuple[int, bytes]]) -> None:
    message = Dhcpv6Message(kind, transaction, options)
    assert Dhcpv6Message.parse(message.to_bytes()) == message
    assert message.get(70000) is None


@given(st.binary(min_size=4, max_size=4), OPTIONS, st.integers(0, 2**32 - 1))
def test_associations_come_back(identifier: bytes, options: list[tuple[int, bytes]], seconds: int) -> None:
    association = Association(identifier, options, seconds, seconds)
    assert Association.parse(association.to_bytes()) == association


@pytest.mark.parametrize("data", [b"", b"\1\0\0", b"\1\0\0\0\0", b"\1\0\0\0\0\1\0\2x", b"\1\0\0\0" + b"\0\1\0\0" * 65])
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(WireError):
        Dhcpv6Message.parse(data)


def test_addresses_that_are_cut_short() -> None:
    with pytest.raises(WireError):
        Association(b"abcd", [(dhcpv6.OPTION_IA_ADDRESS, bytes(23))]).addresses()
    with pytest.raises(WireError):
        Association.parse(bytes(11))


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    for parse in (Dhcpv6Message.parse, Association.parse):
        try:
            parse(data)
        except WireError:
            continue
