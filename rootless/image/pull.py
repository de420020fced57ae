"""From a source to an image in the store.

    manifest or index -> the manifest for this platform -> whether it is to be trusted -> configuration -> layers,
    several at once -> index.json

Each layer is transferred once and everything is made from it on the way (`rootless.image.layer`). The image gets its
name last, when all its parts are verified and stored: a pull that is cancelled, killed or out of space leaves at most
whole layers, which the next one uses.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import trio

from rootless.errors import HostError, ImageError, RegistryError
from rootless.image.access import Access
from rootless.image.derive import LayerMaker, for_each_layer
from rootless.image.locations import Location, Locations
from rootless.image.lock import FileLock
from rootless.image.lookup import host_platform, pair_layers
from rootless.image.model import Derive, Image, Layer, settled
from rootless.image.policy import Policy
from rootless.image.progress import PullProgress, Quiet
from rootless.image.registry import Registry
from rootless.image.source import Source
from rootless.image.store import Store
from rootless.oci.documents import (
    CONFIG_MAX,
    Document,
    ImageConfig,
    Index,
    Manifest,
    parse_config,
    parse_manifest,
)
from rootless.oci.mediatype import CONFIGS, FOREIGN, MANIFESTS, layer_compression
from rootless.oci.platform import Platform, choose, listing
from rootless.oci.reference import Reference
from rootless.oci.strict import check_config, check_manifest

PARALLEL = 4
"""Layers in flight at once."""

_REPEATS = 3
_TURN = 0.02  # seconds between two looks at a lock


async def pull(
    store: Store,
    reference: Reference,
    *,
    access: Access | None = None,
    platform: Platform | None = None,
    progress: PullProgress | None = None,
    derive: Derive = Derive.INDEX,
    squash: bool = False,
) -> Image:
    """Fetch an image from where registries.conf says that it is, the first place that has it.

    `platform` is this machine's by default. `squash`: all files of a tree belong to root (single-ID mode). Raises
    RegistryError, ImageError, HostError, UsageError.
    """
    access = access or Access()
    report = progress if progress is not None else Quiet()
    report.message(f"Pulling {reference}")
    policy = Policy.load(access.environ)
    failures: list[tuple[Location, RegistryError | ImageError]] = []
    for location in Locations.load(access.environ).of(reference):
        source = Registry(reference, access, location=location)
        try:
            return await take(
                store,
                source,
                reference=reference,
                policy=policy,
                platform=platform,
                progress=report,
                derive=derive,
                squash=squash,
            )
        except (RegistryError, ImageError) as error:
            failures.append((location, error))
    raise _joined(failures)


def _joined(failures: list[tuple[Location, RegistryError | ImageError]]) -> RegistryError | ImageError:
    """The last failure, which is the registry's own, with those of the mirrors before it."""
    _, last = failures[-1]
    earlier = "; ".join(f"{location.reference}: {error.message}" for location, error in failures[:-1])
    return type(last)(f"{last.message} (before that, {earlier})", hint=last.hint) if earlier else last


async def take(
    store: Store,
    source: AbstractAsyncContextManager[Source],
    *,
    policy: Policy,
    reference: Reference | None = None,
    names: Sequence[Reference] = (),
    platform: Platform | None = None,
    progress: PullProgress | None = None,
    derive: Derive = Derive.INDEX,
    squash: bool = False,
) -> Image:
    """Copy the image that a source stands for into the store, and derive what is asked for.

    It is called `reference`, with the source as where it came from, or else `names`, which may be none. Raises what
    `pull` raises.
    """
    report = progress if progress is not None else Quiet()
    try:
        with store.pulling():
            async with source as opened:
                image = await _take(store, opened, policy, reference, platform, report, derive, squash)
            for name in names:
                store.tag(image, name)
            return store.resolve(image.id) if names else image
    except HostError:
        store.collect()  # most likely the disk is full
        raise


async def _take(
    store: Store,
    source: Source,
    policy: Policy,
    reference: Reference | None,
    platform: Platform | None,
    report: PullProgress,
    derive: Derive,
    squash: bool,
) -> Image:
    top = await source.manifest()
    document, manifest = await _select(source, top, platform)
    await policy.check(source.identity, document.digest, lambda: source.signatures(str(document.digest)))
    _check_layers(source, manifest)
    config_raw = await _config(store, source, manifest)
    config = parse_config(config_raw)
    _check_platform(source, config, platform, report)
    layers = pair_layers(manifest, config)
    _check_space(store, source, layers)
    for _ in range(_REPEATS):
        store.blobs.put(config_raw, manifest.config.digest)
        await _fetch_layers(store, source, manifest, layers, report, derive, squash)
        image = store.add(document, reference=reference, source=top.digest)
        if image is not None:
            return image
    raise ImageError(
        f"parts of {source.title} disappear from the store while they are pulled", hint="is it being removed?"
    )


