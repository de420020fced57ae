"""The claim to look after a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.container import claim, lock
from rootless.container.containers import Container
from rootless.errors import ContainerError
from rootless.settings import Settings

ID = "ab" * 32


@pytest.fixture
def container(tmp_path: Path) -> Container:
    settings = Settings(data=str(tmp_path / "data"), runtime=str(tmp_path / "run"), home=str(tmp_path))
    return Container(settings, ID)


def test_a_claim_is_seen_and_cannot_be_taken_twice(container: Container) -> None:
    held = claim.take(container)
    try:
        assert container.is_alive()
        assert os.listdir(container.settings.live) == [ID]
        with pytest.raises(ContainerError, match="running already"):
            claim.take(container)
    finally:
        os.close(held)
    assert not container.is_alive()


def test_the_claim_of_a_dead_holder_is_taken_over(container: Container) -> None:
    os.close(claim.take(container))
    held = claim.take(container)
    assert lock.is_held(f"{container.live}/lock")
    os.close(held)


def test_a_directory_in_the_way_without_a_lock(container: Container) -> None:
    os.makedirs(container.live)
    held = claim.take(container)
    assert container.is_alive()
    os.close(held)


def test_the_claim_of_a_container_that_is_run_at_once_is_handed_on(container: Container) -> None:
    container.claim = claim.take(container)
    first = container.claim
    assert claim.take_over(container) == first
    assert container.claim is None
    os.close(first)


def test_one_that_was_not_run_is_let_go(container: Container) -> None:
    claim.abandon(container)
    assert not os.path.exists(container.live)
