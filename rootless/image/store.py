"""The image store: an OCI image layout, and what is derived from its layers.

    oci-layout, index.json, blobs/<algorithm>/<hex>     OCI image-spec, `image-layout.md`; skopeo, umoci and crane
    read it layers/<diffid>/index, frames, tree/                derived; each appears by a rename when it is complete
    lock                                                held exclusively while index.json changes tmp/
    workspaces

Readers take no lock: index.json changes by rename. Documents are verified whenever they are read, layers when they
are stored.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.blobs import Blobs
from rootless.image.catalog import Catalog
from rootless.image.lock import FileLock
from rootless.image.model import Image, Layer
from rootless.image.removal import remove_tree
from rootless.image.workspace import Workspace, sweep
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
from rootless.oci.mediatype import Compression, MediaType
from rootless.oci.reference import Reference

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_ID = re.compile(r"(sha256:)?([0-9a-f]{1,64})")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class ImageNotFound(UsageError):
    """No image in the store has this name or ID."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What `Store.remove` did."""

    untagged: tuple[str, ...]
    """Names that are gone."""
    deleted: tuple[str, ...]
    """IDs of images that are gone."""
    freed: int
    """Bytes of blobs that are gone."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """An image in index.json whose blobs are missing or wrong. Its names hold; `remove` takes it, `pull` repairs it."""

    digest: Digest
    names: tuple[str, ...]
    reason: str


class Store:
    """The store in one directory. Cheap to make; `prepare` creates it on disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tmp = os.path.join(path, "tmp")
        self.blobs = Blobs(os.path.join(path, "blobs"), self.tmp)
        self._index_path = os.path.join(path, "index.json")

    def prepare(self) -> None:
        """Create what is missing, and sweep what killed commands left. Raises HostError."""
        try:
            os.makedirs(self.path, 0o700, exist_ok=True)
            for name in ("blobs/sha256", "layers", "tmp"):
                os.makedirs(os.path.join(self.path, name), 0o700, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot create the image store {self.path}: {error.strerror}") from error
        layout = os.path.join(self.path, "oci-layout")
        if not os.path.exists(layout) or not os.path.exists(self._index_path):
            with self._lock():
                if not os.path.exists(layout):
                    self._replace(layout, _LAYOUT)
                if not os.path.exists(self._index_path):
                    self._replace(self._index_path, Catalog().to_bytes())
        sweep(self.tmp)

    def pulling(self) -> FileLock:
        """A shared lock to hold during a pull: blobs that no image needs yet are not collected meanwhile."""
        return FileLock(os.path.join(self.tmp, "pull.lock"), shared=True)

    def collect(self) -> int:
        """Remove blobs and derived layers that no image needs: what failed pulls left. Returns the bytes freed.

        Does nothing while an image is being pulled.
        """
        alone = FileLock(os.path.join(self.tmp, "pull.lock"))
        if not alone.acquire(wait=False):
            return 0
        try:
            with self._lock():
                return self._collect(self._catalog())
        finally:
            alone.unlink()
            alone.release()

    def workspace(self) -> Workspace:
        """A temporary directory on the store's file system."""
        return Workspace(self.tmp)

    # derived layers

    def layer_path(self, layer: Layer) -> str:
        """The directory of what is derived from `layer`."""
        return f"{self.path}/layers/{layer.diff_id.hex}"

    def index_path(self, layer: Layer) -> str:
        """The layer's index (`fuse.index`)."""
        return self.layer_path(layer) + "/index"

    def frames_path(self, layer: Layer) -> str:
        """The layer's uncompressed tar as seekable frames (`fuse.frames`)."""
        return self.layer_path(layer) + "/frames"

    def tree_path(self, layer: Layer) -> str:
        """The layer as a directory for the kernel's overlay."""
        return self.layer_path(layer) + "/tree"

    def has_index(self, layer: Layer) -> bool:
        """Whether the FUSE overlay can serve the layer: its index is there, and its data in seekable form."""
        if not os.path.exists(self.index_path(layer)):
            return False
        return layer.compression is Compression.NONE or os.path.exists(self.frames_path(layer))

    def has_tree(self, layer: Layer) -> bool:
        """Whether the layer is extracted."""
        return os.path.exists(self.tree_path(layer))

    def layer_data(self, layer: Layer) -> tuple[str, str]:
        """Where the bytes are that the layer's index points into: (path, "frames" or "plain")."""
        frames = self.frames_path(layer)
        if os.path.exists(frames):
            return frames, "frames"
        return self.blobs.path(layer.blob), "plain"

    # reading

    def images(self) -> list[Image]:
        """Every complete image, newest first; damaged ones are left out."""
        found = [image for image in self._load_all(self._catalog()) if isinstance(image, Image)]
        return sorted(found, key=lambda image: image.created.timestamp() if image.created else 0.0, reverse=True)

    def damaged(self) -> list[Damaged]:
        """Images whose blobs are missing or wrong."""
        return [image for image in self._load_all(self._catalog()) if isinstance(image, Damaged)]

    def resolve(self, text: str) -> Image:
        """The image that `text` names: a reference, a short name, an ID or the beginning of one, a digest.

        A name wins over an ID. Raises ImageNotFound, UsageError for an ambiguous ID or a malformed name, ImageError for
        a damaged image.
        """
        image, _ = self._find(text, self._catalog())
        return _intact(image, text)

    def find(self, reference: Reference) -> Image | None:
        """The image with exactly this name, or this digest in this repository. Raises ImageError if it is damaged."""
        catalog = self._catalog()
        entry = catalog.find(reference)
        return _intact(self._load(entry.digest, catalog), str(reference)) if entry else None

    def source(self, reference: Reference) -> Digest | None:
        """The digest that the registry answered with when `reference` was last pulled."""
        catalog = self._catalog()
        entry = catalog.find(reference)
        sources = catalog.sources(entry.digest) if entry else ()
        return Digest.parse(sources[0].rpartition("@")[2]) if sources else None

    # changing

    def add(
        self, manifest: Document, *, reference: Reference | None = None, source: Digest | None = None
    ) -> Image | None:
        """Record an image whose blobs are all in the store, under `reference`.

        `source` is the digest of what the registry answered with. An image that had the name loses it. Returns None,
        and changes nothing, if a blob has gone meanwhile (another command removed it): fetch it and call again.
        """
        parsed = parse_manifest(manifest)
        if not isinstance(parsed, Manifest):
            raise ImageError("an index of images was given where the manifest of one was expected")
        descriptor = manifest.descriptor()
        self.blobs.put(manifest.raw, descriptor.digest)
        with self._lock():
            if not self._is_complete(descriptor.digest, parsed):
                return None
            catalog = self._catalog()
            if reference is None:
                catalog = catalog.with_nameless(descriptor)
            else:
                name = reference if reference.digest is None else reference.with_digest(reference.digest)
                catalog = catalog.with_name(descriptor, str(name), f"{reference.name}@{source or descriptor.digest}")
            self._replace(self._index_path, catalog.to_bytes())
        return _intact(self._load(descriptor.digest, catalog), str(reference or descriptor.digest))

    def tag(self, image: Image, reference: Reference) -> None:
        """Give `image` one more name; who had it before loses it. Raises UsageError for a name with a digest."""
        if reference.digest is not None:
            raise UsageError(f"cannot tag an image as {reference}: a tag has no digest")
        with self._lock():
            catalog = self._catalog()
            entry = next((entry for entry in catalog.entries if entry.digest == image.digest), None)
            if entry is None:
                raise ImageNotFound(f"image {image.short_id} is no longer in the store")
            if str(reference) in catalog.names(image.digest):
                return
            self._replace(self._index_path, catalog.with_name(entry, str(reference), None).to_bytes())

    def untag(self, reference: Reference) -> None:
        """Take a name away; the image stays. Raises ImageNotFound."""
        with self._lock():
            catalog = self._catalog()
            if catalog.named(str(reference)) is None:
                raise ImageNotFound(f"no image is named {reference.familiar}")
            self._replace(self._index_path, catalog.without_name(str(reference)).to_bytes())

    def remove(self, text: str, *, in_use: Callable[[Image], str | None] | None = None, force: bool = False) -> Removed:
        """Take a name away, and the image with its last name; blobs and layers go that no other image needs.

        `in_use` says which container uses an image, if one does. An ID whose image has several names needs `force`.
        Works on a full disk. Raises ImageNotFound, UsageError.
        """
        removed = self._remove(text, in_use, force)
        return replace(removed, freed=removed.freed + self.collect())

    def _remove(self, text: str, in_use: Callable[[Image], str | None] | None, force: bool) -> Removed:
        with self._lock():
            catalog = self._catalog()
            image, name = self._find(text, catalog)
            own = self._packings(image, catalog)
            names = [name for digest in own for name in catalog.names(digest)]
            if name is not None and len(names) > 1:
                changed = catalog.without_name(name)
                if not changed.names(image.digest) and len(own) > 1:
                    changed = changed.without([image.digest])
                self._replace(self._index_path, changed.to_bytes())
                return Removed((name,), (), 0)
            if name is None and len(names) > 1 and not force:
                raise UsageError(
                    f"image {text} has {len(names)} names: {', '.join(names)}", hint="remove them by name, or use force"
                )
            if isinstance(image, Image) and in_use is not None and (user := in_use(image)) is not None:
                raise UsageError(f"image {text} is used by container {user}", hint="remove the container first")
            freed = self._delete(own, catalog)
            return Removed(tuple(names), (image.id if isinstance(image, Image) else image.digest.hex,), freed)

    def _packings(self, image: Image | Damaged, catalog: Catalog) -> list[Digest]:
        """The manifests with this image's configuration: they differ in how its layers are packed."""
        if isinstance(image, Damaged):
            return [image.digest]
        loaded = [self._load(digest, catalog) for digest in catalog.digests]
        return [one.digest for one in loaded if isinstance(one, Image) and one.id == image.id]

    def _delete(self, doomed: list[Digest], catalog: Catalog) -> int:
        """Remove manifests, and what nothing else needs. Returns the bytes freed."""
        kept = catalog.without(doomed)
        needed_blobs, needed_layers = self._needs(kept.digests, catalog)
        blobs, layers = self._needs(doomed, catalog)
        try:
            self._replace(self._index_path, kept.to_bytes())
        except HostError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _FULL:
                raise
            # No room for the new index.json: make some first. Killed in between, the image shows as damaged.
            freed = self._discard(blobs - needed_blobs, layers - needed_layers)
            self._replace(self._index_path, kept.to_bytes())
            return freed
        return self._discard(blobs - needed_blobs, layers - needed_layers)

    def _discard(self, blobs: Iterable[Digest], layers: Iterable[str]) -> int:
        freed = sum(self.blobs.remove(digest) for digest in blobs)
        for name in layers:
            path = os.path.join(self.path, "layers", name)
            gone = os.path.join(self.tmp, f"gone-{name}")
            try:
                os.rename(path, gone)
            except FileNotFoundError:
                continue
            except OSError:  # a full disk, or what an interrupted removal left in the way: remove it where it is
                remove_tree(gone)
                gone = path
            remove_tree(gone)
        return freed

    def _collect(self, catalog: Catalog) -> int:
        blobs, layers = self._needs(catalog.digests, catalog)
        present = {digest for digest in self.blobs.all() if digest not in blobs}
        return self._discard(present, set(os.listdir(os.path.join(self.path, "layers"))) - layers)

    def _needs(self, manifests: Iterable[Digest], catalog: Catalog) -> tuple[set[Digest], set[str]]:
        """The blobs and derived layers that these manifests hold on to, as far as their documents can be read.

        Other tools put indexes into index.json, whose manifests count as well.
        """
        blobs: set[Digest] = set()
        layers: set[str] = set()
        pending = [(digest, catalog.media_type(digest)) for digest in manifests]
        while pending:
            digest, media_type = pending.pop()
            if digest in blobs:
                continue
            blobs.add(digest)
            try:
                manifest = self._document(digest, media_type)
                if isinstance(manifest, Index):
                    pending += [(each.digest, each.media_type) for each in manifest.manifests]
                    continue
                blobs.add(manifest.config.digest)
                blobs.update(layer.digest for layer in manifest.layers or ())
                config = parse_config(self.blobs.read(manifest.config.digest, CONFIG_MAX))
            except ImageError:
                continue
            layers.update(diff_id.hex for diff_id in config.diff_ids)
        return blobs, layers

    # index.json and the documents

    def _catalog(self) -> Catalog:
        try:
            with open(self._index_path, "rb") as file:
                return Catalog.parse(file.read())
        except FileNotFoundError:
            return Catalog()
        except OSError as error:
            raise HostError(f"cannot read {self._index_path}: {error.strerror}") from error

    def _replace(self, path: str, data: bytes) -> None:
        with self.workspace() as space:
            temporary = space.file(os.path.basename(path))
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(temporary, path)
            except OSError as error:
                raise HostError(f"cannot write {path}: {error.strerror}") from error

    def _lock(self) -> FileLock:
        return FileLock(os.path.join(self.path, "lock"))

    def _manifest(self, digest: Digest, catalog: Catalog) -> Manifest:
        parsed = self._document(digest, catalog.media_type(digest))
        if not isinstance(parsed, Manifest):
            raise ImageError(f"{digest} is an index of images, not an image")
        return parsed

    def _document(self, digest: Digest, media_type: str | None) -> Manifest | Index:
        return parse_manifest(Document(media_type or MediaType.OCI_MANIFEST, self.blobs.read(digest, MANIFEST_MAX)))

    def _is_complete(self, digest: Digest, manifest: Manifest) -> bool:
        wanted = [manifest.config, *(manifest.layers or ())]
        return self.blobs.size(digest) is not None and all(self.blobs.has(one.digest, one.size) for one in wanted)

    def _load(self, digest: Digest, catalog: Catalog) -> Image | Damaged:
        try:
            manifest = self._manifest(digest, catalog)
            if not self._is_complete(digest, manifest):
                raise ImageError("one of its blobs is missing or incomplete")
            config = parse_config(self.blobs.read(manifest.config.digest, CONFIG_MAX))
            layers = pair_layers(manifest, config)
        except ImageError as error:
            return Damaged(digest, catalog.names(digest), error.message)
        sizes = {layer.blob: layer.size for layer in layers}
        return Image(
            id=manifest.config.digest.hex,
            names=catalog.names(digest),
            repo_digests=catalog.sources(digest),
            digest=digest,
            manifest=manifest,
            config=config,
            layers=layers,
            size=sum(sizes.values()) + manifest.config.size,
        )

    def _load_all(self, catalog: Catalog) -> list[Image | Damaged]:
        """One per configuration: manifests that differ only in how layers are packed are one image."""
        images: dict[str, Image | Damaged] = {}
        for digest in catalog.digests:
            image = self._load(digest, catalog)
            key = image.id if isinstance(image, Image) else str(digest)
            earlier = images.get(key)
            images[key] = _joined(earlier, image) if isinstance(earlier, Image) and isinstance(image, Image) else image
        return list(images.values())

    def _find(self, text: str, catalog: Catalog) -> tuple[Image | Damaged, str | None]:
        """The image that `text` means, and the name by which it was found; None if it was the ID or a digest."""
        match = _ID.fullmatch(text)
        if match is None or (not match[1] and len(match[2]) < 64):
            reference = Reference.parse(text)
            for candidate in _candidates(reference, text):
                entry = catalog.find(candidate)
                if entry is not None:
                    return self._load(entry.digest, catalog), None if candidate.digest else str(candidate)
        if match is not None:
            found = self._by_id(match[2], text, catalog)
            if found is not None:
                return found, None
        raise ImageNotFound(
            f"there is no image {text!r} in the store", hint="`rcontain images` lists them, `rcontain pull` fetches one"
        )

    def _by_id(self, prefix: str, text: str, catalog: Catalog) -> Image | Damaged | None:
        images = self._load_all(catalog)
        hits = [image for image in images if isinstance(image, Image) and image.id.startswith(prefix)]
        if len(hits) > 1:
            raise UsageError(f"image ID {text} is ambiguous: {len(hits)} images begin with it", hint="give more digits")
        if hits:
            return hits[0]
        if len(prefix) == 64:
            digest = next((digest for digest in catalog.digests if digest.hex == prefix), None)
            return self._load(digest, catalog) if digest else None
        return next((one for one in images if isinstance(one, Damaged) and one.digest.hex.startswith(prefix)), None)


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[Layer, ...]:
    """The layers of an image, bottom first. Raises ImageError if manifest and configuration count differently."""
    blobs, diff_ids = manifest.layers or (), config.diff_ids
    if len(blobs) != len(diff_ids):
        raise ImageError(f"the manifest has {len(blobs)} layers and the configuration {len(diff_ids)}")
    return tuple(
        Layer(diff_id, blob.digest, blob.media_type, blob.size) for diff_id, blob in zip(diff_ids, blobs, strict=True)
    )


def _candidates(reference: Reference, text: str) -> list[Reference]:
    """What a text may name: as Docker reads it, and what was made here under a bare name (Podman's `localhost/`)."""
    if reference.registry != "docker.io" or text.startswith("docker.io/"):
        return [reference]
    return [
        reference,
        replace(reference, registry="localhost", repository=reference.repository.removeprefix("library/")),
    ]


def _intact(image: Image | Damaged, text: str) -> Image:
    if isinstance(image, Damaged):
        raise ImageError(f"image {text} is damaged: {image.reason}", hint="pull it again")
    return image


def _joined(first: Image, second: Image) -> Image:
    return replace(
        first,
        names=tuple(dict.fromkeys(first.names + second.names)),
        repo_digests=tuple(dict.fromkeys(first.repo_digests + second.repo_digests)),
    )
