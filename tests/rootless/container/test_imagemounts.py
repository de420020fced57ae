"""Where images are mounted: what is there, what is alive, what is left."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from rootless.container.imagemounts import ImageMount, ImageMounts, mounted_ids
from rootless.errors import HostError
from rootless.settings import Settings
from tests.kit.imageserver import started

ID = "ab" * 32


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=str(tmp_path / "data"), runtime=str(tmp_path / "run"), home="/")


def test_nothing_is_mounted(settings: Settings) -> None:
    mounts = ImageMounts(settings)
    assert mounts.all() == [] and mounts.mounted() == {} and mounted_ids(settings) == frozenset()
    assert not os.path.exists(settings.runtime), "looking leaves no trace"


def test_a_life(settings: Settings) -> None:
    mounts = ImageMounts(settings)
    with mounts.changing():
        place = mounts.of(ID)
        place.prepare()
        assert mounts.all() == [place] and not place.is_alive and place.state() is None
        with started(place.path) as pid:
            assert place.is_alive and mounts.mounted() == {}, "it is not mounted before that is written"
            place.record(ID, ("demo",), 2)
            (state,) = mounts.mounted().values()
            assert (state.image, state.names, state.count, state.pid) == (ID, ("demo",), 2, pid)
            assert state.mountpoint == place.mountpoint and mounted_ids(settings) == {ID}
            place.end()
    assert mounts.all() == []


def test_stores_do_not_share_mounts(settings: Settings) -> None:
    other = dataclasses.replace(settings, data="/other")
    ImageMounts(settings).of(ID).prepare()
    assert ImageMounts(other).all() == []


def test_a_killed_server(settings: Settings) -> None:
    place = ImageMounts(settings).of(ID)
    place.prepare()
    with started(place.path):
        place.record(ID, (), 1)
    assert place.state() is not None and not place.is_alive
    assert ImageMounts(settings).mounted() == {}
    place.end()
    assert not os.path.exists(place.path)
    place.discard()
    with pytest.raises(HostError, match="has just been taken away"):
        place.record(ID, (), 2)


def test_damaged_state(settings: Settings) -> None:
    place = ImageMounts(settings).of(ID)
    place.prepare()
    Path(place.path, "mount.json").write_bytes(b"{")
    Path(place.path, "server").write_bytes(b"x")
    assert place.state() is None
    place.record(ID, (), 1)
    state = place.state()
    assert state is not None and state.pid == 0


def test_what_is_in_the_way(settings: Settings, tmp_path: Path) -> None:
    Path(settings.runtime).write_bytes(b"")
    with pytest.raises(HostError, match="cannot make the mount point"):
        ImageMount(f"{settings.runtime}/x").prepare()
    place = ImageMount(str(tmp_path / "place"))
    place.prepare()
    Path(place.mountpoint, "file").write_bytes(b"")
    with pytest.raises(HostError, match="cannot remove"):
        place.discard()


def test_a_server_that_does_not_end(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootless.container.imagemounts._PATIENCE", 0.05)
    place = ImageMounts(settings).of(ID)
    place.prepare()
    with started(place.path, deaf=True) as pid:
        with pytest.raises(HostError, match=f"process {pid}, which serves it, does not end"):
            place.end()
