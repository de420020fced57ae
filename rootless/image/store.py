"""The image store: an OCI image layout, and what is derived from its layers.

    oci-layout, index.json, blobs/<algorithm>/<hex>     OCI image-spec, `image-layout.md`; skopeo, umoci, crane read it
    layers/<diffid>/index, frames, tree/                derived; each appears by a rename when it is complete
    lock                                                held exclusively while index.json changes
    tmp/                                                workspaces

Readers take no lock: index.json changes by rename. Documents are verified whenever they are read, layers when they
are stored.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.blobs import Blobs
from rootless.image.catalog import Catalog
from rootless.image.garbage import Garbage, Later
from rootless.image.lock import FileLock
from rootless.image.lookup import Damaged, Found, ImageNotFound, Lookup, host_platform, pair_layers
from rootless.image.model import Image, ImageList, Layer
from rootless.image.workspace import Workspace, sweep
from rootless.oci.digest import Digest
from rootless.oci.documents import Document, Index, Manifest, parse_manifest
from rootless.oci.mediatype import Compression
from rootless.oci.reference import Reference

__all__ = ["Damaged", "ImageNotFound", "Removed", "Store", "pair_layers"]

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Removed:
    """What `Store.remove` did."""

    untagged: tuple[str, ...]
    """Names that are gone."""
    deleted: tuple[str, ...]
    """IDs of images that are gone."""
    freed: int
    """Bytes of blobs that are gone."""


class Store:
    """The store in one directory. Cheap to make; `prepare` creates it on disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tmp = os.path.join(path, "tmp")
        self.blobs = Blobs(os.path.join(path, "blobs"), self.tmp)
        self._garbage = Garbage(path, self.tmp, self.blobs)
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

    def collect(self, later: Later | None = None) -> int:
        """Remove blobs and derived layers that no image needs: what failed pulls left. Returns the bytes freed.

        Does nothing while an image is being pulled. What takes time is handed to `later`.
        """
        alone = FileLock(os.path.join(self.tmp, "pull.lock"))
        if not alone.acquire(wait=False):
            return 0
        try:
            with self._lock():
                lookup = self.lookup()
                blobs, layers = lookup.needs(lookup.catalog.digests)
                stray = [digest for digest in self.blobs.all() if digest not in blobs]
                return self._garbage.discard(stray, set(os.listdir(os.path.join(self.path, "layers"))) - layers, later)
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

    def lookup(self) -> Lookup:
        """What index.json says now."""
        return Lookup(self.blobs, self._catalog())

    def images(self) -> list[Image]:
        """Every complete image, newest first; damaged ones are left out."""
        found = [image for image in self.lookup().load_all() if isinstance(image, Image)]
        return sorted(found, key=lambda image: image.created.timestamp() if image.created else 0.0, reverse=True)

    def indexes(self) -> list[ImageList]:
        """Every list of images."""
        return [one for one in self.lookup().load_all() if isinstance(one, ImageList)]

    def damaged(self) -> list[Damaged]:
        """Images whose blobs are missing or wrong."""
        return [image for image in self.lookup().load_all() if isinstance(image, Damaged)]

    def resolve(self, text: str) -> Image:
        """The image that `text` names: a reference, a short name, an ID or the beginning of one, a digest.

        A name wins over an ID. A list means its image for this platform. Raises ImageNotFound, UsageError for an
        ambiguous ID or a malformed name, ImageError for a damaged image.
        """
        lookup = self.lookup()
        found, _ = lookup.find(text)
        image = _image_of(found, lookup, text)
        if image is None:
            raise ImageNotFound(
                f"the list {text!r} has no image for {host_platform()} in the store", hint="`rcontain pull` fetches it"
            )
        return image

    def resolve_index(self, text: str) -> ImageList:
        """The list that `text` names: by name, or by the beginning of its digest. Raises what `resolve` does."""
        found, _ = self.lookup().find(text)
        if isinstance(found, Damaged):
            raise ImageError(f"image {text} is damaged: {found.reason}", hint="pull it again")
        if not isinstance(found, ImageList):
            raise ImageNotFound(f"{text} is an image, not a list of images")
        return found

    def find(self, reference: Reference) -> Image | None:
        """The image with exactly this name, or this digest in this repository; of a list, its image for this platform.

        Raises ImageError if it is damaged.
        """
        lookup = self.lookup()
        entry = lookup.catalog.find(reference)
        return _image_of(lookup.load(entry.digest), lookup, str(reference)) if entry else None

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
            lookup = self.lookup()
            if not lookup.is_complete(descriptor.digest, parsed):
                return None
            catalog = lookup.catalog
            if reference is None:
                catalog = catalog.with_nameless(descriptor)
            else:
                name = reference if reference.digest is None else reference.with_digest(reference.digest)
                catalog = catalog.with_name(descriptor, str(name), f"{reference.name}@{source or descriptor.digest}")
            self._replace(self._index_path, catalog.to_bytes())
        lookup = Lookup(self.blobs, catalog)
        return _image_of(lookup.load(descriptor.digest), lookup, str(reference or descriptor.digest))

    def add_index(
        self, document: Document, *, reference: Reference | None = None, source: Digest | None = None
    ) -> ImageList:
        """Record a list of images under `reference`, which whoever had it before loses.

        Its images need not be here; those that are, by their manifests and blobs, are kept for as long as the list is.
        `source` is the digest of what a registry answered with. Raises ImageError for what is no list.
        """
        if not isinstance(parse_manifest(document), Index):
            raise ImageError("the manifest of one image was given where a list of images was expected")
        descriptor = document.descriptor()
        with self.pulling():  # not collected before it has its entry
            self.blobs.put(document.raw, descriptor.digest)
            with self._lock():
                catalog = self._catalog()
                if reference is None:
                    catalog = catalog.with_nameless(descriptor)
                else:
                    origin = f"{reference.name}@{source}" if source else None
                    catalog = catalog.with_name(descriptor, str(reference), origin)
                self._replace(self._index_path, catalog.to_bytes())
        found = Lookup(self.blobs, catalog).load(descriptor.digest)
        if not isinstance(found, ImageList):
            raise ImageError(f"the list {reference or descriptor.digest} could not be read back")
        return found

    def tag(self, image: Image | ImageList, reference: Reference) -> None:
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

    def remove(
        self,
        text: str,
        *,
        in_use: Callable[[Image], str | None] | None = None,
        force: bool = False,
        later: Later | None = None,
    ) -> Removed:
        """Take a name away, and the image with its last name; blobs and layers go that no other image needs.

        `in_use` says which container uses an image, if one does. An ID whose image has several names needs `force`.
        What takes time is handed to `later`. Works on a full disk. Raises ImageNotFound, UsageError.
        """
        removed = self._remove(text, in_use, force, later)
        return replace(removed, freed=removed.freed + self.collect(later)) if removed.deleted else removed

    def _remove(
        self, text: str, in_use: Callable[[Image], str | None] | None, force: bool, later: Later | None
    ) -> Removed:
        with self._lock():
            lookup = self.lookup()
            catalog = lookup.catalog
            image, name = lookup.find(text)
            own = lookup.packings(image)
            if not own:
                raise UsageError(f"image {text} belongs to a list of images", hint="remove the list")
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
            going = [image] if isinstance(image, Image) else []
            if isinstance(image, ImageList):
                going = [member for member, _ in lookup.members(image) if not lookup.packings(member)]
            for one in going if in_use is not None else ():
                if in_use is not None and (user := in_use(one)) is not None:
                    raise UsageError(f"image {text} is used by container {user}", hint="remove the container first")
            freed = self._delete(own, lookup, later)
            return Removed(tuple(names), (image.digest.hex if isinstance(image, Damaged) else image.id,), freed)

    def _delete(self, doomed: list[Digest], lookup: Lookup, later: Later | None) -> int:
        """Remove manifests, and what nothing else needs. Returns the bytes freed."""
        kept = lookup.catalog.without(doomed)
        needed_blobs, needed_layers = lookup.needs(kept.digests)
        blobs, layers = lookup.needs(doomed)
        try:
            self._replace(self._index_path, kept.to_bytes(), later)
        except HostError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _FULL:
                raise
            # No room for the new index.json: make some first. Killed in between, the image shows as damaged.
            freed = self._garbage.discard(blobs - needed_blobs, layers - needed_layers)
            self._replace(self._index_path, kept.to_bytes())
            return freed
        return self._garbage.discard(blobs - needed_blobs, layers - needed_layers, later)

    # index.json

    def _catalog(self) -> Catalog:
        try:
            with open(self._index_path, "rb") as file:
                return Catalog.parse(file.read())
        except FileNotFoundError:
            return Catalog()
        except OSError as error:
            raise HostError(f"cannot read {self._index_path}: {error.strerror}") from error

    def _replace(self, path: str, data: bytes, later: Later | None = None) -> None:
        """Write a file and rename it. With `later` the disk is waited for afterwards."""
        with self.workspace() as space:
            temporary = space.file(os.path.basename(path))
            try:
                with open(temporary, "xb") as file:
                    file.write(data)
                    file.flush()
                    if later is None:
                        os.fsync(file.fileno())
                os.rename(temporary, path)
            except OSError as error:
                raise HostError(f"cannot write {path}: {error.strerror}") from error
        if later is not None:
            later(lambda: _sync(path))

    def _lock(self) -> FileLock:
        return FileLock(os.path.join(self.path, "lock"))


def _image_of(found: Found, lookup: Lookup, text: str) -> Image | None:
    """What was found, as an image: of a list that for this platform, if it is here. Raises ImageError for a damaged."""
    if isinstance(found, Damaged):
        raise ImageError(f"image {text} is damaged: {found.reason}", hint="pull it again")
    return lookup.for_platform(found, host_platform()) if isinstance(found, ImageList) else found


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
