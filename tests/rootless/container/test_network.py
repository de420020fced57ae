"""Under which address a container reaches the host."""

from __future__ import annotations

import pytest

import netns.process
from rootless.container import network
from rootless.container.record import Network


@pytest.mark.parametrize(
    ("address", "named", "behind"),
    [("192.0.2.7", "192.0.2.7", None), ("10.0.2.15", "10.0.2.2", "10.0.2.15"), (None, None, None)],
)
def test_a_host_in_the_containers_own_network_is_behind_the_gateway(
    monkeypatch: pytest.MonkeyPatch, address: str | None, named: str | None, behind: str | None
) -> None:
    monkeypatch.setattr(netns.process, "host_address", lambda: address)
    wanted = Network(mode="user")
    assert network.host(wanted) == named
    assert network.reserve(wanted).settings.behind_gateway == behind
