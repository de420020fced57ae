"""The blocks, read back by the rules of the format; tests/netns/test_capture.py has tshark read them."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from netns import pcapng


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and body of each block."""
    result = []
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from("<II", data, place)
        assert size % 4 == 0 and data[place + size - 4 : place + size] == struct.pack("<I", size)
        result.append((kind, data[place + 8 : place + size - 4]))
        place += size
    return result


def test_a_file_starts_with_a_section_and_an_interface() -> None:
    section, interface = blocks(pcapng.section_header("rcontain") + pcapng.interface("tap0", "über"))
    assert section[0] == 0x0A0D0D0A and section[1][:8] == struct.pack("<IHH", 0x1A2B3C4D, 1, 0)
    assert interface[0] == 1 and interface[1][:2] == b"\1\0"
    assert b"tap0" in interface[1] and "über".encode() in interface[1]


@given(st.binary(max_size=100), st.integers(0, 2**64 - 1), st.sampled_from((pcapng.INBOUND, pcapng.OUTBOUND)))
def test_packets_come_back(data: bytes, time: int, direction: int) -> None:
    ((kind, body),) = blocks(pcapng.packet(data, time, direction))
    interface, high, low, kept, size = struct.unpack_from("<IIIII", body)
    assert (kind, interface, high << 32 | low, kept, size) == (6, 0, time, len(data), len(data))
    assert body[20 : 20 + kept] == data
    assert body[-12:] == struct.pack("<HHII", 2, 4, direction, 0)


def test_what_is_too_long_is_cut_and_said() -> None:
    ((_, body),) = blocks(pcapng.packet(bytes(pcapng.LONGEST + 5), 0, pcapng.INBOUND))
    assert struct.unpack_from("<II", body, 12) == (pcapng.LONGEST, pcapng.LONGEST + 5)
