"""How long flows of datagrams are remembered, and which make room."""

from __future__ import annotations

import pytest

from netns.udp import ANSWERED_SECONDS, IDLE_SECONDS, NAMES_SECONDS, UdpFlow, UdpFlows

GUEST, FAR = bytes((10, 0, 2, 100)), bytes((192, 0, 2, 9))


def flow(port: int, far_port: int = 5000, *, inbound: bool = False) -> UdpFlow:
    return UdpFlow(GUEST, port, FAR, far_port, inbound=inbound)


@pytest.mark.parametrize(
    ("one", "answered", "seconds"),
    [
        (flow(1), False, IDLE_SECONDS),
        (flow(1), True, ANSWERED_SECONDS),
        (flow(1, 53), False, IDLE_SECONDS),
        (flow(1, 53), True, NAMES_SECONDS),
        (flow(53, inbound=True), True, NAMES_SECONDS),
        (flow(53), True, ANSWERED_SECONDS),
    ],
)
def test_how_long_a_flow_is_remembered(one: UdpFlow, answered: bool, seconds: float) -> None:
    flows = UdpFlows()
    flows.add(one, 5.0)
    if answered:
        flows.answered(one)
    assert flows.use(one.key, 7.0) is one
    assert (one.since, flows.deadline()) == (5.0, 7 + seconds)
    assert not flows.expire(6.9 + seconds)
    assert flows.expire(7 + seconds) == [one]
    assert flows.deadline() is None and not len(flows)


def test_the_unanswered_make_room_first() -> None:
    flows = UdpFlows(limit=3)
    old, asked, other = flow(1), flow(2, 53), flow(3)
    for one in (old, asked, other):
        flows.add(one, 0.0)
    flows.answered(old)
    flows.answered(asked)
    for port in range(100, 200):
        evicted = flows.add(flow(port), 1.0)
        assert evicted is not None and evicted not in (old, asked)
    assert old.key in flows and asked.key in flows and other.key not in flows
    assert {one.guest_port for one in flows} == {1, 2, 199}


def test_the_answered_make_room_where_there_are_no_others() -> None:
    flows = UdpFlows(limit=3)
    first, second, name = flow(1), flow(2), flow(3, 53)
    for one in (first, second, name):
        flows.add(one, 0.0)
        flows.answered(one)
    flows.use(first.key, 1.0)
    assert [flows.evict(), flows.evict(), flows.evict(), flows.evict()] == [name, second, first, None]


def test_what_is_forgotten_is_forgotten_once() -> None:
    flows = UdpFlows()
    one = flow(1)
    flows.add(one, 0.0)
    flows.forget(one)
    flows.forget(one)
    flows.answered(one)
    assert flows.use(one.key, 1.0) is None and flows.deadline() is None
