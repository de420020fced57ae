"""A guest that configures itself hears of its router again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from netns.advertising import SECONDS, Advertiser
from netns.driver import Driver
from netns.link import Link
from netns.settings import Settings
from netns.stack import Stack
from netns.wire import icmpv6
from netns.wire.ethernet import EthernetFrame
from netns.wire.icmpv6 import Icmpv6Message
from netns.wire.ipv6 import Ipv6Packet


class Clock:
    """What of a driver is needed: its timers, and a stack."""

    def __init__(self, settings: Settings) -> None:
        self.stack = Stack(settings.addresses(), Link(bytes(6), bytes(6), settings.mtu), lambda: 1, advertise=True)
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.timers.append((seconds, callback))


def test_advertisements_come_before_the_route_expires() -> None:
    clock = Clock(Settings(mtu=1500))
    Advertiser(cast(Driver, clock))
    for wait in (0.0, SECONDS, SECONDS):
        ((seconds, callback),) = clock.timers
        assert seconds == wait
        clock.timers.clear()
        callback()
        (frame,) = clock.stack.poll(0.0)
        packet = Ipv6Packet.parse(EthernetFrame.parse(b"".join(frame)[10:]).payload)
        message = Icmpv6Message.parse(packet.payload, packet.source, packet.destination)
        assert (message.kind, packet.hop_limit, message.first >> 8) == (icmpv6.ROUTER_ADVERTISEMENT, 255, 64)
        assert message.second >= 3 * SECONDS  # the lifetime


def test_without_ipv6_there_is_nothing_to_advertise() -> None:
    clock = Clock(Settings(ipv6=False))
    clock.stack.advertise()
    assert not clock.stack.poll(0.0)
