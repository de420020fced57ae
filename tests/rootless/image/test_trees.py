"""Layers of the store, opened for reading."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuse.errors import LayerError
from rootless.errors import ImageError
from rootless.image.store import Store
from rootless.image.trees import content_size, open_trees
from tests.kit import images
from tests.rootless.image.test_differences import made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_order_and_sharing(store: Store) -> None:
    image = made(store, "demo", *images.demo_layers())
    with open_trees(store, (*image.layers, image.layers[0])) as trees:
        assert len(trees) == len(image.layers) + 1
        assert trees[0] is trees[-1] and trees[0] is not trees[1]


def test_the_size_of_the_files(store: Store) -> None:
    image = made(store, "links", images.tar([images.file("a", b"12345"), images.hardlink("b", "a")]))
    assert content_size(store, image.layers[0]) == 5


def test_a_damaged_index(store: Store) -> None:
    image = made(store, "demo", *images.demo_layers())
    Path(store.index_path(image.layers[0])).write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"index of layer .*too short"), open_trees(store, image.layers):
        pass
    with pytest.raises(ImageError, match=r"index of layer .*too short"):
        content_size(store, image.layers[0])


def test_a_layer_that_is_not_unpacked(store: Store) -> None:
    image = made(store, "demo", *images.demo_layers())
    os.unlink(store.index_path(image.layers[1]))
    with pytest.raises(ImageError, match="is not unpacked"), open_trees(store, image.layers):
        pass


def test_damage_that_is_met_while_reading(store: Store) -> None:
    image = made(store, "demo", *images.demo_layers())
    with pytest.raises(ImageError, match=r"cannot be read: .*cut short"), open_trees(store, image.layers):
        raise LayerError("the data of a layer is cut short")
