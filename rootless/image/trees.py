"""The layers of an image opened for reading, packed or unpacked, as the store has them."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from fuse.errors import LayerError
from fuse.frames import FrameCache
from fuse.index import Index
from fuse.layers import Layer as Tree
from fuse.layers.archive import ArchiveLayer
from fuse.layers.directory import DirectoryLayer
from rootless.errors import HostError, ImageError
from rootless.image.model import Layer
from rootless.image.store import Store

_REPAIR = "`rcontain system check --repair` makes it again"


@contextmanager
def open_trees(store: Store, layers: Sequence[Layer]) -> Iterator[list[Tree]]:
    """`layers` as trees, in the same order; a layer that is there twice is one tree. Closed when the context is left.

    Damage that is found while they are read is an ImageError as well. A packed layer says what is a device, where the
    unpacked one has an empty file; so that one is taken where both are there.
    """
    with ExitStack() as stack:
        cache = FrameCache()
        trees: dict[Layer, Tree] = {}
        for layer in layers:
            if layer not in trees:
                trees[layer] = _open(store, layer, cache)
                stack.callback(trees[layer].close)
        with _translated():
            yield [trees[layer] for layer in layers]


def content_size(store: Store, layer: Layer) -> int:
    """Bytes of the files of a layer that has an index, unpacked. Raises ImageError."""
    try:
        index = Index(store.index_path(layer))
    except (LayerError, OSError) as error:
        raise _unreadable(layer, error) from error
    try:
        nodes = (index.node(number) for number in range(index.count))
        return sum(node.size for number, node in enumerate(nodes) if stat.S_ISREG(node.mode) and node.inode == number)
    finally:
        index.close()


def _open(store: Store, layer: Layer, cache: FrameCache) -> Tree:
    try:
        if store.has_index(layer):
            path, kind = store.layer_data(layer)
            return ArchiveLayer(store.index_path(layer), path, "frames" if kind == "frames" else "plain", cache=cache)
        if store.has_tree(layer):
            return DirectoryLayer(store.tree_path(layer))
    except (LayerError, OSError) as error:
        raise _unreadable(layer, error) from error
    raise ImageError(f"layer {layer.diff_id.short} is not unpacked", hint="run the image once, or pull it again")


def _unreadable(layer: Layer, error: Exception) -> ImageError:
    return ImageError(f"cannot read the index of layer {layer.diff_id.short}: {error}", hint=_REPAIR)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except LayerError as error:
        raise ImageError(f"a layer cannot be read: {error}", hint=_REPAIR) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"cannot read the layers: {error}") from error
