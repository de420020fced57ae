"""A guest that sends anything: frames in which every field of every protocol is drawn, mostly well enough to go deep.

Where from is a `Source`: bytes of hypothesis in tests/netns, those of a fuzzer in contrib/fuzz. `Guest.frame` gives the
next frame, with its virtio header; `Guest.heard` is told what came back, so that sequence numbers can be right.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from netns.settings import Settings

Value = TypeVar("Value")

MAC = b"\x52\x55\x0a\0\2\2"
GUEST_MAC = b"\x02\0\0\0\0\1"
ADDRESSES = Settings().addresses()
GUEST, GATEWAY, RESOLVER = ADDRESSES.guest, ADDRESSES.gateway, ADDRESSES.resolver
GUEST6 = b"\xfd" + bytes(13) + b"\1\0"
GATEWAY6 = b"\xfd" + bytes(14) + b"\2"
RESOLVER6 = b"\xfd" + bytes(14) + b"\3"
LINK_LOCAL = b"\xfe\x80" + bytes(13) + b"\7"
ALL_NODES, ALL_ROUTERS, ALL_SERVERS = (b"\xff\x02" + bytes(11) + end for end in (b"\0\0\1", b"\0\0\2", b"\1\0\2"))
HOST4 = bytes((192, 0, 2, 1))
FAR4 = (GATEWAY, RESOLVER, HOST4, bytes((127, 0, 0, 1)), bytes((192, 0, 2, 9)))
ODD4 = (bytes(4), b"\xff" * 4, ADDRESSES.broadcast, bytes((224, 0, 0, 251)), bytes((169, 254, 1, 1)), GUEST)
FAR6 = (GATEWAY6, RESOLVER6, bytes.fromhex("20010db8") + bytes(11) + b"\1")
ODD6 = (bytes(16), bytes(15) + b"\1", ALL_NODES, ALL_ROUTERS, ALL_SERVERS, LINK_LOCAL, GUEST6, bytes(10) + b"\xff" * 6)
PORTS = (53, 67, 547, 80, 443, 4000, 7, 1, 65535)
"""Of the far side; the guest's are few, so that flows meet."""
GUEST_PORTS = (40000, 40001, 68, 546, 5353, 8080, 0)
FLAGS = (16, 16, 16, 16, 16, 24, 24, 24, 17, 17, 2, 4, 20, 1, 0, 18, 194, 48, 63, 41)
"""Of segments on a known connection: ACK, with PSH, with FIN; then the rest."""
_NEEDS_CSUM = 1


class Source(Protocol):
    def integer(self, least: int, most: int) -> int: ...
    def octets(self, most: int) -> bytes: ...
    def pick(self, values: Sequence[Value]) -> Value: ...


