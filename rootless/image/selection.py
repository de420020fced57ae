"""Some of an image's layers instead of all: the image as it was, or a single layer of it. Pure."""

from __future__ import annotations

from rootless.errors import UsageError
from rootless.image.model import Image, Layer


def select_layers(image: Image, count: int | None = None, digest: str = "") -> tuple[Layer, ...]:
    """The layers that a container is to be made of, bottom first.

    `count` are so many from the bottom; a negative one leaves out so many from the top. `digest` is the beginning of
    one layer's diffID or blob, with or without its algorithm. Raises UsageError for what the image does not have.
    """
    name = next(iter(image.names), image.short_id)
    if count is not None and digest:
        raise UsageError("--layers and --layer exclude each other")
    if count is not None:
        total = len(image.layers)
        kept = count if count >= 0 else total + count
        if not 0 < kept <= total:
            raise UsageError(
                f"--layers {count} is out of range: {name} has {total} layers",
                hint="N takes the first N from the bottom, -N leaves out the top N; `rcontain image tree` shows them",
            )
        return image.layers[:kept]
    if digest:
        found = {layer for layer in image.layers if _is_meant(layer, digest)}
        if not found:
            raise UsageError(
                f"{name} has no layer {digest}", hint="`rcontain image tree --no-trunc` shows the digests of its layers"
            )
        if len(found) > 1:
            raise UsageError(
                f"the layer {digest} is ambiguous: {len(found)} layers of {name} begin with it", hint="give more digits"
            )
        return (found.pop(),)
    return image.layers


def _is_meant(layer: Layer, text: str) -> bool:
    return any(str(one).startswith(text) or one.hex.startswith(text) for one in (layer.diff_id, layer.blob))
