"""--layers and --layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.errors import UsageError
from rootless.image.model import Image
from rootless.image.selection import select_layers
from rootless.image.store import Store
from tests.kit import images


@pytest.fixture
def image(tmp_path: Path) -> Image:
    layers = [images.pack(images.tar([images.file(name)])) for name in "abc"]
    images.Layout(str(tmp_path)).image("docker.io/library/three:latest", layers)
    return Store(str(tmp_path)).resolve("three")


def test_as_it_was(image: Image) -> None:
    assert select_layers(image) == image.layers == select_layers(image, 3)
    assert select_layers(image, 1) == image.layers[:1] == select_layers(image, -2)
    assert select_layers(image, -1) == image.layers[:2]
    for count in (0, 4, -3, -4):
        with pytest.raises(UsageError, match=f"--layers {count} is out of range: docker.io/library/three:latest has 3"):
            select_layers(image, count)


def test_a_single_layer(image: Image) -> None:
    for layer in image.layers:
        for text in (str(layer.diff_id), layer.diff_id.hex[:12], str(layer.blob)[:20], layer.blob.hex):
            assert select_layers(image, digest=text) == (layer,)
    with pytest.raises(UsageError, match="ambiguous: 3"):
        select_layers(image, digest="sha256:")
    with pytest.raises(UsageError, match="has no layer nothing"):
        select_layers(image, digest="nothing")
    with pytest.raises(UsageError, match="exclude"):
        select_layers(image, 1, "sha256:")
