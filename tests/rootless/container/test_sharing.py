"""Networks that are there already. Entering one takes a real container: tests/integration/test_networks.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.container import sharing
from rootless.container.containers import Container, Containers
from rootless.container.record import Network
from rootless.errors import ContainerError, HostError, RcontainError
from tests.rootless.container.conftest import Store


def enter(container: Container) -> sharing.Shared:
    with sharing.entered(container, container.record()) as shared:
        return shared


@pytest.mark.parametrize("mode", ["user", "none", "host"])
def test_a_network_of_its_own(store: Store, mode: str) -> None:
    assert enter(store.create("a", network=Network(mode=mode))) == sharing.NOTHING


def test_a_container_that_does_not_run_or_is_gone(store: Store) -> None:
    other = store.create("other")
    guest = store.create("guest", network=Network(mode="container", target=other.id))
    with pytest.raises(ContainerError, match="container other: it is not running"):
        enter(guest)
    assert sharing.find(store.settings, "other").id == other.id
    assert sharing.owner(store.settings, guest.record().network) is not None
    other.forget()
    with pytest.raises(ContainerError, match="no such container"):
        enter(guest)
    assert sharing.owner(store.settings, guest.record().network) is None


def test_who_depends_on_a_container(store: Store) -> None:
    first = store.create("first", network=Network(mode="user"))
    second = store.create("second", network=Network(mode="container", target=first.id))
    store.create("third", network=Network(mode="container", target=second.id))
    containers = Containers(store.settings)
    assert [each.id for each in sharing.dependents(containers, first)] == [second.id]


def test_through_others(store: Store) -> None:
    first = store.create("first", network=Network(mode="user"))
    second = store.create("second", network=Network(mode="container", target=first.id))
    third = store.create("third", network=Network(mode="container", target=second.id))
    found = sharing.owner(store.settings, third.record().network)
    assert found is not None and found.id == first.id
    assert sharing.owner(store.settings, first.record().network) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/no/such", "cannot open the network namespace /no/such: No such file"),
        ("/dev/null", "/dev/null is not a namespace"),
        ("/", "/ is not a namespace"),
        ("/proc/self/ns/uts", "but not of a network"),
    ],
)
def test_paths_that_are_no_network(store: Store, path: str, words: str) -> None:
    with pytest.raises(HostError, match=words):
        enter(store.create("a", network=Network(mode="ns", target=path)))


def test_a_fifo_does_not_block(store: Store, tmp_path: Path) -> None:

    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(RcontainError, match="is not a namespace"):
        enter(store.create("a", network=Network(mode="ns", target=str(tmp_path / "fifo"))))
