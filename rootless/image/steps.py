"""An image's history next to its layers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rootless.image.model import Image, Layer
from rootless.oci.documents import History


class Step(NamedTuple):
    """One line of the history, and the layer that it made, if it made one."""

    line: History
    layer: Layer | None
    depth: int
    """How many layers there are with it."""


def steps(image: Image) -> list[Step]:
    """Bottom first. Layers that the history says nothing of come last, with empty lines."""
    found = []
    depth = 0
    for line in image.config.history or ():
        layer = None
        if not line.empty_layer and depth < len(image.layers):
            layer = image.layers[depth]
            depth += 1
        found.append(Step(line, layer, depth))
    for layer in image.layers[depth:]:
        depth += 1
        found.append(Step(History(), layer, depth))
    return found


def layer_steps(image: Image) -> list[Step]:
    """The steps that made layers: one for each."""
    return [step for step in steps(image) if step.layer is not None]


def tops(images: Sequence[Image], image: Image, depth: int) -> list[Image]:
    """The images whose layers are the first `depth` of this one's."""
    wanted = [layer.diff_id for layer in image.layers[:depth]]
    return [one for one in images if [layer.diff_id for layer in one.layers] == wanted]


def requiring(images: Sequence[Image], image: Image) -> list[Image]:
    """The images that are made of this one's layers and more."""
    own = [layer.diff_id for layer in image.layers]
    return [
        one
        for one in images
        if len(one.layers) > len(own) and [layer.diff_id for layer in one.layers[: len(own)]] == own
    ]
