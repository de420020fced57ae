"""From a reference to an image in the store.

    reference -> manifest or index -> the manifest for this platform -> configuration -> layers, several at once ->
    index.json

Each layer is transferred once and everything is made from it on the way (`rootless.image.layer`). The image gets its
name last, when all its parts are verified and stored: a pull that is cancelled, killed or out of space leaves at most
whole layers, which the next one uses.
"""

from __future__ import annotations

import os
from enum import StrEnum

import trio

from rootless.errors import HostError, ImageError, RegistryError
from rootless.image.access import Access
from rootless.image.derive import LayerMaker, for_each_layer
from rootless.image.lock import FileLock
from rootless.image.model import Derive, Image, Layer
from rootless.image.progress import PullProgress, Quiet
from rootless.image.registry import Registry
from rootless.image.store import ImageNotFound, Store, pair_layers
from rootless.oci.documents import (
    CONFIG_MAX,
    Document,
    ImageConfig,
    Index,
    Manifest,
    parse_config,
    parse_manifest,
)
from rootless.oci.mediatype import CONFIGS, MANIFESTS, layer_compression
from rootless.oci.platform import Platform, choose, listing
from rootless.oci.reference import Reference

PARALLEL = 4
"""Layers in flight at once."""

_REPEATS = 3
_TURN = 0.02  # seconds between two looks at a lock


