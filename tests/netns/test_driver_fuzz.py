"""The whole network between a guest, a host and an owner that do anything: it raises nothing and keeps nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.netns import joined, ordeal, trials
from tests.netns.hostile import Source
from tests.netns.network import on_a_host

pytestmark = [pytest.mark.userns]

THOROUGH = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def survives(trial: Callable[[Source], None]) -> None:
    """Some known trials and some new ones; afterwards no more descriptors are open than before.

    They are drawn by number only: what the kernel's sockets do in between depends on time, so hypothesis could not make
    them smaller.
    """

    @THOROUGH
    @given(st.integers(1000, 2**63))
    def drawn(seed: int) -> None:
        trial(ordeal.Chance(seed))

    trial(ordeal.Chance(-1))
    before = ordeal.descriptors()
    drawn()
    for seed in range(30):
        trial(ordeal.Chance(seed))
    gc.collect()
    assert ordeal.descriptors() <= before


def test_guest_and_host() -> None:
    def work() -> None:
        host = ordeal.Host()
        survives(lambda source: ordeal.driver(source, 30, host))
        host.close()

    on_a_host(work)


def test_the_line_to_the_owner() -> None:
    on_a_host(lambda: survives(lambda source: ordeal.control(source, 8)))


def test_the_api() -> None:
    on_a_host(lambda: survives(lambda source: ordeal.api(source, 5)))


def test_joined_connections() -> None:
    def work() -> None:
        joined.add_guests_addresses()
        survives(lambda source: joined.splice(source, 60))

    on_a_host(work)


def test_names_over_tcp() -> None:
    def work() -> None:
        servers = trials.NameServers()
        survives(lambda source: trials.dnsstream(source, 40, servers))
        servers.close()

    on_a_host(work)


def test_a_host_that_changes() -> None:
    def work() -> None:
        host = ordeal.Host()
        survives(lambda source: trials.host_changes(source, 30, host))
        host.close()

    on_a_host(work)
