"""What a network is doing, as a JSON document: its live flows, and what its egress rules refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netns.egress import text

if TYPE_CHECKING:
    from netns.driver import Driver
    from netns.tcp.flow import TcpFlow
    from netns.udp import UdpFlow

_MAX_FLOWS = 20000  # of a document: more than there can be through the stack


@dataclass(slots=True)
class Flow:
    """One flow. `container` and `far` are ADDRESS:PORT, or of a ping ADDRESS:IDENTIFIER and ADDRESS. `received` and
    `sent` are bytes, seen from the container."""

    protocol: str
    inbound: bool  # the far end started it
    container: str
    far: str
    name: str | None
    state: str
    received: int
    sent: int
    since: float  # seconds of age

    def document(self) -> dict[str, object]:
        """As the document has it."""
        return {
            "protocol": self.protocol,
            "direction": "in" if self.inbound else "out",
            "container": self.container,
            "far": self.far,
            "name": self.name,
            "state": self.state,
            "received": self.received,
            "sent": self.sent,
            "since": self.since,
        }


def endpoint(address: bytes, port: int) -> str:
    """ADDRESS:PORT, with brackets around an address of IPv6."""
    return f"{text(address)}:{port}" if len(address) == 4 else f"[{text(address)}]:{port}"


def flows(driver: Driver) -> Iterator[Flow]:
    """The flows that cross `driver`'s stack, TCP first, then UDP and pings, each in the order in which
    they began or were last used."""
    for tcp in list(driver.stack.tcp.values()):
        yield _flow(driver, "tcp", tcp, tcp.connection.state.name.lower().replace("_", "-"))
    for udp in list(driver.stack.udp):
        yield _flow(driver, "udp", udp, "answered" if udp.spoke and udp.heard else "unanswered")
    for ping in driver.pings:
        guest, far, identifier = ping.name
        yield Flow(
            "icmp",
            False,
            endpoint(guest, identifier),
            text(far),
            _name_of(driver, far),
            "answered" if ping.received else "unanswered",
            ping.received,
            ping.sent,
            round(max(0.0, driver.now - ping.since), 3),
        )


def _name_of(driver: Driver, far: bytes) -> str | None:
    names = driver.egress.names_of(far) if driver.egress is not None else []
    return names[0] if names else None


def _flow(driver: Driver, protocol: str, flow: TcpFlow | UdpFlow, state: str) -> Flow:
    return Flow(
        protocol,
        flow.inbound,
        endpoint(flow.guest, flow.guest_port),
        endpoint(flow.far, flow.far_port),
        _name_of(driver, flow.far),
        state,
        flow.to_guest,
        flow.from_guest,
        round(max(0.0, driver.now - flow.since), 3),
    )


def document(driver: Driver, others: Iterable[Flow] = ()) -> bytes:
    """{"flows": [...], "denied": [...]}; `others` are flows that do not cross the stack."""
    egress = driver.egress
    denied = egress.denied if egress is not None else []
    listed: list[dict[str, object]] = []
    for source in (flows(driver), others):
        for flow in source:
            if len(listed) < _MAX_FLOWS:
                listed.append(flow.document())
    refused = [{"protocol": what.protocol, "far": what.far, "port": what.port, "count": what.count} for what in denied]
    return json.dumps({"flows": listed, "denied": refused}).encode()