class Octets:
    """A `Source` out of bytes, which mean the least of everything where they are at their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def integer(self, least: int, most: int) -> int:
        size = ((most - least).bit_length() + 7) // 8
        drawn = self._data[self._at : self._at + size]
        self._at += size
        return least + int.from_bytes(drawn, "little") % (most - least + 1)

    def octets(self, most: int) -> bytes:
        size = self.integer(0, most)
        drawn = self._data[self._at : self._at + size]
        self._at += size
        return drawn

    def pick(self, values: Sequence[Value]) -> Value:
        return values[self.integer(0, len(values) - 1)]


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: bytes, destination: bytes, protocol: int, size: int) -> bytes:
    """RFC 9293 section 3.1, RFC 8200 section 8.1."""
    return source + destination + struct.pack("!II", size, protocol)


class Guest:
    """Whose frames these are."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[tuple[bytes, int, int], tuple[int, int]] = {}
        """Far address and both ports; the next sequence number and what to acknowledge."""
        self._identification = 1

    # What was heard

    def heard(self, frame: bytes) -> None:
        """A frame for the guest: where its connections stand."""
        packet = frame[24:]
        if frame[22:24] == b"\x08\x00" and packet[9:10] == b"\x06":
            origin, tcp = packet[12:16], packet[(packet[0] & 15) * 4 :]
        elif frame[22:24] == b"\x86\xdd" and packet[6:7] == b"\x06":
            origin, tcp = packet[8:24], packet[40:]
        else:
            return
        if len(tcp) < 20:
            return
        far, near, seq, ack, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
        length = len(tcp) - (offset >> 4) * 4 + (flags & 1) + (flags >> 1 & 1)
        if flags & 4:
            self._known.pop((origin, near, far), None)
        else:
            self._known[origin, near, far] = ack, seq + length & 0xFFFFFFFF

    # Frames

    def frame(self) -> bytes:
        """The next one, virtio header first."""
        source = self._source
        kind = source.integer(0, 19)
        builders: tuple[Callable[[], bytes], ...] = (
            self._tcp,
            self._tcp,
            self._tcp,
            self._tcp,
            self._udp,
            self._udp,
            self._dns,
            self._dhcp,
            self._dhcp6,
            self._echo,
            self._icmp_error,
            self._neighbour,
            self._arp,
            self._other,
        )
        frame = builders[kind]() if kind < len(builders) else self._tcp()
        return self._damaged(frame) if source.integer(0, 7) == 0 else frame

    def _damaged(self, frame: bytes) -> bytes:
        source = self._source
        if source.integer(0, 9) == 0:
            return source.octets(200)
        octets = bytearray(frame)
        for _ in range(source.integer(0, 3)):
            octets[source.integer(0, len(octets) - 1)] = source.integer(0, 255)
        if source.integer(0, 2) == 0:
            del octets[source.integer(0, len(octets) - 1) :]
        return bytes(octets)

    def _family(self) -> bool:
        return self._source.integer(0, 2) == 0

    def _far(self, six: bool) -> bytes:
        usual, odd = (FAR6, ODD6) if six else (FAR4, ODD4)
        return self._source.pick(odd if self._source.integer(0, 7) == 0 else usual)

    def _near(self, six: bool) -> bytes:
        if self._source.integer(0, 15) == 0:
            return self._source.pick(ODD6 if six else ODD4)
        return GUEST6 if six else GUEST

    def _tcp(self) -> bytes:
        source = self._source
        known = list(self._known)
        if known and source.integer(0, 4):
            flow = source.pick(known)
            seq, ack = self._known[flow]
        else:
            flow, seq, ack = (self._far(self._family()), source.pick(GUEST_PORTS), source.pick(PORTS)), 1000, 0
        far, near_port, far_port = flow
        flags = source.pick(FLAGS if flow in self._known else (2, 2, 2, 194, 16))
        if source.integer(0, 7) == 0:
            seq = seq + source.pick((1, -1, 100, -100, 65535, 1 << 20, 1 << 31)) & 0xFFFFFFFF
        if source.integer(0, 7) == 0:
            ack = ack + source.pick((1, -1, 100, -100, 65535, 1 << 20, 1 << 31)) & 0xFFFFFFFF
        window = source.pick((65535, 1000, 0, 1))
        options = self._tcp_options() if source.integer(0, 2) == 0 else b""
        data = source.octets(60) if source.integer(0, 2) == 0 else b""
        if source.integer(0, 15) == 0:
            data *= 1000 // (len(data) or 1)
        offset = (20 + len(options)) // 4 if source.integer(0, 15) else source.integer(0, 15)
        fields = (near_port, far_port, seq, ack, offset << 4, flags, window, 0, source.pick((0, 0, 1, 65535)))
        if flow in self._known:
            self._known[flow] = seq + len(data) & 0xFFFFFFFF, ack
        return self._packet(
            len(far) == 16, 6, struct.pack("!HHIIBBHHH", *fields) + options + data, at=16, far=far, hops=64
        )

    def _tcp_options(self) -> bytes:
        """RFC 9293 section 3.2, RFC 7323, RFC 2018."""
        source = self._source
        options = b""
        for _ in range(source.integer(1, 4)):
            kind = source.pick((0, 1, 2, 3, 4, 5, 8, 253))
            value = source.octets(10)
            length = {2: 4, 3: 3, 4: 2}.get(kind, len(value) + 2) if source.integer(0, 3) else source.integer(0, 255)
            options += bytes((kind,)) if kind < 2 else bytes((kind, length)) + value[: max(0, length - 2)]
        options = options[:40]
        return options + bytes(-len(options) % 4)

    def _udp(self, port: int | None = None, payload: bytes | None = None, near: int | None = None) -> bytes:
        source = self._source
        six = self._family()
        if payload is None:
            payload = source.octets(60) * source.pick((1, 1, 1, 40, 700))
        size = 8 + len(payload) if source.integer(0, 15) else source.integer(0, 65535)
        ports = near if near is not None else source.pick(GUEST_PORTS), source.pick(PORTS) if port is None else port
        return self._packet(six, 17, struct.pack("!HHHH", *ports, min(size, 65535), 0) + payload[:65000], at=6)

    def _dns(self) -> bytes:
        """RFC 1035 section 4.1."""
        source = self._source
        names = (
            b"\7example\0",
            b"\0",
            b"\xc0\x0c",
            b"\x3f" + bytes(63) + b"\0",
            b"\1a" * 120 + b"\0",
            source.octets(8),
        )
        counts = [source.pick((0, 1, 1, 2, 65535)) for _ in range(4)]
        message = struct.pack("!HHHHHH", source.integer(0, 65535), source.pick((0x0100, 0, 0x8180, 0xFFFF)), *counts)
        message += source.pick(names) + struct.pack("!HH", source.pick((1, 28, 255, 0, 6)), source.pick((1, 255)))
        if source.integer(0, 1):  # an ordinary question, to whoever answers
            message = b"\1\2\1\0\0\1\0\0\0\0\0\0\3www\7example\0\0\1\0\1"
        return self._udp(53, message)

    def _dhcp(self) -> bytes:
        """RFC 2131 section 2, RFC 2132."""
        source = self._source
        address = source.pick((bytes(4), GUEST, GATEWAY))
        message = struct.pack("!BBBBIHH", source.pick((1, 1, 2, 0)), 1, 6, 0, source.integer(0, 99), 0, 0x8000)
        message += address + bytes(12) + GUEST_MAC + bytes(10 + 64 + 128) + b"\x63\x82\x53\x63"
        for _ in range(source.integer(0, 5)):
            code, value = source.pick((53, 50, 54, 55, 61, 12, 0, 255, 52, 119)), source.octets(8)
            length = len(value) if source.integer(0, 7) else source.integer(0, 255)
            value = bytes((source.integer(0, 9),)) if code == 53 else value
            message += bytes((code,)) if code in (0, 255) else bytes((code, 1 if code == 53 else length)) + value
        return self._udp(67, message + b"\xff", 68)

    def _dhcp6(self) -> bytes:
        """RFC 8415 section 8."""
        source = self._source
        message = bytes((source.integer(0, 14),)) + source.octets(3).ljust(3, b"\0")
        for _ in range(source.integer(0, 5)):
            code, value = source.pick((1, 2, 3, 4, 5, 6, 8, 14, 23, 24, 25)), source.octets(24)
            length = len(value) if source.integer(0, 7) else source.integer(0, 65535)
            message += struct.pack("!HH", code, length) + value
        udp = struct.pack("!HHHH", 546, 547, 8 + len(message), 0) + message
        return self._packet(True, 17, udp, at=6, far=source.pick((ALL_SERVERS, GATEWAY6)), near=LINK_LOCAL)

    def _echo(self) -> bytes:
        source = self._source
        six = self._family()
        kind = source.pick((128, 129) if six else (8, 0, 13, 17))
        message = struct.pack("!BBHHH", kind, source.pick((0, 0, 1)), 0, source.integer(0, 3), source.integer(0, 9))
        return self._packet(six, 58 if six else 1, message + source.octets(60) * source.pick((1, 1, 60)), at=2)

    def _icmp_error(self) -> bytes:
        source = self._source
        six = self._family()
        kind = source.integer(1, 4) if six else source.pick((3, 4, 5, 11, 12))
        message = struct.pack("!BBHI", kind, source.integer(0, 15), 0, source.pick((0, 68, 576, 1280, 65535)))
        return self._packet(six, 58 if six else 1, message + source.octets(60), at=2)

    def _neighbour(self) -> bytes:
        """RFC 4861 section 4."""
        source = self._source
        kind = source.pick((133, 134, 135, 136, 137, 143))
        message = struct.pack("!BBHI", kind, 0, 0, source.pick((0, 0x60000000)))
        message += source.pick((b"", *FAR6, *ODD6)) if kind in (135, 136, 137) else b""
        for _ in range(source.integer(0, 2)):
            message += bytes((source.integer(0, 5), source.pick((1, 1, 0, 255)))) + source.octets(6)
        far = source.pick((ALL_ROUTERS, GATEWAY6, b"\xff\x02" + bytes(9) + b"\1\xff\0\0\2"))
        return self._packet(True, 58, message, at=2, far=far, hops=source.pick((255, 255, 64)))

    def _arp(self) -> bytes:
        source = self._source
        head = struct.pack("!HHBBH", source.pick((1, 1, 6)), 0x0800, source.pick((6, 6, 0)), 4, source.integer(0, 3))
        packet = head + GUEST_MAC + source.pick((GUEST, bytes(4))) + bytes(6) + source.pick((*FAR4, *ODD4))
        return self._ethernet(0x0806, packet)

    def _other(self) -> bytes:
        source = self._source
        six = self._family()
        return self._packet(six, source.pick((0, 2, 41, 47, 50, 59, 132, 255)), source.octets(60), at=None)

    # Beneath

    def _packet(
        self,
        six: bool,
        protocol: int,
        payload: bytes,
        *,
        at: int | None,
        far: bytes | None = None,
        near: bytes | None = None,
        hops: int | None = None,
    ) -> bytes:
        """`at` is where the payload has its checksum."""
        source = self._source
        far = self._far(six) if far is None else far
        near = self._near(six) if near is None else near
        vouched = protocol in (6, 17) and source.integer(0, 3) > 0
        if at is not None and not vouched:
            pseudo = b"" if protocol == 1 else pseudo_header(near, far, protocol, len(payload))
            payload = payload[:at] + struct.pack("!H", checksum(pseudo + payload)) + payload[at + 2 :]
        hops = source.pick((64, 64, 64, 255, 1, 0)) if hops is None else hops
        body = self._ipv6 if six else self._ipv4
        return self._ethernet(0x86DD if six else 0x0800, body(near, far, protocol, payload, hops), vouched=vouched)

    def _ipv4(self, near: bytes, far: bytes, protocol: int, payload: bytes, hops: int) -> bytes:
        source = self._source
        options = source.octets(12) if source.integer(0, 7) == 0 else b""
        options += bytes(-len(options) % 4)
        cut = 0x4000
        if source.integer(0, 7) == 0:  # a fragment: a piece of it where it may, or may not, fit others
            start, size = source.integer(0, len(payload) // 8), source.integer(1, 4) * 8
            last = (start * 8 + size) >= len(payload)
            payload = payload[start * 8 : start * 8 + size]
            cut = source.pick((start, start, source.integer(0, 8191))) | (0 if last else 0x2000)
        words = (5 + len(options) // 4) | 0x40 if source.integer(0, 15) else source.integer(0, 255)
        size = 20 + len(options) + len(payload) if source.integer(0, 15) else source.integer(0, 65535)
        fields = (words, source.integer(0, 255), min(size, 65535), source.integer(1, 3), cut, hops, protocol, 0)
        header = struct.pack("!BBHHHBBH", *fields) + near + far + options
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload

    def _ipv6(self, near: bytes, far: bytes, protocol: int, payload: bytes, hops: int) -> bytes:
        source = self._source
        following = protocol
        for _ in range(source.integer(0, 2) if source.integer(0, 3) == 0 else 0):
            kind = source.pick((0, 43, 60, 44, 51))
            if kind == 44:
                start, more = source.pick((0, 0, source.integer(0, 8191))), source.integer(0, 1)
                head = struct.pack("!BBHI", following, 0, start << 3 | more, source.integer(1, 3))
            else:
                head = bytes((following, source.pick((0, 0, 1, 255)))) + source.octets(6).ljust(6, b"\0")
            payload, following = head + payload, kind
        size = len(payload) if source.integer(0, 15) else source.integer(0, 65535)
        first = 0x60000000 if source.integer(0, 15) else source.integer(0, 0xFFFFFFFF)
        return struct.pack("!IHBB", first, min(size, 65535), following, hops) + near + far + payload

    def _ethernet(self, kind: int, payload: bytes, *, vouched: bool = False) -> bytes:
        source = self._source
        header = bytes((_NEEDS_CSUM if vouched else 0,)) + bytes(9)
        if source.integer(0, 7) == 0:  # struct virtio_net_hdr: flags, gso_type, header, segment, checksum's place
            flags, kind_of_cut = source.pick((0, 1, 2, 255)), source.pick((0, 1, 3, 4, 5, 0x81, 255))
            sizes = [source.pick((0, 34, 54, 74, 1460, 65535)) for _ in range(4)]
            header = struct.pack("<BBHHHH", flags, kind_of_cut, *sizes)
        ours = source.pick((MAC, MAC, MAC, b"\xff" * 6, b"\x33\x33\0\0\0\1", b"\2" * 6))
        return header + ours + GUEST_MAC + struct.pack("!H", kind) + payload
