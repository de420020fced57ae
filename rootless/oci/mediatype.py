"""Media types of manifests, configurations and layers, OCI and Docker schema 2.

Sources: OCI image-spec `media-types.md` and `layer.md`; distribution `manifest-v2-2.md`.
"""

from __future__ import annotations

from enum import StrEnum

from rootless.errors import ImageError


class MediaType(StrEnum):
    """The media types that this engine reads."""

    OCI_INDEX = "application/vnd.oci.image.index.v1+json"
    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
    OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
    OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
    OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
    OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    OCI_FOREIGN_GZIP = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    OCI_FOREIGN_ZSTD = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
    DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
    DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
    DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
    DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
    DOCKER_FOREIGN_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


class Compression(StrEnum):
    """How a layer's tar is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


INDEXES = frozenset({MediaType.OCI_INDEX, MediaType.DOCKER_INDEX})
MANIFESTS = frozenset({MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST})
CONFIGS = frozenset({MediaType.OCI_CONFIG, MediaType.DOCKER_CONFIG})
FOREIGN = frozenset(
    {
        MediaType.OCI_FOREIGN,
        MediaType.OCI_FOREIGN_GZIP,
        MediaType.OCI_FOREIGN_ZSTD,
        MediaType.DOCKER_FOREIGN,
        MediaType.DOCKER_FOREIGN_GZIP,
    }
)
# Docker's schema 1, which registries stopped serving; known only to be refused by name.
SCHEMA1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
ACCEPT = ", ".join([*sorted(MANIFESTS), *sorted(INDEXES)])

_COMPRESSION = {
    MediaType.OCI_LAYER: Compression.NONE,
    MediaType.OCI_LAYER_GZIP: Compression.GZIP,
    MediaType.OCI_LAYER_ZSTD: Compression.ZSTD,
    MediaType.OCI_FOREIGN: Compression.NONE,
    MediaType.OCI_FOREIGN_GZIP: Compression.GZIP,
    MediaType.OCI_FOREIGN_ZSTD: Compression.ZSTD,
    MediaType.DOCKER_LAYER: Compression.NONE,
    MediaType.DOCKER_LAYER_GZIP: Compression.GZIP,
    MediaType.DOCKER_LAYER_ZSTD: Compression.ZSTD,
    MediaType.DOCKER_FOREIGN: Compression.NONE,
    MediaType.DOCKER_FOREIGN_GZIP: Compression.GZIP,
}


def layer_compression(media_type: str) -> Compression:
    """How a layer of `media_type` is packed. Raises ImageError for a type that is no layer of a container image."""
    try:
        return _COMPRESSION[MediaType(media_type)]
    except (ValueError, KeyError):
        raise ImageError(f"a layer has the media type {media_type[:120]!r}, which this version cannot read") from None