async def _select(source: Source, top: Document, platform: Platform | None) -> tuple[Document, Manifest]:
    """The manifest of one platform. Raises ImageError, with the platforms there are, if none suits."""
    parsed = _parse(top)
    if isinstance(parsed, Manifest):
        return top, parsed
    wanted = platform or host_platform()
    offers = [entry.platform if entry.media_type in MANIFESTS else None for entry in parsed.manifests]
    position = choose(wanted, offers)
    if position is None:
        raise ImageError(
            f"{source.title} is not available for {wanted}", hint=f"the platforms it has: {listing(offers)}"
        )
    entry = parsed.manifests[position]
    found = await source.manifest(str(entry.digest))
    if len(found.raw) != entry.size:
        raise ImageError(f"the manifest {entry.digest} has {len(found.raw)} bytes; the index promises {entry.size}")
    document = Document(entry.media_type, found.raw)
    manifest = _parse(document)
    if isinstance(manifest, Index):
        raise ImageError(f"the index of {source.title} lists another index where an image should be")
    return document, manifest


def _parse(document: Document) -> Manifest | Index:
    parsed = parse_manifest(document)
    check_manifest(document.raw)
    return parsed


def _check_layers(source: Source, manifest: Manifest) -> None:
    """Refuse what is no layer, and layers that registries may not pass on (OCI image-spec, "Non-Distributable")."""
    for layer in manifest.layers or ():
        if layer.media_type in FOREIGN:
            raise ImageError(
                f"{source.title} has the layer {layer.digest.short}, which only its maker may distribute "
                f"({layer.media_type})",
                hint="such images are for Windows; addresses that an image names are not fetched from",
            )
        layer_compression(layer.media_type)


async def _config(store: Store, source: Source, manifest: Manifest) -> bytes:
    descriptor = manifest.config
    if descriptor.media_type not in CONFIGS:
        raise ImageError(
            f"{source.title} is not a container image: its configuration is {descriptor.media_type[:120]!r}"
        )
    # One pull of an image fetches; the others wait and find it. Layers have locks of the same kind (worker.py).
    lock = FileLock(os.path.join(store.tmp, f"{descriptor.digest.hex}.lock"))
    while not lock.acquire(wait=False):  # noqa: ASYNC110 - a lock of another process has no event to wait for
        await trio.sleep(_TURN)
    try:
        if store.blobs.has(descriptor.digest, descriptor.size):
            try:
                return store.blobs.read(descriptor.digest, CONFIG_MAX)
            except ImageError:
                pass  # damaged on disk: fetch it again
        raw = await source.document(descriptor, CONFIG_MAX)
        parse_config(raw)
        check_config(raw)
        store.blobs.put(raw, descriptor.digest)
        return raw
    finally:
        lock.unlink()
        lock.release()


def _check_platform(source: Source, config: ImageConfig, platform: Platform | None, report: PullProgress) -> None:
    """An image that comes without an index says only in its configuration what it is for."""
    found = config.platform
    wanted = platform or host_platform()
    if wanted.matches(found):
        return
    if platform is not None or found.os != wanted.os:
        raise ImageError(f"{source.title} is not available for {wanted}", hint=f"it is an image for {found}")
    report.message(f"Warning: {source.title} is an image for {found}, and this machine is {wanted}")


def _check_space(store: Store, source: Source, layers: tuple[Layer, ...]) -> None:
    """Say at once what would fail after a long transfer. What is derived from the layers is not counted."""
    sizes = {layer.blob: layer.size for layer in layers if not store.blobs.has(layer.blob, layer.size)}
    space = os.statvfs(store.path)
    free = space.f_bavail * space.f_frsize
    if sum(sizes.values()) > free:
        raise HostError(
            f"{source.title} needs {sum(sizes.values()) >> 20} MiB and {store.path} has {free >> 20} MiB left",
            hint="free some space, for example with `rcontain rmi`",
        )


async def _fetch_layers(
    store: Store,
    source: Source,
    manifest: Manifest,
    layers: tuple[Layer, ...],
    report: PullProgress,
    derive: Derive,
    squash: bool,
) -> None:
    """All layers, PARALLEL at a time. The first error stops the others."""
    descriptors = {blob.digest: blob for blob in manifest.layers or ()}
    maker = LayerMaker(store, settled(derive, layers), squash=squash)

    async def one(layer: Layer) -> None:
        blob = descriptors[layer.blob]
        await maker.fetch(layer, lambda start: source.blob(blob, start=start), report, lambda: source.local(blob))

    await for_each_layer(list(dict.fromkeys(layers)), PARALLEL, one)
