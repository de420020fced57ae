"""From the store, or from another source, to a destination: layers, several at once, then the configuration, and the
manifest last.

What the destination has already is not sent; what it has in another repository is mounted. The manifest is sent as it
is, so that an image keeps its digest, unless another format or another packing of its layers is asked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.conversion import Format, converted, format_of, repacked
from rootless.image.derive import for_each_layer
from rootless.image.model import Image, Layer
from rootless.image.progress import PullProgress, Quiet
from rootless.image.repack import Packing, read_pieces, repack
from rootless.image.source import Destination, LocalBlob
from rootless.image.store import Store, pair_layers
from rootless.image.workspace import Workspace
from rootless.oci.digest import Digest
from rootless.oci.documents import CONFIG_MAX, MANIFEST_MAX, Descriptor, Document, Manifest, parse_config
from rootless.oci.mediatype import CONFIGS, Compression, MediaType, layer_compression
from rootless.oci.reference import Reference

PARALLEL = 4
"""Layers in flight at once."""


class Parts(Protocol):
    """Where an image's parts are read from: the store, or a Source (`rootless.image.source`)."""

    async def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, verified."""

    def blob(self, descriptor: Descriptor, *, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from `start` on; not verified."""

    def local(self, descriptor: Descriptor) -> LocalBlob | None:
        """Where the blob lies in a file, if it does."""


class StoredParts:
    """The store as a place to read from."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def document(self, descriptor: Descriptor, limit: int) -> bytes:
        return self._store.blobs.read(descriptor.digest, limit)

    async def blob(self, descriptor: Descriptor, *, start: int = 0) -> AsyncGenerator[bytes, None]:
        for piece in read_pieces(self._store.blobs.path(descriptor.digest), offset=start):
            yield piece
            await trio.lowlevel.checkpoint()

    def local(self, descriptor: Descriptor) -> LocalBlob | None:
        if not self._store.blobs.has(descriptor.digest, descriptor.size):
            return None
        return LocalBlob(self._store.blobs.path(descriptor.digest), 0, descriptor.size)


@dataclass(frozen=True, slots=True)
class Wishes:
    """How an image shall look at its destination. By default as it is.

    `format`: the other one of the two. `packing`: how layers are compressed. `pack_plain`: an image of which no layer
    is compressed, such as docker-archive has, gets gzip; registries' users expect it.
    """

    format: Format | None = None
    packing: Packing | None = None
    pack_plain: bool = False

    def packing_of(self, layer: Layer, layers: Sequence[Layer]) -> Packing | None:
        """How one of an image's layers is to be packed again; None if it stays as it is."""
        packing = self.packing
        if packing is None and self.pack_plain and all(each.compression is Compression.NONE for each in layers):
            packing = Packing(Compression.GZIP)
        if packing is None and self.format is Format.DOCKER and layer.compression is not Compression.GZIP:
            packing = Packing(Compression.GZIP)  # what everybody reads in this format
        return packing if packing is not None and packing.concerns(layer) else None

    def checked(self) -> Wishes:
        """Raises UsageError for wishes that exclude each other."""
        if self.format is Format.DOCKER and self.packing and self.packing.compression is Compression.ZSTD:
            raise UsageError("the format v2s2 has no layers packed by zstd", hint="use --format oci")
        return self


async def push(
    store: Store,
    image: Image,
    destination: Destination,
    *,
    wishes: Wishes | None = None,
    progress: PullProgress | None = None,
    at_once: int = PARALLEL,
) -> Document:
    """Write an image of the store to `destination`, which is open. Returns the manifest that it got there.

    Raises RegistryError, ImageError, HostError, UsageError.
    """
    document = stored_manifest(store, image)
    known = known_places(store)
    return await send(
        store,
        document,
        image.manifest,
        StoredParts(store),
        destination,
        origins=lambda digest: known.get(digest, ()),
        wishes=wishes,
        progress=progress,
        at_once=at_once,
    )


async def send(
    store: Store,
    document: Document,
    manifest: Manifest,
    parts: Parts,
    destination: Destination,
    *,
    origins: Callable[[Digest], Sequence[Reference]],
    wishes: Wishes | None = None,
    progress: PullProgress | None = None,
    version: str | None = None,
    at_once: int = PARALLEL,
) -> Document:
    """Write one image to `destination`, `at_once` layers at a time. `origins`: in which repositories a blob may be.

    The manifest goes under the destination's name, or under its digest if `version` is an empty string.
    """
    wishes = (wishes or Wishes()).checked()
    report = progress if progress is not None else Quiet()
    with store.workspace() as space:
        layers = await _send_layers(parts, manifest, destination, origins, wishes, report, space, at_once)
        await destination.blob(manifest.config, lambda start: _config(parts, manifest, start), origins(_of(manifest)))
    result = document
    wanted = wishes.format or format_of(document.media_type)
    if wanted is not format_of(document.media_type) or list(layers) != list(manifest.layers or ()):
        result = converted(manifest, wanted, layers)
    await destination.manifest(result, str(result.digest) if version == "" else version)
    return result


