"""Which driver a container gets. The probe's answer is written down beforehand, as an earlier command would have."""

from __future__ import annotations

import pytest

from rootless.container.driver import IdTriples, choose, for_image
from rootless.errors import HostError
from rootless.settings import Settings
from tests.rootless.container.conftest import Store

STRAIGHT: IdTriples = ((0, 0, 65536),)
TRANSLATED: IdTriples = ((0, 1, 1000), (1000, 0, 1), (1001, 1001, 64536))
SINGLE: IdTriples = ((0, 0, 1),)


@pytest.fixture
def settings(store: Store) -> Settings:
    answered(store.settings, "")
    return store.settings


def answered(settings: Settings, obstacle: str) -> None:
    with open(f"{settings.runtime}/overlay-{settings.data.replace('/', '-')[-100:]}", "w") as file:
        file.write(obstacle)


@pytest.mark.parametrize(
    ("ids", "driver", "reason"),
    [
        (STRAIGHT, "overlay", "works here"),
        (TRANSLATED, "packed", "ids are translated"),
        (SINGLE, "fuse", "no subordinate ids"),
    ],
)
def test_auto_takes_the_fastest_that_works(settings: Settings, ids: IdTriples, driver: str, reason: str) -> None:
    choice = choose(settings, "auto", ids, ids)
    assert choice.driver == driver and reason in choice.reason


@pytest.mark.parametrize("ids", [STRAIGHT, TRANSLATED])
def test_without_the_kernels_overlay_all_is_fuse(settings: Settings, ids: IdTriples) -> None:
    answered(settings, "mounting one over NFS fails")
    choice = choose(settings, "auto", ids, ids)
    assert (choice.driver, choice.reason) == ("fuse", "mounting one over NFS fails")
    for wanted in ("overlay", "packed"):
        with pytest.raises(HostError, match="over NFS fails") as caught:
            choose(settings, wanted, ids, ids)
        assert caught.value.hint == "use --storage-driver fuse"


@pytest.mark.parametrize("wanted", ["packed", "fuse"])
@pytest.mark.parametrize("ids", [STRAIGHT, TRANSLATED])
def test_what_is_asked_for_is_taken(settings: Settings, wanted: str, ids: IdTriples) -> None:
    assert choose(settings, wanted, ids, ids).driver == wanted


def test_unpacked_layers_are_not_translated(settings: Settings) -> None:
    with pytest.raises(HostError, match="ids are translated") as caught:
        choose(settings, "overlay", TRANSLATED, TRANSLATED)
    assert caught.value.hint == "use --storage-driver packed"


@pytest.mark.parametrize("wanted", ["overlay", "packed"])
def test_one_id_is_not_enough_for_the_kernels_overlay(settings: Settings, wanted: str) -> None:
    with pytest.raises(HostError, match="subordinate"):
        choose(settings, wanted, STRAIGHT, SINGLE)


def test_what_is_not_unpacked_is_not_waited_for(settings: Settings) -> None:
    overlay = choose(settings, "auto", STRAIGHT, STRAIGHT)
    assert for_image(overlay, "auto", True) is overlay
    assert for_image(overlay, "auto", False).driver == "packed"
    assert for_image(choose(settings, "overlay", STRAIGHT, STRAIGHT), "overlay", False).driver == "overlay"
    assert for_image(choose(settings, "auto", STRAIGHT, SINGLE), "auto", False).driver == "fuse"
