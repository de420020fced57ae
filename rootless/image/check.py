"""Looking for damage: every byte of the store against its digest, and what is derived from layers against the layers.

A layer is derived once more from its verified blob, in a scratch store beside this one, and the two are compared; its
frames are unpacked and hashed, its tree is read against the index, contents included. Nothing is held in memory but
one block and one directory's names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from fuse.entry import Entry
from fuse.errors import LayerError
from fuse.frames import FramesReader
from fuse.index import Index
from fuse.layers.archive import ArchiveLayer
from fuse.whiteout import WHITEOUT_PREFIX
from rootless.errors import HostError, ImageError
from rootless.image.derive import LayerMaker
from rootless.image.lookup import Lookup
from rootless.image.model import DamagedBlob, Derive, Layer
from rootless.image.store import Store
from rootless.oci.digest import Digest
from rootless.oci.documents import CONFIG_MAX, Descriptor, Manifest, parse_config
from rootless.oci.documents import Index as ImageIndex
from rootless.oci.mediatype import INDEXES, MediaType, layer_compression

_BLOCK = 1 << 20
_TIMES = range(1 << 31)  # seconds that every file system can keep


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong. `what` is blob, index, frames or tree; `layer` is the layer of the last three."""

    what: str
    reason: str
    blob: Descriptor
    layer: Layer | None = None
    sources: tuple[str, ...] = ()
    """`repository@digest` of images that need it: where it may be fetched again."""

    def __str__(self) -> str:
        name = f"blob {self.blob.digest}" if self.layer is None else f"layer {self.layer.diff_id}: its {self.what}"
        return f"{name} {self.reason}"


@dataclass(slots=True)
class Needed:
    """What index.json reaches: blobs with whom to ask for them, and the layers."""

    blobs: dict[Digest, tuple[Descriptor, tuple[str, ...]]]
    layers: dict[Layer, tuple[str, ...]]


def needed(store: Store) -> Needed:
    """Everything that the store's images consist of, as far as documents can be read. Raises ImageError for index.json.

    Of a list, images whose manifests are not here are not missed.
    """
    lookup = store.lookup()
    found = Needed({}, {})
    for entry in lookup.catalog.entries:
        _reach(store, lookup, entry, lookup.catalog.sources(entry.digest), found)
    return found


def _reach(store: Store, lookup: Lookup, entry: Descriptor, sources: tuple[str, ...], found: Needed) -> None:
    known = found.blobs.get(entry.digest)
    found.blobs[entry.digest] = (entry, tuple(dict.fromkeys((known[1] if known else ()) + sources)))
    try:
        document = lookup.document(entry.digest, entry.media_type)
    except ImageError:
        return
    if isinstance(document, ImageIndex):
        for member in document.manifests:
            if store.blobs.size(member.digest) is not None and member.media_type not in INDEXES:
                _reach(store, lookup, member, sources, found)
        return
    assert isinstance(document, Manifest)
    for part in (document.config, *(document.layers or ())):
        known = found.blobs.get(part.digest)
        found.blobs[part.digest] = (part, tuple(dict.fromkeys((known[1] if known else ()) + sources)))
    try:
        diff_ids = parse_config(store.blobs.read(document.config.digest, CONFIG_MAX)).diff_ids
    except ImageError:
        return
    for diff_id, part in zip(diff_ids, document.layers or (), strict=False):
        layer = Layer(diff_id, part.digest, part.media_type, part.size)
        found.layers[layer] = tuple(dict.fromkeys(found.layers.get(layer, ()) + sources))


def check_blob(store: Store, blob: Descriptor, sources: tuple[str, ...], *, quick: bool) -> Damage | None:
    """A blob against its digest; `quick` looks at sizes only, but reads documents."""
    size = store.blobs.size(blob.digest)
    if size is None:
        return Damage("blob", "is missing", blob, sources=sources)
    if size != blob.size:
        return Damage("blob", f"has {size} bytes instead of {blob.size}", blob, sources=sources)
    if quick and is_layer(blob):
        return None
    try:
        sound = store.blobs.is_sound(blob.digest)
    except HostError as error:
        return Damage("blob", f"cannot be read: {error.message}", blob, sources=sources)
    return None if sound else Damage("blob", "does not have its digest", blob, sources=sources)


def is_layer(blob: Descriptor) -> bool:
    """Whether a blob is a layer, and no document."""
    try:
        layer_compression(blob.media_type)
    except ImageError:
        return blob.media_type not in {*MediaType}
    return True


def check_quickly(store: Store, layer: Layer) -> Iterator[Damage]:
    """What can be said of a layer's derived forms without deriving it again."""
    blob = Descriptor(layer.media_type, layer.blob, layer.size)
    if not os.path.exists(store.index_path(layer)):
        return
    try:
        index = Index(store.index_path(layer))
        try:
            index.verify()
        finally:
            index.close()
    except (LayerError, OSError) as error:
        yield Damage("index", f"is damaged: {error}", blob, layer)
    if not store.has_index(layer):
        yield Damage("frames", "are missing", blob, layer)