async def _send_layers(
    parts: Parts,
    manifest: Manifest,
    destination: Destination,
    origins: Callable[[Digest], Sequence[Reference]],
    wishes: Wishes,
    report: PullProgress,
    space: Workspace,
    at_once: int,
) -> list[Descriptor]:
    """All layers; their descriptors as they are at the destination. The first error stops all."""
    blobs = manifest.layers or ()
    layers = await _layers(parts, manifest)
    done: dict[Layer, Descriptor] = {}
    descriptors = dict(zip(layers, blobs, strict=True))
    is_image = all(_is_layer(blob) for blob in blobs)

    async def one(layer: Layer) -> None:
        descriptor = descriptors[layer]
        packing = wishes.packing_of(layer, layers) if is_image else None
        source: Callable[[int], AsyncGenerator[bytes, None]] = lambda start: parts.blob(descriptor, start=start)  # noqa: E731
        if packing is not None:
            path = space.file(layer.blob.hex)
            descriptor = await _packed(parts, layer, descriptor, packing, path, space)
            source = lambda start: _file(path, start)  # noqa: E731
        report.start(descriptor.digest, descriptor.size)
        counted = _Counted(source, report, descriptor.digest)
        sent = await destination.blob(descriptor, counted.read, origins(descriptor.digest))
        report.finish(descriptor.digest, "sent" if sent else "already there")
        done[layer] = descriptor

    await for_each_layer(list(descriptors), at_once, one)
    return [done[layer] for layer in layers]


class _Counted:
    """A blob's bytes, reported as they are read for the first time."""

    def __init__(
        self, source: Callable[[int], AsyncGenerator[bytes, None]], report: PullProgress, digest: Digest
    ) -> None:
        self._source = source
        self._report = report
        self._digest = digest
        self._read = 0

    async def read(self, start: int) -> AsyncGenerator[bytes, None]:
        at = start
        async with aclosing(self._source(start)) as pieces:
            async for piece in pieces:
                yield piece
                at += len(piece)
                if at > self._read:
                    self._report.advance(self._digest, at - self._read)
                    self._read = at


async def _layers(parts: Parts, manifest: Manifest) -> tuple[Layer, ...]:
    """The layers with what they unpack to. What is no image, such as an attestation, has none: its blobs stay as they
    are.
    """
    blobs = manifest.layers or ()
    if manifest.config.media_type not in CONFIGS or not all(_is_layer(blob) for blob in blobs):
        return tuple(Layer(blob.digest, blob.digest, blob.media_type, blob.size) for blob in blobs)
    return pair_layers(manifest, parse_config(await parts.document(manifest.config, CONFIG_MAX)))


def _is_layer(blob: Descriptor) -> bool:
    try:
        layer_compression(blob.media_type)
    except ImageError:
        return False
    return True


async def _packed(
    parts: Parts, layer: Layer, descriptor: Descriptor, packing: Packing, path: str, space: Workspace
) -> Descriptor:
    """The layer packed again, in the file `path`."""
    local = parts.local(descriptor)
    if local is None:
        fetched = space.file(f"{layer.blob.hex}.fetched")
        await _fetch(parts, descriptor, fetched)
        local = LocalBlob(fetched, 0, descriptor.size)
    pieces = read_pieces(local.path, offset=local.offset, size=local.size)
    digest, size = await trio.to_thread.run_sync(
        lambda: repack(layer, pieces, packing, path, turn=trio.from_thread.check_cancelled)
    )
    return repacked(descriptor, digest, size, packing.compression)


async def _fetch(parts: Parts, descriptor: Descriptor, path: str) -> None:
    try:
        with open(path, "xb") as file:
            async with aclosing(parts.blob(descriptor)) as pieces:
                async for piece in pieces:
                    file.write(piece)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


async def _file(path: str, start: int) -> AsyncGenerator[bytes, None]:
    for piece in read_pieces(path, offset=start):
        yield piece
        await trio.lowlevel.checkpoint()


async def _config(parts: Parts, manifest: Manifest, start: int) -> AsyncGenerator[bytes, None]:
    yield (await parts.document(manifest.config, CONFIG_MAX))[start:]


def _of(manifest: Manifest) -> Digest:
    return manifest.config.digest


def stored_manifest(store: Store, image: Image) -> Document:
    """The manifest's own bytes. Raises ImageError if they are damaged."""
    raw = store.blobs.read(image.digest, MANIFEST_MAX)
    return Document(image.manifest.media_type or MediaType.OCI_MANIFEST, raw)


def known_places(store: Store) -> dict[Digest, tuple[Reference, ...]]:
    """For each blob the repositories that should have it: where its images came from, then what they are named."""
    places: dict[Digest, dict[Reference, None]] = {}
    for image in store.images():
        own = [place for text in (*image.repo_digests, *image.names) if (place := _place(text)) is not None]
        for blob in (image.manifest.config.digest, *(layer.blob for layer in image.layers)):
            places.setdefault(blob, {}).update(dict.fromkeys(own))
    return {blob: tuple(found) for blob, found in places.items()}


def _place(text: str) -> Reference | None:
    """The repository in a name; other tools give some to their images that are none."""
    try:
        return replace(Reference.parse(text), tag="latest", digest=None)
    except UsageError:
        return None
