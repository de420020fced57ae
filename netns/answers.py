"""What the guest is sent below TCP: datagrams, echo replies, errors and router advertisements. Sans I/O."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from netns.configuration import search_list
from netns.icmperrors import ErrorLimit, IcmpError, quote_datagram, quote_syn, unreachable
from netns.link import Frame, Link
from netns.settings import Addresses
from netns.tcp.flow import TcpFlow
from netns.udp import UdpFlow, UdpFlows
from netns.wire import icmp, icmpv6
from netns.wire.icmp import IcmpMessage
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv4 import PROTOCOL_ICMP
from netns.wire.ipv6 import NEXT_ICMPV6

ROUTER_LINK_LOCAL = bytes.fromhex("fe80") + bytes(13) + b"\x02"
ALL_NODES = bytes.fromhex("ff02") + bytes(13) + b"\x01"

_MAX_RUN = 64  # datagrams in a frame: UDP_MAX_SEGMENTS of linux/udp.h before 6.9


class Answers:
    """Makes frames for the guest and keeps them until they are asked for. `dns` says that there is a name server."""

    def __init__(self, addresses: Addresses, link: Link, *, dns: bool) -> None:
        self.addresses = addresses
        self.link = link
        self.udp = UdpFlows()
        self.search: Callable[[], Sequence[str]] = tuple  # the domains for short names
        self._dns = dns
        self._limit = ErrorLimit()
        self._now = 0.0  # when the last frame came
        self._frames: list[Frame] = []

    def send_datagram(self, flow: UdpFlow, payload: bytes, now: float) -> None:
        """Send `payload` to the guest from the flow's far end."""
        self._note_answer(flow, len(payload), now)
        frame = flow.frame(payload, self.link)
        if frame is not None:
            self._frames.append(frame)
        else:
            self._frames += self.link.datagram(flow.far, flow.far_port, flow.guest, flow.guest_port, payload)

    def send_run(self, flow: UdpFlow, payload: bytes, size: int, now: float) -> None:
        """The same for many datagrams of `size` bytes each, of which the last may be shorter."""
        frame = flow.frame(payload, self.link, size) if len(payload) <= size * _MAX_RUN else None
        if frame is not None:
            self._note_answer(flow, len(payload), now)
            self._frames.append(frame)
        else:
            for start in range(0, len(payload), size):
                self.send_datagram(flow, payload[start : start + size], now)

    def _note_answer(self, flow: UdpFlow, count: int, now: float) -> None:
        if not flow.heard:
            flow.heard = True
            if flow.spoke:
                self.udp.answered(flow)
        flow.to_guest += count
        self.udp.use(flow.key, now)

    def send_echo_reply(self, guest: bytes, far: bytes, identifier: int, number: int, payload: bytes) -> None:
        """Answer the guest's ping in the name of `far`."""
        if len(guest) == 4:
            message = IcmpMessage(icmp.ECHO_REPLY, 0, identifier, number, payload).to_bytes()
            self._frames += self.link.packets(far, guest, PROTOCOL_ICMP, message)
        else:
            answer = Icmpv6Message(icmpv6.ECHO_REPLY, 0, identifier, number, payload).to_bytes(far, guest)
            self._frames += self.link.packets(far, guest, NEXT_ICMPV6, answer)

    def send_error(
        self, error: IcmpError, quoted: bytes, *, source: bytes | None = None, now: float | None = None
    ) -> None:
        """Tell the guest of an error about a packet of its own, unless there were many of late.

        It comes from `source`, or from the gateway.
        """
        four = quoted[0] >> 4 == 4
        guest = quoted[12:16] if four else quoted[8:24]
        origin = source or (self.addresses.gateway if four else self.addresses.gateway6)
        if origin is not None and self._limit.allows(self._now if now is None else now):
            message = error.message(origin, guest, quoted)
            self._frames.append(self.link.packet(origin, guest, PROTOCOL_ICMP if four else NEXT_ICMPV6, message))

    def send_unreachable(
        self, flow: TcpFlow | UdpFlow, *, port: bool = False, prohibited: bool = False, net: bool = False
    ) -> None:
        """Tell the guest by ICMP that the flow's far end cannot be reached: the host, unless something else is said."""
        four = len(flow.guest) == 4
        quoted = quote_datagram(flow) if isinstance(flow, UdpFlow) else quote_syn(flow)
        number = errno.EACCES if prohibited else errno.ENETUNREACH if net else errno.EHOSTUNREACH
        error = unreachable(errno.ECONNREFUSED if port else number, six=not four)
        self.send_error(error, quoted, source=flow.far if port else None)

    def advertise(self) -> None:
        """Tell all nodes of the link that there is a router, and what it offers. Nothing where IPv6 is off."""
        network = self.addresses.network6
        if network is None:
            return
        dns = self.addresses.resolver6 if self._dns else None
        prefix, domains = network.network_address.packed, search_list(self.search())
        offer = icmpv6.router_advertisement(prefix, self.link.mac, self.link.mtu, dns, domains)
        body = offer.to_bytes(ROUTER_LINK_LOCAL, ALL_NODES)
        self._frames.append(self.link.packet(ROUTER_LINK_LOCAL, ALL_NODES, NEXT_ICMPV6, body, 255))
