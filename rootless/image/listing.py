"""Lists of images between the store and registries: what is added to one, how one is kept, and how one is pushed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from msgspec.structs import replace

from rootless.errors import ImageError, RegistryError
from rootless.image.access import Access
from rootless.image.locations import Locations
from rootless.image.lock import FileLock
from rootless.image.lookup import Damaged, host_platform
from rootless.image.manifestlists import ORIGIN, Changes, Entry, ManifestList, PlatformFields, entry_of
from rootless.image.model import Image, ImageList
from rootless.image.progress import PullProgress, Quiet
from rootless.image.push import PARALLEL, StoredParts, Wishes, known_places, send, stored_manifest
from rootless.image.registry import Registry
from rootless.image.source import Destination, Source
from rootless.image.store import Store
from rootless.oci.digest import Digest
from rootless.oci.documents import (
    CONFIG_MAX,
    MANIFEST_MAX,
    Document,
    ImageConfig,
    Manifest,
    parse_config,
    parse_manifest,
)
from rootless.oci.mediatype import CONFIGS, INDEXES
from rootless.oci.platform import Platform, choose, listing
from rootless.oci.reference import Reference


def stored_list(store: Store, found: ImageList) -> ManifestList:
    """A list of the store, with all that its document says."""
    return ManifestList.parse(Document(found.media_type, store.blobs.read(found.digest, MANIFEST_MAX)))


def edit(store: Store, text: str, change: Callable[[ManifestList], ManifestList]) -> ImageList:
    """Put what `change` makes of a list in its place; all its names move. Raises what `change` and the store do."""
    with FileLock(os.path.join(store.tmp, "lists.lock")):
        old = store.resolve_index(text)
        document = change(stored_list(store, old)).to_document()
        if document.digest == old.digest:
            return old
        new = None
        for name in old.names:
            new = store.add_index(document, reference=Reference.parse(name))
        new = new or store.add_index(document)
        store.remove(str(old.digest))
        return new


# what is added


def entries_here(store: Store, text: str, *, every: bool, platform: Platform | None) -> list[Entry]:
    """The entry for an image of the store; of a list, for its image for a platform, or for `every` one.

    Raises ImageNotFound, ImageError.
    """
    found, _ = store.lookup().find(text)
    if isinstance(found, Damaged):
        raise ImageError(f"image {text} is damaged: {found.reason}", hint="pull it again")
    if isinstance(found, Image):
        return [entry_of(stored_manifest(store, found), fields_of(found.config))]
    origin = found.repo_digests[0].rpartition("@")[0] if found.repo_digests else None
    return _selected(stored_list(store, found), text, every, platform, origin)


async def entries_there(reference: Reference, access: Access, *, every: bool, platform: Platform | None) -> list[Entry]:
    """The same for an image in a registry. Raises RegistryError, ImageError."""
    failures: list[RegistryError] = []
    for location in Locations.load(access.environ).of(reference):
        try:
            async with Registry(reference, access, location=location) as source:
                return await _entries(source, reference, every, platform)
        except RegistryError as error:
            failures.append(error)
    raise failures[-1]


async def _entries(source: Source, reference: Reference, every: bool, platform: Platform | None) -> list[Entry]:
    document = await source.manifest()
    if document.media_type in INDEXES:
        return _selected(ManifestList.parse(document), str(reference), every, platform, reference.name)
    manifest = _manifest(document)
    fields = None
    if manifest.config.media_type in CONFIGS:
        fields = fields_of(parse_config(await source.document(manifest.config, CONFIG_MAX)))
    return [entry_of(document, fields, reference.name)]


def _selected(
    images: ManifestList, title: str, every: bool, platform: Platform | None, origin: str | None
) -> list[Entry]:
    noted = [_noted(each, origin) for each in images.manifests]
    if every:
        return noted
    offers = [_platform(each) for each in noted]
    wanted = platform or host_platform()
    position = choose(wanted, offers)
    if position is None:
        raise ImageError(f"{title} is not available for {wanted}", hint=f"there is {listing(offers)}; --all adds them")
    return [noted[position]]


def _noted(entry: Entry, origin: str | None) -> Entry:
    if origin is None or entry.origin is not None:
        return entry
    return Changes(annotations={ORIGIN: origin}).applied(entry)


def fields_of(config: ImageConfig) -> PlatformFields:
    """What a configuration says of its platform."""
    return PlatformFields(config.architecture, config.os, config.variant, config.os_version)


def _platform(entry: Entry) -> Platform | None:
    fields = entry.platform
    return Platform.of(fields.os, fields.architecture, fields.variant) if fields and fields.os else None


# pushing


async def push_list(
    store: Store,
    found: ImageList,
    destination: Destination,
    access: Access,
    *,
    images: bool = True,
    wishes: Wishes | None = None,
    progress: PullProgress | None = None,
    at_once: int = PARALLEL,
) -> Document:
    """Write a list, and its `images` before it, to `destination`, which is open. Returns the list that it got there.

    Images that are not in the store are copied from the repository that they were added from. Raises RegistryError,
    ImageError, HostError, UsageError.
    """
    wishes = wishes or Wishes()
    report = progress if progress is not None else Quiet()
    content = stored_list(store, found)
    elsewhere = [text.rpartition("@")[0] for text in found.repo_digests]
    known = known_places(store)
    sent: list[Entry] = []
    for number, entry in enumerate(content.manifests, 1):
        if not images:
            sent.append(entry)
            continue
        report.message(f"Image {number} of {len(content.manifests)}: {_platform(entry) or entry.digest}")
        places = [Reference.parse(name) for name in ([entry.origin] if entry.origin else elsewhere)]

        def origins(digest: Digest, places: Sequence[Reference] = places) -> Sequence[Reference]:
            return (*places, *known.get(digest, ()))

        document = await _send(store, entry, places, destination, access, origins, wishes, report, at_once)
        sent.append(replace(entry, media_type=document.media_type, digest=str(document.digest), size=len(document.raw)))
    result = content.for_others(wishes.format, sent).to_document()
    await destination.manifest(result)
    return result


async def _send(
    store: Store,
    entry: Entry,
    places: Sequence[Reference],
    destination: Destination,
    access: Access,
    origins: Callable[[Digest], Sequence[Reference]],
    wishes: Wishes,
    report: PullProgress,
    at_once: int,
) -> Document:
    """One image, from the store or from where it lies. Returns its manifest at the destination."""
    digest = entry.descriptor.digest
    if store.blobs.size(digest) is not None:
        document = Document(entry.media_type, store.blobs.read(digest, MANIFEST_MAX))
        manifest = _manifest(document)
        if store.lookup().is_complete(digest, manifest):
            return await send(
                store, document, manifest, StoredParts(store), destination,
                origins=origins, wishes=wishes, progress=report, version="", at_once=at_once,
            )  # fmt: skip
    async with AsyncExitStack() as stack:
        source, document = await _found(digest, places, access, stack)
        return await send(
            store, document, _manifest(document), source, destination,
            origins=origins, wishes=wishes, progress=report, version="", at_once=at_once,
        )  # fmt: skip


async def _found(
    digest: Digest, places: Sequence[Reference], access: Access, stack: AsyncExitStack
) -> tuple[Source, Document]:
    """The first place that has the image, opened until the end of `stack`."""
    failures: list[RegistryError] = []
    for place in places:
        reference = place.with_digest(digest)
        for location in Locations.load(access.environ).of(reference):
            try:
                source = await stack.enter_async_context(Registry(reference, access, location=location))
                return source, await source.manifest()
            except RegistryError as error:
                failures.append(error)
    if failures:
        raise failures[-1]
    raise ImageError(f"image {digest} of the list is not in the store, and where else it may be is not known")


def _manifest(document: Document) -> Manifest:
    manifest = parse_manifest(document)
    if not isinstance(manifest, Manifest):
        raise ImageError(f"{document.digest} is a list of images itself, which cannot be in a list")
    return manifest
