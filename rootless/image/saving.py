"""From the store to places in files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from rootless.errors import ImageError
from rootless.image.conversion import Format, converted, format_of
from rootless.image.destinations import DirFolder, DockerArchive, LayoutArchive, LayoutFolder
from rootless.image.filesource import chunks
from rootless.image.model import Image
from rootless.image.source import LocalBlob
from rootless.image.store import Store
from rootless.oci.documents import MANIFEST_MAX, Descriptor, Document, sniff_media_type
from rootless.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Saved:
    """An image to be saved, and the names that it is to have there."""

    image: Image
    names: tuple[Reference, ...]


async def save(
    store: Store, images: Sequence[Saved], target: LayoutFolder | LayoutArchive | DockerArchive | DirFolder
) -> list[str]:
    """Write images to a place, one after the other. Returns notes. Raises ImageError, HostError, UsageError."""
    notes: list[str] = []
    async with target:
        for saved in images:
            document = _stored(store, saved.image)
            if isinstance(target, DirFolder):
                document = _in(document, saved, Format.DOCKER, notes)
            elif not isinstance(target, DockerArchive):
                document = _in(document, saved, Format.OCI, notes)
            manifest = saved.image.manifest
            for blob in (*(manifest.layers or ()), manifest.config):
                await _copy(store, blob, target)
            names = saved.names
            if isinstance(target, DockerArchive):
                target.add(document, names)
            elif isinstance(target, DirFolder):
                await target.manifest(document)
            else:
                await target.manifest(document, str(document.digest))
                target.add(document, [str(name) for name in names])
    return notes


def _in(document: Document, saved: Saved, wanted: Format, notes: list[str]) -> Document:
    """The manifest in a place's own format."""
    if format_of(document.media_type) is wanted:
        return document
    new = converted(saved.image.manifest, wanted)
    notes.append(
        f"{saved.image.short_id} has a manifest of the other format: there it is {new.digest}, here {document.digest}"
    )
    return new


def _stored(store: Store, image: Image) -> Document:
    raw = store.blobs.read(image.digest, MANIFEST_MAX)
    media_type = store.lookup().catalog.media_type(image.digest) or image.manifest.media_type
    return Document(media_type or sniff_media_type(raw), raw)


async def _copy(
    store: Store, blob: Descriptor, target: LayoutFolder | LayoutArchive | DockerArchive | DirFolder
) -> None:
    def read(start: int) -> AsyncGenerator[bytes, None]:
        if not store.blobs.has(blob.digest, blob.size):
            raise ImageError(f"blob {blob.digest} is missing from the store", hint="pull the image again")
        return chunks(LocalBlob(store.blobs.path(blob.digest), 0, blob.size), start)

    await target.blob(blob, read)
