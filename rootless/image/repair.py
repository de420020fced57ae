"""Undoing damage: broken blobs are fetched again, what was derived from a layer is derived again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import aclosing

from rootless.errors import ImageError, RcontainError
from rootless.image.access import Access
from rootless.image.check import Damage, is_layer
from rootless.image.derive import LayerMaker
from rootless.image.model import Derive, Layer
from rootless.image.registry import Registry
from rootless.image.store import Store
from rootless.oci.documents import CONFIG_MAX
from rootless.oci.mediatype import INDEXES, MANIFESTS
from rootless.oci.reference import LOCAL_REGISTRY, Reference


async def fetch_again(store: Store, damage: Damage, access: Access) -> None:
    """A blob, from the first of its sources that has it. Raises the last one's error, ImageError without a source."""
    failure: RcontainError = ImageError(f"cannot repair blob {damage.blob.digest}: it is not known where it came from")
    for text in damage.sources:
        reference = Reference.parse(text)
        if reference.registry == LOCAL_REGISTRY:
            continue
        try:
            await _fetch(store, damage, reference, access)
        except RcontainError as error:
            failure = error
        else:
            return
    raise failure


async def _fetch(store: Store, damage: Damage, reference: Reference, access: Access) -> None:
    blob = damage.blob
    async with Registry(reference, access) as source:
        with store.pulling(), store.workspace() as space, store.blobs.writer(space, blob.digest, blob.size) as writer:
            if blob.media_type in MANIFESTS or blob.media_type in INDEXES:
                writer.write((await source.manifest(str(blob.digest))).raw)
            elif is_layer(blob):
                async with aclosing(source.blob(blob)) as chunks:
                    async for chunk in chunks:
                        writer.write(chunk)
            else:
                writer.write(await source.document(blob, CONFIG_MAX))
            writer.commit()


async def derive_again(store: Store, layer: Layer, what: set[str], in_use: Callable[[Layer], str | None]) -> None:
    """The index with its frames, the tree, or both, from the layer's blob. Raises ImageError.

    A mounted tree must not change (overlayfs.rst, "Changes to underlying filesystems"): while a container uses the
    layer its tree stays as it is, which is an ImageError, too.
    """
    derive = Derive.NOTHING
    if what & {"index", "frames"}:
        derive |= Derive.INDEX
    if "tree" in what:
        if (user := in_use(layer)) is not None:
            raise ImageError(
                f"cannot repair the tree of layer {layer.diff_id.short}: container {user} uses it",
                hint="stop the container and try again",
            )
        derive |= Derive.TREE
    with store.workspace() as space:
        old = [store.index_path(layer), store.frames_path(layer)] if Derive.INDEX in derive else []
        old += [store.tree_path(layer)] if Derive.TREE in derive else []
        for number, path in enumerate(old):
            if os.path.lexists(path):
                os.rename(path, space.file(str(number)))
    await LayerMaker(store, derive).from_store(layer)
