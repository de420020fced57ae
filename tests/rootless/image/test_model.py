"""What is derived from an image, by its size."""

from __future__ import annotations

import pytest

from rootless.image.model import SMALL_IMAGE, Derive, Layer, settled
from rootless.oci.digest import Digest


def layer(name: bytes, size: int) -> Layer:
    return Layer(Digest.of(name), Digest.of(name), "application/vnd.oci.image.layer.v1.tar", size)


@pytest.mark.parametrize(
    ("layers", "derive"),
    [
        ([layer(b"a", SMALL_IMAGE)], Derive.TREE),
        ([layer(b"a", SMALL_IMAGE), layer(b"a", SMALL_IMAGE)], Derive.TREE),
        ([layer(b"a", SMALL_IMAGE), layer(b"b", 1)], Derive.INDEX),
        ([], Derive.TREE),
    ],
)
def test_small_images_are_unpacked_and_large_ones_not(layers: list[Layer], derive: Derive) -> None:
    assert settled(Derive.SOONEST, layers) is derive
    assert settled(Derive.TREE | Derive.INDEX, layers) == Derive.TREE | Derive.INDEX
