"""The link to the guest: both hardware addresses, and how packets become frames for the TAP.

A frame is a tuple of buffers for writev, the first of which starts with the virtio header. Checksums of TCP and UDP are
left to the kernel (it never computes them for a packet that stays on this machine), as is cutting large TCP segments.
"""

from __future__ import annotations

import struct

from netns.wire import ipv4, ipv6, udp
from netns.wire.checksum import pseudo_sum
from netns.wire.error import Buffer
from netns.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from netns.wire.ethernet import HEADER_LENGTH as ETHERNET_LENGTH
from netns.wire.ipv4 import Ipv4Packet
from netns.wire.ipv6 import NEXT_FRAGMENT, Ipv6Fragment, Ipv6Packet
from netns.wire.udp import UdpDatagram
from netns.wire.vnet import NEEDS_CSUM, PLAIN, VnetHeader

Frame = tuple[Buffer, ...]

_IPV4 = struct.pack("!H", ETHERTYPE_IPV4)
_IPV6 = struct.pack("!H", ETHERTYPE_IPV6)

GSO_UDP_L4 = 5  # linux/virtio_net.h; since Linux 6.2

# Before a datagram whose checksum is left open.
UDP4 = VnetHeader(
    NEEDS_CSUM, csum_start=ETHERNET_LENGTH + ipv4.HEADER_LENGTH, csum_offset=udp.CHECKSUM_OFFSET
).to_bytes()
UDP6 = VnetHeader(
    NEEDS_CSUM, csum_start=ETHERNET_LENGTH + ipv6.HEADER_LENGTH, csum_offset=udp.CHECKSUM_OFFSET
).to_bytes()


def run_header(size: int, *, six: bool) -> bytes:
    """What goes before datagrams of `size` bytes each (the last may be shorter) in one frame: the kernel cuts them."""
    start = ETHERNET_LENGTH + (ipv6.HEADER_LENGTH if six else ipv4.HEADER_LENGTH)
    header = VnetHeader(NEEDS_CSUM, GSO_UDP_L4, start + udp.HEADER_LENGTH, size, start, udp.CHECKSUM_OFFSET)
    return header.to_bytes()


class Link:
    """`mac` is ours, `guest_mac` the guest's, which is learned anew from each frame; `mtu` is in bytes of IP packet."""

    __slots__ = ("_identification", "ethernet4", "ethernet6", "guest_mac", "mac", "mtu")

    def __init__(self, mac: bytes, guest_mac: bytes, mtu: int) -> None:
        self.mac = mac
        self.mtu = mtu
        self._identification = 0
        self.learn(guest_mac)

    def learn(self, guest_mac: bytes) -> None:
        """The guest is at `guest_mac` from now on."""
        self.guest_mac = guest_mac
        self.ethernet4 = guest_mac + self.mac + _IPV4
        self.ethernet6 = guest_mac + self.mac + _IPV6

    def packet(self, source: bytes, destination: bytes, protocol: int, payload: bytes, hop_limit: int = 64) -> Frame:
        """One complete packet, with no checksum left open."""
        if len(source) == 4:
            head = Ipv4Packet(source, destination, protocol, b"", hop_limit).header(len(payload))
            return (PLAIN + self.ethernet4 + head + payload,)
        head = Ipv6Packet(source, destination, protocol, b"", hop_limit).header(len(payload))
        return (PLAIN + self.ethernet6 + head + payload,)

    def packets(self, source: bytes, destination: bytes, protocol: int, payload: bytes) -> list[Frame]:
        """The same, in fragments where it is larger than the link's MTU."""
        if len(payload) + (ipv4.HEADER_LENGTH if len(source) == 4 else ipv6.HEADER_LENGTH) > self.mtu:
            return self._fragments(source, destination, protocol, payload)
        return [self.packet(source, destination, protocol, payload)]

    def datagram(self, source: bytes, source_port: int, destination: bytes, port: int, payload: bytes) -> list[Frame]:
        """A UDP datagram, in fragments where it is larger than the link's MTU."""
        record = UdpDatagram(source_port, port, payload)
        length = udp.HEADER_LENGTH + len(payload)
        four = len(source) == 4
        if length + (ipv4.HEADER_LENGTH if four else ipv6.HEADER_LENGTH) > self.mtu:
            return self._fragments(source, destination, ipv4.PROTOCOL_UDP, record.to_bytes(source, destination))
        upper = record.header(pseudo_sum(source, destination, ipv4.PROTOCOL_UDP, length))
        if four:
            head = Ipv4Packet(source, destination, ipv4.PROTOCOL_UDP, b"").header(length)
            return [(UDP4 + self.ethernet4 + head + upper, payload)]
        head = Ipv6Packet(source, destination, ipv6.NEXT_UDP, b"").header(length)
        return [(UDP6 + self.ethernet6 + head + upper, payload)]

    def _fragments(self, source: bytes, destination: bytes, protocol: int, payload: bytes) -> list[Frame]:
        self._identification = identification = self._identification + 1 & 0xFFFF
        four = len(source) == 4
        overhead = ipv4.HEADER_LENGTH if four else ipv6.HEADER_LENGTH + ipv6.FRAGMENT_LENGTH
        step = (self.mtu - overhead) & ~7
        result: list[Frame] = []
        for offset in range(0, len(payload), step):
            part = payload[offset : offset + step]
            more = offset + step < len(payload)
            if four:
                packet = Ipv4Packet(
                    source, destination, protocol, part, 64, identification, False, more, offset
                ).to_bytes()
                result.append((PLAIN + self.ethernet4 + packet,))
            else:
                fragment = Ipv6Fragment(protocol, offset, more, identification, part).to_bytes()
                packet = Ipv6Packet(source, destination, NEXT_FRAGMENT, fragment).to_bytes()
                result.append((PLAIN + self.ethernet6 + packet,))
        return result
