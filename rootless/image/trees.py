"""The layers of an image opened for reading, packed or unpacked, as the store has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from fuse.errors import LayerError
from fuse.frames import FrameCache
from fuse.layers import Layer as Tree
from fuse.layers.archive import ArchiveLayer
from fuse.layers.directory import DirectoryLayer
from rootless.errors import HostError, ImageError
from rootless.image.model import Layer
from rootless.image.store import Store


@contextmanager
def open_trees(store: Store, layers: Sequence[Layer]) -> Iterator[list[Tree]]:
    """`layers` as trees, in the same order; closed when the context is left.

    Damage that is found while they are read is an ImageError as well. A packed layer says what is a device, where the
    unpacked one has an empty file; so that one is taken where both are there.
    """
    with ExitStack() as stack, _translated():
        cache = FrameCache()
        trees: list[Tree] = []
        for layer in layers:
            tree = _open(store, layer, cache)
            stack.callback(tree.close)
            trees.append(tree)
        yield trees


def _open(store: Store, layer: Layer, cache: FrameCache) -> Tree:
    if store.has_index(layer):
        path, kind = store.layer_data(layer)
        return ArchiveLayer(store.index_path(layer), path, "frames" if kind == "frames" else "plain", cache=cache)
    if store.has_tree(layer):
        return DirectoryLayer(store.tree_path(layer))
    raise ImageError(f"layer {layer.diff_id.short} is not unpacked", hint="run the image once, or pull it again")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except LayerError as error:
        raise ImageError(f"a layer cannot be read: {error}") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"cannot read the layers: {error}") from error