async def check_layer(store: Store, layer: Layer, *, owners: bool) -> list[Damage]:
    """A layer's derived forms against its blob, which is sound. `owners` says whether a tree has the image's owners."""
    blob = Descriptor(layer.media_type, layer.blob, layer.size)
    has_index, has_tree = os.path.exists(store.index_path(layer)), store.has_tree(layer)
    has_frames = os.path.exists(store.frames_path(layer))
    if not (has_index or has_tree or has_frames):
        return []
    with store.workspace() as space:
        scratch = Store(space.file("again"))
        scratch.prepare()
        os.makedirs(os.path.dirname(scratch.blobs.path(layer.blob)), exist_ok=True)
        os.symlink(os.path.abspath(store.blobs.path(layer.blob)), scratch.blobs.path(layer.blob))
        try:
            await LayerMaker(scratch, Derive.INDEX).from_store(layer)
        except DamagedBlob as error:
            return [Damage("blob", error.message, blob)]
        except ImageError as error:
            return [Damage("blob", f"cannot be read: {error.message}", blob)]
        found = []
        if has_index:
            found += [Damage("index", reason, blob, layer) for reason in _index(store, scratch, layer)]
        if has_frames:
            found += [Damage("frames", reason, blob, layer) for reason in _frames(store, layer)]
        elif has_index and not store.has_index(layer):
            found.append(Damage("frames", "are missing", blob, layer))
        if has_tree:
            tree = _Tree(store.tree_path(layer), scratch, layer, owners=owners)
            reason = next(tree.compare(), None)
            found += [Damage("tree", reason, blob, layer)] if reason else []
        return found


def _index(store: Store, scratch: Store, layer: Layer) -> Iterator[str]:
    try:
        index, again = Index(store.index_path(layer)), Index(scratch.index_path(layer))
        try:
            index.verify()
            if index.count != again.count:
                yield f"has {index.count} entries instead of {again.count}"
            elif any(one != other for one, other in zip(index.entries(), again.entries(), strict=True)):
                yield "differs from the layer"
        finally:
            index.close()
            again.close()
    except (LayerError, OSError) as error:
        yield f"is damaged: {error}"


def _frames(store: Store, layer: Layer) -> Iterator[str]:
    hasher = layer.diff_id.hasher()
    try:
        reader = FramesReader(store.frames_path(layer))
        try:
            for offset in range(0, reader.size, _BLOCK):
                hasher.update(reader.pread(offset, min(_BLOCK, reader.size - offset)))
        finally:
            reader.close()
    except (LayerError, OSError) as error:
        yield f"are damaged: {error}"
        return
    if hasher.hexdigest() != layer.diff_id.hex:
        yield "do not have the layer's digest"


class _Tree:
    """An extracted layer against its index: names, types, modes, owners, sizes, times, targets, contents."""

    def __init__(self, path: str, scratch: Store, layer: Layer, *, owners: bool) -> None:
        self._path = os.fsencode(path)
        self._index_path = scratch.index_path(layer)
        data, kind = scratch.layer_data(layer)
        self._archive = ArchiveLayer(self._index_path, data, "frames" if kind == "frames" else "plain")
        self._owners = owners

    def compare(self) -> Iterator[str]:
        index = Index(self._index_path)
        try:
            for number in range(index.count):
                entry = index.entry(number)
                if not entry.whiteout:
                    yield from self._entry(entry, index.node(number).inode)
                if entry.is_dir:
                    yield from self._names(
                        entry.path, {index.name(index.node(child)) for child in index.children(number)}
                    )
        except OSError as error:
            yield f"cannot be read: {os.fsdecode(error.filename or b'')}: {error.strerror}"
        finally:
            index.close()
            self._archive.close()

    def _entry(self, entry: Entry, number: int) -> Iterator[str]:
        shown = "/" + os.fsdecode(entry.path)
        path = self._path + b"/" + entry.path
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            yield f"lacks {shown}"
            return
        kind = stat.S_IFMT(entry.mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return  # an empty file in its place
        if stat.S_IFMT(found.st_mode) != kind:
            yield f"has another kind of file at {shown}"
            return
        if kind == stat.S_IFLNK:
            if os.readlink(path) != entry.target:
                yield f"has another target of the link {shown}"
            return
        if not entry.implicit and stat.S_IMODE(found.st_mode) != stat.S_IMODE(entry.mode):
            yield f"has another mode of {shown}"
        if self._owners and not entry.implicit and (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
            yield f"has another owner of {shown}"
        if kind != stat.S_IFREG:
            return
        if found.st_size != entry.size:
            yield f"has {found.st_size} bytes instead of {entry.size} in {shown}"
        elif entry.mtime_ns // 10**9 in _TIMES and found.st_mtime_ns != entry.mtime_ns:
            yield f"has another time of {shown}"
        elif entry.hardlink is None and not self._same_content(path, number, entry.size):
            yield f"has another content of {shown}"

    def _same_content(self, path: bytes, number: int, size: int) -> bool:
        archived = self._archive.open(number)
        try:
            with open(path, "rb", buffering=0) as file:
                for offset in range(0, size, _BLOCK):
                    if os.pread(file.fileno(), _BLOCK, offset) != archived.pread(offset, min(_BLOCK, size - offset)):
                        return False
        finally:
            archived.close()
        return True

    def _names(self, directory: bytes, known: set[bytes]) -> Iterator[str]:
        try:
            present = os.listdir(self._path + b"/" + directory)
        except (FileNotFoundError, NotADirectoryError):
            return  # said already
        for name in present:
            if name not in known and not name.startswith(WHITEOUT_PREFIX):
                yield f"has a file that the layer has not: /{os.fsdecode(os.path.join(directory, name))}"
