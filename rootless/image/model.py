"""Images and layers as the rest of the engine sees them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Flag, auto

from rootless.errors import ImageError
from rootless.oci.digest import Digest
from rootless.oci.documents import ImageConfig, Index, Manifest
from rootless.oci.mediatype import Compression, layer_compression


class Derive(Flag):
    """What is made from a layer's blob."""

    NOTHING = 0
    INDEX = auto()
    """The index, and seekable frames of a compressed layer: what the FUSE overlay reads."""
    TREE = auto()
    """The extracted directory: what the kernel's overlay reads."""
    SOONEST = auto()
    """What a first container can start from soonest: TREE for a small image, INDEX for one of more than SMALL_IMAGE."""


SMALL_IMAGE = 16 << 20
"""Bytes of blobs. Writing out so little takes no longer than packing it again."""


class DamagedBlob(ImageError):
    """A blob of the store no longer has its digest. It has been removed; pulling the image brings it back."""


class StalePartial(ImageError):
    """What an interrupted transfer had left was wrong. It has been removed; the next attempt begins at the start."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the digest of its uncompressed tar, and the blob that holds it."""

    diff_id: Digest
    blob: Digest
    media_type: str
    size: int
    """Bytes of the blob."""

    @property
    def compression(self) -> Compression:
        """How the blob is packed. Raises ImageError for a media type that is no layer."""
        return layer_compression(self.media_type)


def settled(derive: Derive, layers: Iterable[Layer]) -> Derive:
    """`derive` for these layers of an image, without SOONEST."""
    if Derive.SOONEST not in derive:
        return derive
    return Derive.TREE if sum({layer.blob: layer.size for layer in layers}.values()) <= SMALL_IMAGE else Derive.INDEX


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store, as of one moment. Two with the same `id` are the same image."""

    id: str
    """Hexadecimal digest of the configuration, which is Podman's and Docker's image ID."""
    names: tuple[str, ...]
    """Complete references: `docker.io/library/busybox:latest`."""
    repo_digests: tuple[str, ...]
    """`repository@digest` under which registries have it, of the manifest and of the index that listed it."""
    digest: Digest
    """Of the manifest."""
    manifest: Manifest
    config: ImageConfig
    layers: tuple[Layer, ...]
    """Bottom first."""
    size: int
    """Bytes of the blobs, each counted once."""

    @property
    def created(self) -> datetime | None:
        """When the image was built, if it says so."""
        return self.config.created_at

    @property
    def short_id(self) -> str:
        """The first twelve digits of the id."""
        return self.id[:12]

    def __repr__(self) -> str:
        return f"<Image {self.short_id} {' '.join(self.names) or '(no name)'}>"


@dataclass(frozen=True, slots=True)
class ImageList:
    """A list of images for several platforms (OCI: image index) in the store, as of one moment."""

    names: tuple[str, ...]
    """Complete references."""
    repo_digests: tuple[str, ...]
    """`repository@digest` under which registries have it."""
    digest: Digest
    media_type: str
    index: Index
    size: int
    """Bytes of the list itself."""

    @property
    def id(self) -> str:
        """The digits of the digest: a list has no configuration."""
        return self.digest.hex

    @property
    def short_id(self) -> str:
        """The first twelve digits of the id."""
        return self.id[:12]
