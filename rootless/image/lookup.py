"""Finding images: what index.json and the documents behind it say at one moment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rootless.errors import ImageError, UsageError
from rootless.image.blobs import Blobs
from rootless.image.catalog import Catalog
from rootless.image.model import Image, ImageList, Layer
from rootless.oci.digest import Digest
from rootless.oci.documents import (
    CONFIG_MAX,
    MANIFEST_MAX,
    Document,
    ImageConfig,
    Index,
    Manifest,
    parse_config,
    parse_manifest,
)
from rootless.oci.mediatype import INDEXES, MediaType
from rootless.oci.platform import Platform, choose
from rootless.oci.reference import DEFAULT_REGISTRY, LOCAL_REGISTRY, Reference

_ID = re.compile(r"(sha256:)?([0-9a-f]{1,64})")


class ImageNotFound(UsageError):
    """No image in the store has this name or ID."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """An image in index.json whose blobs are missing or wrong. Its names hold; `remove` takes it, `pull` repairs it."""

    digest: Digest
    names: tuple[str, ...]
    reason: str


Found = Image | ImageList | Damaged


class Lookup:
    """The entries of one catalog, read with their documents. Documents are verified whenever they are read."""

    def __init__(self, blobs: Blobs, catalog: Catalog) -> None:
        self._blobs = blobs
        self.catalog = catalog

    def document(self, digest: Digest, media_type: str | None) -> Manifest | Index:
        """A manifest or an index. Raises ImageError."""
        return parse_manifest(Document(media_type or MediaType.OCI_MANIFEST, self._blobs.read(digest, MANIFEST_MAX)))

    def is_complete(self, digest: Digest, manifest: Manifest) -> bool:
        """Whether the manifest and all its blobs are there at their full size."""
        wanted = [manifest.config, *(manifest.layers or ())]
        return self._blobs.size(digest) is not None and all(self._blobs.has(one.digest, one.size) for one in wanted)

    def load(self, digest: Digest) -> Found:
        """An entry of the catalog."""
        media_type = self.catalog.media_type(digest)
        try:
            if media_type in INDEXES:
                return self._list(digest, media_type or "")
            return self._image(digest, media_type)
        except ImageError as error:
            return Damaged(digest, self.catalog.names(digest), error.message)

    def load_all(self) -> list[Found]:
        """One per configuration: manifests that differ only in how layers are packed are one image."""
        images: dict[str, Found] = {}
        for digest in self.catalog.digests:
            image = self.load(digest)
            key = image.id if isinstance(image, Image) else str(digest)
            earlier = images.get(key)
            images[key] = _joined(earlier, image) if isinstance(earlier, Image) and isinstance(image, Image) else image
        return list(images.values())

    def find(self, text: str) -> tuple[Found, str | None]:
        """What `text` means, and the name by which it was found; None if it was the ID or a digest.

        Raises ImageNotFound, UsageError for an ambiguous ID or a malformed name.
        """
        match = _ID.fullmatch(text)
        if match is None or (not match[1] and len(match[2]) < 64):
            reference = Reference.parse(text)
            for candidate in _candidates(reference, text):
                entry = self.catalog.find(candidate)
                if entry is not None:
                    return self.load(entry.digest), None if candidate.digest else str(candidate)
        if match is not None:
            found = self._by_id(match[2], text)
            if found is not None:
                return found, None
        raise ImageNotFound(
            f"there is no image {text!r} in the store", hint="`rcontain images` lists them, `rcontain pull` fetches one"
        )

    def members(self, images: ImageList) -> Iterator[tuple[Image, Platform | None]]:
        """The images of a list that are here, with the platforms that the list says they are for."""
        for entry in images.index.manifests:
            if self._blobs.size(entry.digest) is None or entry.media_type in INDEXES:
                continue
            try:
                image = self._image(entry.digest, entry.media_type)
            except ImageError:
                continue
            names = tuple(dict.fromkeys(image.names + images.names))
            yield replace(image, names=names), entry.platform or image.config.platform

    def for_platform(self, images: ImageList, platform: Platform) -> Image | None:
        """The image of a list that suits a platform best, of those that are here."""
        here = list(self.members(images))
        position = choose(platform, [offer for _, offer in here])
        return None if position is None else here[position][0]

    def packings(self, image: Found) -> list[Digest]:
        """The manifests with this image's configuration: they differ in how its layers are packed."""
        if not isinstance(image, Image):
            return [image.digest]
        loaded = [self.load(digest) for digest in self.catalog.digests]
        return [one.digest for one in loaded if isinstance(one, Image) and one.id == image.id]

    def needs(self, manifests: Iterable[Digest]) -> tuple[set[Digest], set[str]]:
        """The blobs and derived layers that these entries hold on to, as far as their documents can be read.

        A list holds on to its images.
        """
        blobs: set[Digest] = set()
        layers: set[str] = set()
        pending = [(digest, self.catalog.media_type(digest)) for digest in manifests]
        while pending:
            digest, media_type = pending.pop()
            if digest in blobs:
                continue
            blobs.add(digest)
            try:
                manifest = self.document(digest, media_type)
                if isinstance(manifest, Index):
                    pending += [(each.digest, each.media_type) for each in manifest.manifests]
                    continue
                blobs.add(manifest.config.digest)
                blobs.update(layer.digest for layer in manifest.layers or ())
                config = parse_config(self._blobs.read(manifest.config.digest, CONFIG_MAX))
            except ImageError:
                continue
            layers.update(diff_id.hex for diff_id in config.diff_ids)
        return blobs, layers

    def _list(self, digest: Digest, media_type: str) -> ImageList:
        document = self.document(digest, media_type)
        if not isinstance(document, Index):
            raise ImageError(f"{digest} is not the list of images that index.json says it is")
        return ImageList(
            names=self.catalog.names(digest),
            repo_digests=self.catalog.sources(digest),
            digest=digest,
            media_type=media_type,
            index=document,
            size=self._blobs.size(digest) or 0,
        )

    def _image(self, digest: Digest, media_type: str | None) -> Image:
        manifest = self.document(digest, media_type)
        if not isinstance(manifest, Manifest):
            raise ImageError(f"{digest} is an index of images, not an image")
        if not self.is_complete(digest, manifest):
            raise ImageError("one of its blobs is missing or incomplete")
        config = parse_config(self._blobs.read(manifest.config.digest, CONFIG_MAX))
        layers = pair_layers(manifest, config)
        sizes = {layer.blob: layer.size for layer in layers}
        return Image(
            id=manifest.config.digest.hex,
            names=self.catalog.names(digest),
            repo_digests=self.catalog.sources(digest),
            digest=digest,
            manifest=manifest,
            config=config,
            layers=layers,
            size=sum(sizes.values()) + manifest.config.size,
        )

    def _by_id(self, prefix: str, text: str) -> Found | None:
        found = self.load_all()
        images = [one for one in found if isinstance(one, Image)]
        lists = [one for one in found if isinstance(one, ImageList)]
        hits: list[Found] = [image for image in images if image.id.startswith(prefix)]
        hits += [one for one in lists if one.digest.hex.startswith(prefix)]
        if not hits:
            members = {image.id: image for one in lists for image, _ in self.members(one)}
            hits += [image for id, image in members.items() if id.startswith(prefix)]
        if len(hits) > 1:
            raise UsageError(f"image ID {text} is ambiguous: {len(hits)} images begin with it", hint="give more digits")
        if hits:
            return hits[0]
        if len(prefix) == 64:
            digest = next((digest for digest in self.catalog.digests if digest.hex == prefix), None)
            return self.load(digest) if digest else None
        return next((one for one in found if isinstance(one, Damaged) and one.digest.hex.startswith(prefix)), None)


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[Layer, ...]:
    """The layers of an image, bottom first. Raises ImageError if manifest and configuration count differently."""
    blobs, diff_ids = manifest.layers or (), config.diff_ids
    if len(blobs) != len(diff_ids):
        raise ImageError(f"the manifest has {len(blobs)} layers and the configuration {len(diff_ids)}")
    return tuple(
        Layer(diff_id, blob.digest, blob.media_type, blob.size) for diff_id, blob in zip(diff_ids, blobs, strict=True)
    )


def host_platform() -> Platform:
    """What runs on this machine."""
    return Platform.of("linux", os.uname().machine)


def _candidates(reference: Reference, text: str) -> list[Reference]:
    """What a text may name: as Docker reads it, and what was made here under a bare name (Podman's `localhost/`)."""
    if reference.registry != DEFAULT_REGISTRY or text.startswith(f"{DEFAULT_REGISTRY}/"):
        return [reference]
    return [
        reference,
        replace(reference, registry=LOCAL_REGISTRY, repository=reference.repository.removeprefix("library/")),
    ]


def _joined(first: Image, second: Image) -> Image:
    return replace(
        first,
        names=tuple(dict.fromkeys(first.names + second.names)),
        repo_digests=tuple(dict.fromkeys(first.repo_digests + second.repo_digests)),
    )
