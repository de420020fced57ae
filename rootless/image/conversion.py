"""A manifest in the other of the two formats, OCI's and Docker's schema 2, or with layers that are packed otherwise.

The configuration keeps its bytes, and so the image its ID; the manifest gets another digest. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from rootless.errors import ImageError
from rootless.oci.digest import Digest
from rootless.oci.documents import Descriptor, Document, Manifest, encode
from rootless.oci.mediatype import MediaType


class Format(StrEnum):
    """The formats by podman-push(1)'s names."""

    OCI = "oci"
    DOCKER = "v2s2"


_PAIRS = (
    (MediaType.OCI_INDEX, MediaType.DOCKER_INDEX),
    (MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST),
    (MediaType.OCI_CONFIG, MediaType.DOCKER_CONFIG),
    (MediaType.OCI_LAYER, MediaType.DOCKER_LAYER),
    (MediaType.OCI_LAYER_GZIP, MediaType.DOCKER_LAYER_GZIP),
    (MediaType.OCI_LAYER_ZSTD, MediaType.DOCKER_LAYER_ZSTD),
    (MediaType.OCI_FOREIGN, MediaType.DOCKER_FOREIGN),
    (MediaType.OCI_FOREIGN_GZIP, MediaType.DOCKER_FOREIGN_GZIP),
)
_TO_DOCKER: Mapping[str, str] = {str(oci): str(docker) for oci, docker in _PAIRS}
_TO_OCI: Mapping[str, str] = {str(docker): str(oci) for oci, docker in _PAIRS}


class _Manifest(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    schema_version: int
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None


def format_of(media_type: str) -> Format:
    """The format that a manifest or index of this type belongs to."""
    return Format.DOCKER if media_type in _TO_OCI else Format.OCI


def media_type_in(media_type: str, wanted: Format) -> str:
    """The type of the same content in the wanted format. Raises ImageError if that has no such content."""
    other, own = (_TO_DOCKER, _TO_OCI) if wanted is Format.DOCKER else (_TO_OCI, _TO_DOCKER)
    if media_type in own:
        return media_type
    try:
        return other[media_type]
    except KeyError:
        raise ImageError(f"there is no {media_type[:120]!r} in an image of the format {wanted}") from None


def converted(
    manifest: Manifest, wanted: Format, layers: Sequence[Descriptor] | None = None, *, media_type: str = ""
) -> Document:
    """`manifest` in the wanted format, with these layers in place of its own; bytes that are the same every time.

    Docker's format has no annotations: they are left out. Raises ImageError.
    """
    chosen = tuple(layers if layers is not None else manifest.layers or ())
    kind = MediaType.DOCKER_MANIFEST if wanted is Format.DOCKER else MediaType.OCI_MANIFEST
    annotated = wanted is Format.OCI
    new = _Manifest(
        2,
        kind,
        _descriptor(manifest.config, wanted),
        tuple(_descriptor(layer, wanted) for layer in chosen),
        manifest.artifact_type if annotated else None,
        manifest.annotations if annotated else None,
    )
    return Document(kind, encode(new))


def _descriptor(blob: Descriptor, wanted: Format) -> Descriptor:
    annotations = blob.annotations if wanted is Format.OCI else None
    return Descriptor(media_type_in(blob.media_type, wanted), blob.digest, blob.size, annotations, blob.urls)


def repacked(layer: Descriptor, digest: Digest, size: int, compression: str) -> Descriptor:
    """The descriptor of a layer after it was packed as `gzip` or `zstd`; in OCI's terms."""
    kind = {"gzip": MediaType.OCI_LAYER_GZIP, "zstd": MediaType.OCI_LAYER_ZSTD}[compression]
    return Descriptor(kind, digest, size)
