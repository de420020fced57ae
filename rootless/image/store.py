"""The image store: an OCI image layout, and what is derived from its layers.

    oci-layout, index.json, blobs/<algorithm>/<hex>     OCI image-spec, `image-layout.md`; skopeo, umoci and crane read it
    layers/<diffid>/index, frames, tree/                derived; each appears by a rename when it is complete
    lock                                                held exclusively while index.json changes
    tmp/                                                workspaces

A name is the annotation `org.opencontainers.image.ref.name` of a descriptor in index.json; an image with two names has two
descriptors, one without a name has one that lacks the annotation. Two annotations of ours say where a name came from.
Readers take no lock: index.json changes by rename.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.blobs import Blobs
from rootless.image.lock import FileLock
from rootless.image.model import Image, Layer
from rootless.image.removal import remove_tree
from rootless.image.workspace import Workspace, sweep
from rootless.oci.digest import Digest
from rootless.oci.documents import (
    CONFIG_MAX,
    MANIFEST_MAX,
    REF_NAME,
    Descriptor,
    Document,
    ImageConfig,
    Index,
    Manifest,
    encode,
    parse_config,
    parse_layout_index,
    parse_manifest,
)
from rootless.oci.mediatype import Compression, MediaType
from rootless.oci.reference import Reference

SOURCE = "io.github.rcontain.source"
"""`repository@digest` that the registry answered with: of the index where there was one, else of the manifest."""

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class ImageNotFound(UsageError):
    """No image in the store has this name or ID."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What `Store.remove` did. Names first, then the images that went away, by ID."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed: int
    """Bytes of blobs that are gone."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """An image in index.json whose documents are missing or damaged."""

    digest: Digest
    names: tuple[str, ...]
    reason: str


class Store:
    """The store under one directory. Cheap to make; `prepare` creates it on disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tmp = os.path.join(path, "tmp")
        self.blobs = Blobs(os.path.join(path, "blobs"), self.tmp)
        self._index_path = os.path.join(path, "index.json")

    def prepare(self) -> None:
        """Create what is missing and sweep what killed commands left. Raises HostError."""
        try:
            os.makedirs(self.path, 0o700, exist_ok=True)
            for name in ("blobs/sha256", "layers", "tmp"):
                os.makedirs(os.path.join(self.path, name), 0o700, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot create the image store {self.path}: {error.strerror}") from error
        layout = os.path.join(self.path, "oci-layout")
        if not os.path.exists(layout) or not os.path.exists(self._index_path):
            with self._lock(), Workspace(self.tmp) as space:
                if not os.path.exists(layout):
                    self._replace(space, layout, _LAYOUT)
                if not os.path.exists(self._index_path):
                    self._write_index(())
        sweep(self.tmp)

    def workspace(self) -> Workspace:
        """A temporary directory on the store's file system."""
        return Workspace(self.tmp)

    # derived layers

    def layer_path(self, layer: Layer) -> str:
        """The directory of what is derived from `layer`."""
        return f"{self.path}/layers/{layer.diff_id.hex}"

    def index_path(self, layer: Layer) -> str:
        return self.layer_path(layer) + "/index"

    def tree_path(self, layer: Layer) -> str:
        return self.layer_path(layer) + "/tree"

    def frames_path(self, layer: Layer) -> str:
        return self.layer_path(layer) + "/frames"

    def has_index(self, layer: Layer) -> bool:
        """Whether the FUSE overlay can serve the layer: its index is there, and its data in a form that can be sought in."""
        if not os.path.exists(self.index_path(layer)):
            return False
        return layer.compression is Compression.NONE or os.path.exists(self.frames_path(layer))

    def has_tree(self, layer: Layer) -> bool:
        return os.path.exists(self.tree_path(layer))

    def layer_data(self, layer: Layer) -> tuple[str, str]:
        """Where the bytes are that the layer's index points into: (path, "frames" or "plain")."""
        frames = self.frames_path(layer)
        if os.path.exists(frames):
            return frames, "frames"
        return self.blobs.path(layer.blob), "plain"

    # reading

    def images(self) -> list[Image]:
        """Every complete image, newest first. Damaged ones are in `leftovers`."""
        found = [image for image in self._load_all() if isinstance(image, Image)]
        return sorted(found, key=lambda image: image.created.timestamp() if image.created else 0.0, reverse=True)

    def leftovers(self) -> list[Leftover]:
        """Images whose documents are missing or damaged: their names still hold, and `remove` takes them."""
        return [image for image in self._load_all() if isinstance(image, Leftover)]

    def resolve(self, text: str) -> Image:
        """The image that `text` names: a reference, a short name, an ID or the beginning of one, a digest.

        A name wins over an ID. Raises ImageNotFound, UsageError for an ambiguous ID or a malformed name, ImageError for a
        damaged image.
        """
        image = self._find(text)
        if isinstance(image, Leftover):
            raise ImageError(f"image {text} is damaged: {image.reason}", hint="pull it again")
        return image

    def find(self, reference: Reference) -> Image | None:
        """The image with exactly this name, or with this digest in this repository; None if there is none."""
        entries = self._entries()
        match = _named(entries, reference)
        if match is None:
            return None
        image = self._load(match.digest, entries)
        if isinstance(image, Leftover):
            raise ImageError(f"image {reference} is damaged: {image.reason}", hint="pull it again")
        return image

    def source(self, reference: Reference) -> Digest | None:
        """The digest that the registry answered with when `reference` was last pulled."""
        match = _named(self._entries(), reference)
        source = match.annotation(SOURCE) if match else None
        return Digest.parse(source.rpartition("@")[2]) if source else None

    # changing

    def add(
        self, manifest: Document, *, reference: Reference | None = None, source: Digest | None = None
    ) -> Image | None:
        """Record an image whose blobs are all in the store, under `reference`.

        `source` is what the registry answered with. An image that had the name keeps no name. Returns None, and changes
        nothing, if a blob has gone meanwhile (another command removed it): fetch it and call again.
        """
        parsed = parse_manifest(manifest)
        if not isinstance(parsed, Manifest):
            raise ImageError("an index of images was given where the manifest of one was expected")
        self.blobs.put(manifest.raw, manifest.digest)
        annotations: dict[str, str] = {}
        if reference is not None:
            name = str(reference if reference.digest is None else reference.with_digest(reference.digest))
            annotations[REF_NAME] = name
            annotations[SOURCE] = f"{reference.name}@{source or manifest.digest}"
        with self._lock():
            if not self._complete(manifest.digest, parsed):
                return None
            entries = list(self._entries())
            new = manifest.descriptor(annotations or None)
            if annotations:
                entries = [_unnamed(entry) if entry.annotation(REF_NAME) == name else entry for entry in entries]
                entries = [entry for entry in entries if entry.digest != new.digest or entry.annotation(REF_NAME)]
            elif any(entry.digest == new.digest for entry in entries):
                new = None  # type: ignore[assignment]
            self._write_index([*_without_repetition(entries), *([new] if new else [])])
        image = self._load(manifest.digest, self._entries())
        if isinstance(image, Leftover):
            raise ImageError(f"image {reference or manifest.digest} is damaged: {image.reason}")
        return image

    def tag(self, image: Image, reference: Reference) -> None:
        """Give `image` one more name; who had it before loses it. Raises UsageError for a name with a digest."""
        if reference.digest is not None:
            raise UsageError(f"cannot tag an image as {reference}: a tag has no digest")
        name = str(reference)
        with self._lock():
            entries = list(self._entries())
            own = next((entry for entry in entries if entry.digest == image.digest), None)
            if own is None:
                raise ImageNotFound(f"image {image.short_id} is no longer in the store")
            kept = [_unnamed(entry) if entry.annotation(REF_NAME) == name else entry for entry in entries]
            kept = [entry for entry in kept if entry.digest != image.digest or entry.annotation(REF_NAME)]
            new = Descriptor(own.media_type, own.digest, own.size, {REF_NAME: name})
            self._write_index([*_without_repetition(kept), new])

    def untag(self, reference: Reference) -> None:
        """Take a name away; the image stays. Raises ImageNotFound."""
        name = str(reference)
        with self._lock():
            entries = self._entries()
            if not any(entry.annotation(REF_NAME) == name for entry in entries):
                raise ImageNotFound(f"no image is named {reference.familiar}")
            changed = [_unnamed(entry) if entry.annotation(REF_NAME) == name else entry for entry in entries]
            self._write_index(_without_repetition(changed))

    def remove(
        self, text: str, *, in_use: Callable[[Image], str | None] | None = None, force: bool = False
    ) -> Removed:
        """Take a name away, and the image with its last name; blobs and layers go that no other image needs.

        `in_use` says which container uses an image, if one does. An ID with several names needs `force`. Works on a full
        disk. Raises ImageNotFound, UsageError.
        """
        with self._lock():
            image = self._find(text)
            entries = self._entries()
            by_name = self._names(text) if not _is_id(text, image) else None
            own = [name for name in image.names if by_name is None or name in by_name]
            if by_name is not None and len(own) < len(image.names):
                changed = [_unnamed(entry) if entry.annotation(REF_NAME) in own else entry for entry in entries]
                self._write_index(_without_repetition(changed))
                return Removed(tuple(own), (), 0)
            if by_name is None and len(image.names) > 1 and not force:
                raise UsageError(
                    f"image {text} has {len(image.names)} names: {', '.join(image.names)}",
                    hint="remove them by name, or force it",
                )
            if isinstance(image, Image) and in_use is not None and (user := in_use(image)) is not None:
                raise UsageError(f"image {text} is used by container {user}", hint="remove the container first")
            return self._delete(image, entries)

    def _delete(self, image: Image | Leftover, entries: tuple[Descriptor, ...]) -> Removed:
        """Remove every manifest with this image's configuration, and what nothing else needs."""
        doomed = {image.digest}
        if isinstance(image, Image):
            for entry in entries:
                other = self._load(entry.digest, entries)
                if isinstance(other, Image) and other.id == image.id:
                    doomed.add(entry.digest)
        kept = [entry for entry in entries if entry.digest not in doomed]
        needed_blobs, needed_layers = self._needs({entry.digest for entry in kept})
        blobs, layers = self._needs(doomed)
        try:
            self._write_index(kept)
            freed = self._discard(blobs - needed_blobs, layers - needed_layers)
        except HostError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _FULL:
                raise
            # No room for the new index.json: make some first. Killed in between, the image shows as damaged.
            freed = self._discard(blobs - needed_blobs, layers - needed_layers)
            self._write_index(kept)
        identity = image.id if isinstance(image, Image) else image.digest.hex
        return Removed(image.names, (identity,), freed)

    def _discard(self, blobs: Iterable[Digest], layers: Iterable[str]) -> int:
        freed = sum(self.blobs.remove(digest) for digest in blobs)
        for name in layers:
            path = os.path.join(self.path, "layers", name)
            gone = os.path.join(self.tmp, f"gone-{name}")
            try:
                os.rename(path, gone)
            except FileNotFoundError:
                continue
            except OSError:  # a full disk, or what an interrupted removal left there: remove it where it is
                gone = path
            remove_tree(gone)
        return freed

    def _needs(self, manifests: Iterable[Digest]) -> tuple[set[Digest], set[str]]:
        """The blobs and derived layers that these manifests hold on to, as far as their documents can be read."""
        blobs: set[Digest] = set()
        layers: set[str] = set()
        for digest in manifests:
            blobs.add(digest)
            try:
                manifest = self._manifest(digest)
            except ImageError:
                continue
            blobs.add(manifest.config.digest)
            blobs.update(layer.digest for layer in manifest.layers or ())
            try:
                config = parse_config(self.blobs.read(manifest.config.digest, CONFIG_MAX))
            except ImageError:
                continue
            layers.update(diff_id.hex for diff_id in config.diff_ids)
        return blobs, layers

    # index.json

    def _entries(self) -> tuple[Descriptor, ...]:
        try:
            with open(self._index_path, "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise HostError(f"cannot read {self._index_path}: {error.strerror}") from error
        return parse_layout_index(raw).manifests

    def _write_index(self, entries: Iterable[Descriptor]) -> None:
        index = Index(manifests=tuple(entries), media_type=MediaType.OCI_INDEX)
        with Workspace(self.tmp) as space:
            self._replace(space, self._index_path, encode(index))

    def _replace(self, space: Workspace, path: str, data: bytes) -> None:
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

    # images

    def _manifest(self, digest: Digest) -> Manifest:
        raw = self.blobs.read(digest, MANIFEST_MAX)
        entry = next((entry for entry in self._entries() if entry.digest == digest), None)
        media_type = entry.media_type if entry else MediaType.OCI_MANIFEST
        parsed = parse_manifest(Document(media_type, raw))
        if not isinstance(parsed, Manifest):
            raise ImageError(f"{digest} is an index of images, not an image")
        return parsed

    def _complete(self, digest: Digest, manifest: Manifest) -> bool:
        wanted = [manifest.config, *(manifest.layers or ())]
        return self.blobs.size(digest) is not None and all(self.blobs.has(one.digest, one.size) for one in wanted)

    def _load(self, digest: Digest, entries: tuple[Descriptor, ...]) -> Image | Leftover:
        own = [entry for entry in entries if entry.digest == digest]
        names = tuple(dict.fromkeys(name for entry in own if (name := entry.annotation(REF_NAME))))
        try:
            manifest = self._manifest(digest)
            if not self._complete(digest, manifest):
                raise ImageError("one of its blobs is missing or incomplete")
            config = parse_config(self.blobs.read(manifest.config.digest, CONFIG_MAX))
            layers = pair_layers(manifest, config)
        except ImageError as error:
            return Leftover(digest, names, error.message)
        sources = [source for entry in own if (source := entry.annotation(SOURCE))]
        repositories = dict.fromkeys(source.rpartition("@")[0] for source in sources)
        digests = [*sources, *(f"{repository}@{digest}" for repository in repositories)]
        sizes = {layer.blob: layer.size for layer in layers}
        return Image(
            id=manifest.config.digest.hex,
            names=names,
            repo_digests=tuple(dict.fromkeys(digests)),
            digest=digest,
            manifest=manifest,
            config=config,
            layers=layers,
            size=sum(sizes.values()) + manifest.config.size,
        )

    def _load_all(self) -> list[Image | Leftover]:
        """One per configuration: manifests that differ only in how layers are packed are one image with all their names."""
        entries = self._entries()
        images: dict[str, Image | Leftover] = {}
        for digest in dict.fromkeys(entry.digest for entry in entries):
            image = self._load(digest, entries)
            key = image.id if isinstance(image, Image) else str(digest)
            earlier = images.get(key)
            images[key] = _joined(earlier, image) if isinstance(earlier, Image) and isinstance(image, Image) else image
        return list(images.values())

    def _find(self, text: str) -> Image | Leftover:
        match = _ID.fullmatch(text)
        reference = None if match and (len(match[1]) == 64 or text.startswith("sha256:")) else Reference.parse(text)
        if reference is not None:
            entries = self._entries()
            named = _named(entries, reference)
            if named is None and reference.registry == "docker.io" and "/" not in text:
                # An image built or loaded here, as Podman names it.
                named = _named(entries, Reference("localhost", text_path(reference), reference.tag, reference.digest))
            if named is not None:
                return self._load(named.digest, entries)
        if match:
            images = self._load_all()
            prefix = match[1]
            hits = [one for one in images if isinstance(one, Image) and one.id.startswith(prefix)]
            if len(prefix) == 64:
                hits += [one for one in images if isinstance(one, Image) and one.digest.hex == prefix and one not in hits]
            if len(hits) > 1:
                raise UsageError(f"image ID {text} is ambiguous: {len(hits)} images begin with it", hint="give more digits")
            if hits:
                return hits[0]
            for one in images:
                if isinstance(one, Leftover) and one.digest.hex.startswith(prefix):
                    return one
        raise ImageNotFound(f"no image {text!r} in the store", hint="`rcontain images` lists them, `rcontain pull` fetches one")

    def _names(self, text: str) -> set[str]:
        """The names in index.json that `text` means."""
        reference = Reference.parse(text)
        named = _named(self._entries(), reference)
        if named is None and "/" not in text:
            named = _named(
                self._entries(), Reference("localhost", text_path(reference), reference.tag, reference.digest)
            )
        name = named.annotation(REF_NAME) if named else None
        return {name} if name else set()


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[Layer, ...]:
    """The layers of an image, bottom first. Raises ImageError if manifest and configuration count differently."""
    blobs, diff_ids = manifest.layers or (), config.diff_ids
    if len(blobs) != len(diff_ids):
        raise ImageError(f"the manifest has {len(blobs)} layers and the configuration {len(diff_ids)}")
    return tuple(
        Layer(diff_id, blob.digest, blob.media_type, blob.size) for diff_id, blob in zip(diff_ids, blobs, strict=True)
    )


def text_path(reference: Reference) -> str:
    """The repository without the `library/` that Docker's short names imply."""
    return reference.repository.removeprefix("library/")


def _named(entries: Iterable[Descriptor], reference: Reference) -> Descriptor | None:
    """The entry that a reference means: by digest if it has one, within its repository; else by name."""
    if reference.digest is None:
        name = str(reference)
        return next((entry for entry in entries if entry.annotation(REF_NAME) == name), None)
    for entry in entries:
        source = entry.annotation(SOURCE) or ""
        repository, _, digest = source.rpartition("@")
        if repository == reference.name and str(reference.digest) in (digest, str(entry.digest)):
            return entry
    return None


def _is_id(text: str, image: Image | Leftover) -> bool:
    """Whether `text` found `image` by its ID and not by a name."""
    match = _ID.fullmatch(text)
    if match is None:
        return False
    identity = image.id if isinstance(image, Image) else image.digest.hex
    by_id = identity.startswith(match[1]) or image.digest.hex == match[1]
    return by_id and not any(Reference.parse(name).familiar.startswith(text + ":") for name in image.names)


def _unnamed(entry: Descriptor) -> Descriptor:
    kept = {key: value for key, value in (entry.annotations or {}).items() if key not in (REF_NAME,)}
    return Descriptor(entry.media_type, entry.digest, entry.size, kept or None)


def _without_repetition(entries: Iterable[Descriptor]) -> list[Descriptor]:
    """Drop nameless entries of manifests that have a name or another entry."""
    kept: list[Descriptor] = []
    named = {entry.digest for entry in entries if entry.annotation(REF_NAME)}
    seen: set[Digest] = set()
    for entry in entries:
        if entry.annotation(REF_NAME):
            kept.append(entry)
        elif entry.digest not in named and entry.digest not in seen:
            seen.add(entry.digest)
            kept.append(entry)
    return kept


def _joined(first: Image, second: Image) -> Image:
    names = tuple(dict.fromkeys(first.names + second.names))
    digests = tuple(dict.fromkeys(first.repo_digests + second.repo_digests))
    return Image(
        first.id, names, digests, first.digest, first.manifest, first.config, first.layers, first.size
    )