class PullPolicy(StrEnum):
    """When `run` and `create` ask the registry (podman-run(1), `--pull`)."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"
    NEWER = "newer"


def host_platform() -> Platform:
    """What runs on this machine."""
    return Platform.of("linux", os.uname().machine)


async def obtain(
    store: Store,
    text: str,
    *,
    policy: PullPolicy = PullPolicy.MISSING,
    platform: Platform | None = None,
    access: Access | None = None,
    progress: PullProgress | None = None,
    derive: Derive = Derive.INDEX,
    squash: bool = False,
) -> Image:
    """The image that `text` names, from the store or from its registry as `policy` says.

    Raises ImageNotFound with NEVER, and what `pull` raises. With NEWER an unreachable registry does not matter while
    the store has the image.
    """
    local = None
    if policy is not PullPolicy.ALWAYS:
        try:
            local = store.resolve(text)
        except ImageNotFound:
            if policy is PullPolicy.NEVER:
                raise
        except ImageError:
            if policy is PullPolicy.NEVER:
                raise  # damaged: pulling repairs it
        if local is not None and platform is not None and not platform.matches(local.config.platform):
            if policy is PullPolicy.NEVER:
                raise ImageNotFound(
                    f"image {text} is in the store for {local.config.platform} only, not for {platform}"
                )
            local = None
        if local is not None and policy is not PullPolicy.NEWER:
            return local
        if local is not None and not _is_name(local, text):
            return local  # an ID: no registry has anything newer
    reference = Reference.parse(text)
    if local is not None and not await _is_outdated(store, reference, access or Access()):
        return local
    return await pull(
        store,
        reference,
        platform=platform,
        access=access,
        progress=progress,
        derive=derive,
        squash=squash,
    )


async def pull(
    store: Store,
    reference: Reference,
    *,
    platform: Platform | None = None,
    access: Access | None = None,
    progress: PullProgress | None = None,
    derive: Derive = Derive.INDEX,
    squash: bool = False,
) -> Image:
    """Fetch an image into the store and derive what is asked for.

    `platform` is this machine's by default. `squash`: all files of a tree belong to root (single-ID mode). Raises
    RegistryError, ImageError, HostError, UsageError.
    """
    report = progress if progress is not None else Quiet()
    report.message(f"Pulling {reference}")
    try:
        with store.pulling():
            async with _registry(reference, access or Access()) as registry:
                return await _pull(store, registry, reference, platform, report, derive, squash)
    except HostError:
        store.collect()  # most likely the disk is full
        raise


async def _pull(
    store: Store,
    registry: Registry,
    reference: Reference,
    platform: Platform | None,
    report: PullProgress,
    derive: Derive,
    squash: bool,
) -> Image:
    top = await registry.manifest(reference.version)
    document, manifest = await _select(registry, reference, top, platform)
    config_raw = await _config(store, registry, reference, manifest)
    config = parse_config(config_raw)
    _check_platform(reference, config, platform, report)
    layers = pair_layers(manifest, config)
    for layer in layers:
        layer_compression(layer.media_type)
    _check_space(store, reference, layers)
    for _ in range(_REPEATS):
        store.blobs.put(config_raw, manifest.config.digest)
        await _fetch_layers(store, registry, manifest, layers, report, derive, squash)
        image = store.add(document, reference=reference, source=top.digest)
        if image is not None:
            return image
    raise ImageError(
        f"parts of {reference} disappear from the store while they are pulled", hint="is it being removed?"
    )


async def _select(
    registry: Registry, reference: Reference, top: Document, platform: Platform | None
) -> tuple[Document, Manifest]:
    """The manifest of one platform. Raises ImageError, with the platforms there are, if none suits."""
    parsed = parse_manifest(top)
    if isinstance(parsed, Manifest):
        return top, parsed
    wanted = platform or host_platform()
    offers = [entry.platform if entry.media_type in MANIFESTS else None for entry in parsed.manifests]
    position = choose(wanted, offers)
    if position is None:
        raise ImageError(f"{reference} is not available for {wanted}", hint=f"the platforms it has: {listing(offers)}")
    entry = parsed.manifests[position]
    document = await registry.manifest(str(entry.digest))
    if len(document.raw) != entry.size:
        raise ImageError(f"the manifest {entry.digest} has {len(document.raw)} bytes; the index promises {entry.size}")
    manifest = parse_manifest(Document(entry.media_type, document.raw))
    if isinstance(manifest, Index):
        raise ImageError(f"the index of {reference} lists another index where an image should be")
    return Document(entry.media_type, document.raw), manifest


async def _config(store: Store, registry: Registry, reference: Reference, manifest: Manifest) -> bytes:
    descriptor = manifest.config
    if descriptor.media_type not in CONFIGS:
        raise ImageError(f"{reference} is not a container image: its configuration is {descriptor.media_type[:120]!r}")
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
        raw = await registry.document(descriptor, CONFIG_MAX)
        store.blobs.put(raw, descriptor.digest)
        return raw
    finally:
        lock.unlink()
        lock.release()


def _check_platform(reference: Reference, config: ImageConfig, platform: Platform | None, report: PullProgress) -> None:
    """An image that comes without an index says only in its configuration what it is for."""
    found = config.platform
    wanted = platform or host_platform()
    if wanted.matches(found):
        return
    if platform is not None or found.os != wanted.os:
        raise ImageError(f"{reference} is not available for {wanted}", hint=f"it is an image for {found}")
    report.message(f"Warning: {reference} is an image for {found}, and this machine is {wanted}")


def _check_space(store: Store, reference: Reference, layers: tuple[Layer, ...]) -> None:
    """Say at once what would fail after a long transfer. What is derived from the layers is not counted."""
    sizes = {layer.blob: layer.size for layer in layers if not store.blobs.has(layer.blob, layer.size)}
    space = os.statvfs(store.path)
    free = space.f_bavail * space.f_frsize
    if sum(sizes.values()) > free:
        raise HostError(
            f"{reference} needs {sum(sizes.values()) >> 20} MiB and {store.path} has {free >> 20} MiB left",
            hint="free some space, for example with `rcontain rmi`",
        )


async def _fetch_layers(
    store: Store,
    registry: Registry,
    manifest: Manifest,
    layers: tuple[Layer, ...],
    report: PullProgress,
    derive: Derive,
    squash: bool,
) -> None:
    """All layers, PARALLEL at a time. The first error stops the others."""
    descriptors = {blob.digest: blob for blob in manifest.layers or ()}
    maker = LayerMaker(store, derive, squash=squash)

    async def one(layer: Layer) -> None:
        await maker.fetch(layer, registry.blob(descriptors[layer.blob]), report)

    await for_each_layer(list(dict.fromkeys(layers)), PARALLEL, one)


async def _is_outdated(store: Store, reference: Reference, access: Access) -> bool:
    try:
        async with _registry(reference, access) as registry:
            return await registry.digest(reference.version) != store.source(reference)
    except RegistryError:
        return False


def _registry(reference: Reference, access: Access) -> Registry:
    environ = {**access.environ, **({"REGISTRY_AUTH_FILE": access.authfile} if access.authfile else {})}
    return Registry(reference, tls_verify=access.tls_verify, credentials=access.credentials, environ=environ)


def _is_name(image: Image, text: str) -> bool:
    return not image.id.startswith(text.removeprefix("sha256:"))
