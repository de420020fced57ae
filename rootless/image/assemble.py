"""New images: layers that are in the store, a configuration and a history become one that is like a pulled one.

Deterministic where SOURCE_DATE_EPOCH says which moment it is (reproducible-builds.org): the same layers and
configuration then have the same id.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import structs

from rootless.errors import ImageError, UsageError
from rootless.image.model import Image, Layer
from rootless.image.store import Store
from rootless.oci.digest import Digest
from rootless.oci.documents import (
    CONFIG_MAX,
    LAYERS_MAX,
    Descriptor,
    Document,
    History,
    ImageConfig,
    Manifest,
    RootFS,
    encode,
    parse_config,
)
from rootless.oci.mediatype import Compression, MediaType
from rootless.oci.reference import Reference

EPOCH = "SOURCE_DATE_EPOCH"
_DOCKER_LAYERS = {
    Compression.NONE: MediaType.DOCKER_LAYER,
    Compression.GZIP: MediaType.DOCKER_LAYER_GZIP,
    Compression.ZSTD: MediaType.DOCKER_LAYER_ZSTD,
}
_OCI_LAYERS = {
    Compression.NONE: MediaType.OCI_LAYER,
    Compression.GZIP: MediaType.OCI_LAYER_GZIP,
    Compression.ZSTD: MediaType.OCI_LAYER_ZSTD,
}


class Form(StrEnum):
    """Whose documents an image has."""

    OCI = "oci"
    DOCKER = "docker"


def moment(environ: Mapping[str, str]) -> str:
    """Now, or when SOURCE_DATE_EPOCH says, as RFC 3339. Raises UsageError."""
    text = environ.get(EPOCH, "")
    if not text:
        now = time.time_ns()
        return f"{datetime.fromtimestamp(now // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{now % 10**9:09d}Z"
    if not text.isascii() or not text.isdigit() or len(text) > 11:
        raise UsageError(f"{EPOCH} is {text!r}", hint="it is the seconds since 1970, such as 1700000000")
    return f"{datetime.fromtimestamp(int(text), UTC):%Y-%m-%dT%H:%M:%SZ}"


def new_image(
    store: Store,
    layers: Sequence[Layer],
    config: ImageConfig,
    history: Sequence[History],
    reference: Reference | None,
    *,
    form: Form = Form.OCI,
) -> Image:
    """Record an image of `layers`, bottom first, whose blobs are in the store, with `config` in all but layers.

    The caller holds `store.pulling()` from before the first blob was there. Raises ImageError, HostError, UsageError.
    """
    if len(layers) > LAYERS_MAX:
        raise ImageError(f"an image cannot have more than {LAYERS_MAX} layers", hint="use --squash")
    types = _DOCKER_LAYERS if form is Form.DOCKER else _OCI_LAYERS
    config = structs.replace(
        config, rootfs=RootFS(diff_ids=tuple(layer.diff_id for layer in layers)), history=tuple(history)
    )
    raw = config_document(config)
    if len(raw) > CONFIG_MAX:
        raise ImageError(f"the configuration of the image would have {len(raw)} bytes; the limit is {CONFIG_MAX}")
    digest = Digest.of(raw)
    docker = form is Form.DOCKER
    manifest = Manifest(
        config=Descriptor(MediaType.DOCKER_CONFIG if docker else MediaType.OCI_CONFIG, digest, len(raw)),
        layers=tuple(Descriptor(types[layer.compression], layer.blob, layer.size) for layer in layers),
        media_type=MediaType.DOCKER_MANIFEST if docker else MediaType.OCI_MANIFEST,
    )
    store.blobs.put(raw, digest)
    document = Document(manifest.media_type, _manifest_document(manifest))
    image = store.add(document, reference=reference)
    if image is None:
        raise ImageError("a layer of the new image was removed meanwhile", hint="try again")
    return image


def config_document(config: ImageConfig) -> bytes:
    """The configuration as JSON, members that say nothing left out, as other tools write it."""
    fields = json.loads(encode(config))
    assert isinstance(fields, dict)
    kept = _pruned(fields)
    for name in ("architecture", "os"):
        kept.setdefault(name, "")  # which the specification requires
    kept["rootfs"] = {"type": "layers", "diff_ids": fields["rootfs"]["diff_ids"] or []}
    raw = msgspec.json.encode(kept)
    parse_config(raw)
    return raw


def _manifest_document(manifest: Manifest) -> bytes:
    fields = json.loads(encode(manifest))
    return msgspec.json.encode(
        {"schemaVersion": 2, "mediaType": fields["mediaType"], "config": fields["config"], "layers": fields["layers"]}
    )


def _pruned(value: dict[str, Any]) -> dict[str, Any]:
    """Without null, empty texts, false, zero and what is empty after that; but `{}` as a set's member stays."""
    kept: dict[str, Any] = {}
    for name, inner in value.items():
        if name in ("ExposedPorts", "Volumes"):
            if inner:
                kept[name] = {key: {} for key in sorted(inner)}
        elif name in ("Labels", "Env", "Cmd", "Entrypoint", "Shell", "OnBuild", "Test"):
            if inner:
                kept[name] = inner
        elif isinstance(inner, dict):
            if pruned := _pruned(inner):
                kept[name] = pruned
        elif isinstance(inner, list):
            if inner:
                kept[name] = [_pruned(each) if isinstance(each, dict) else each for each in inner]
        elif inner not in (None, "", 0, False):
            kept[name] = inner
    return kept
