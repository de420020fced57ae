"""The filter, run by a small interpreter of classic BPF over frames as a kernel makes them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netns import chatter

ALL_ROUTERS = bytes.fromhex("333300000002")
SOLICITED = bytes.fromhex("3333ff000100")
GATEWAY_MAC = bytes.fromhex("52550a000202")
GUEST = bytes.fromhex("fd000000000000000000000000000100")
LINK_LOCAL = bytes.fromhex("fe80000000000000cca3dbfffe6a6bf0")


def run(frame: bytes) -> bool:
    """Whether the program accepts a frame. A load beyond its end drops it, as in the kernel."""
    accumulator = 0
    at = 0
    while True:
        code, if_true, if_false, value = chatter.PROGRAM[at]
        at += 1
        if code == 0x06:
            return value != 0
        if code == 0x15:
            at += if_true if accumulator == value else if_false
            continue
        size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
        if value + size > len(frame):
            return False
        accumulator = int.from_bytes(frame[value : value + size], "big")


def ipv6(destination: bytes, next_header: int, source: bytes, payload: bytes) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), next_header, 255) + source + bytes(16)
    return destination + bytes(6) + b"\x86\xdd" + header + payload


@pytest.mark.parametrize(
    ("frame", "accepted"),
    [
        pytest.param(ipv6(bytes.fromhex("333300000016"), 0, LINK_LOCAL, bytes(28)), False, id="mld report"),
        pytest.param(ipv6(ALL_ROUTERS, 58, LINK_LOCAL, b"\x85" + bytes(7)), False, id="router solicitation"),
        pytest.param(ipv6(SOLICITED, 58, bytes(16), b"\x87" + bytes(23)), False, id="duplicate address detection"),
        pytest.param(ipv6(SOLICITED, 58, GUEST, b"\x87" + bytes(23)), True, id="neighbour solicitation"),
        pytest.param(ipv6(GATEWAY_MAC, 58, GUEST, b"\x85" + bytes(7)), True, id="unicast"),
        pytest.param(ipv6(bytes.fromhex("333300000001"), 17, GUEST, bytes(20)), True, id="multicast datagram"),
        pytest.param(b"\xff" * 6 + bytes(6) + b"\x08\x06" + bytes(28), True, id="arp"),
        pytest.param(GATEWAY_MAC + bytes(6) + b"\x08\x00\x45" + bytes(39), True, id="ipv4"),
    ],
)
def test_what_is_dropped(frame: bytes, accepted: bool) -> None:
    assert run(frame) is accepted


@given(st.binary(min_size=14, max_size=80))
def test_only_multicast_is_dropped(frame: bytes) -> None:
    if frame[:2] != b"\x33\x33":
        assert run(frame)
