"""Lists of images for several platforms as they are edited: entries come, go and are described (OCI `image-index.md`).

Pure. An entry that was added from a registry notes in an annotation of ours where its image lies, for as long as the
list is in the store; what is pushed lacks it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from rootless.errors import ImageError, UsageError
from rootless.image.conversion import Format, media_type_in
from rootless.oci.digest import Digest
from rootless.oci.documents import INDEX_MANIFESTS_MAX, Descriptor, Document, Index, encode, parse_manifest
from rootless.oci.mediatype import INDEXES, MediaType

ORIGIN = "io.github.rcontain.origin"
"""The repository that an entry was added from."""


class PlatformFields(Struct, frozen=True, omit_defaults=True):
    """`platform` of an entry."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] | None = msgspec.field(default=None, name="os.features")
    features: tuple[str, ...] | None = None


class Entry(Struct, frozen=True, rename="camel", omit_defaults=True):
    """One image of a list."""

    media_type: str
    digest: str
    size: int
    platform: PlatformFields | None = None
    annotations: dict[str, str] | None = None
    urls: tuple[str, ...] | None = None
    artifact_type: str | None = None

    @property
    def descriptor(self) -> Descriptor:
        """What names the manifest."""
        return Descriptor(self.media_type, Digest.parse(self.digest), self.size)

    @property
    def origin(self) -> str | None:
        """The repository that the image lies in, if it was added from one."""
        return (self.annotations or {}).get(ORIGIN)


class ManifestList(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The list. Changing methods return a new one."""

    schema_version: int
    media_type: str
    manifests: tuple[Entry, ...]
    annotations: dict[str, str] | None = None
    subject: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    artifact_type: str | None = None

    @classmethod
    def empty(cls) -> ManifestList:
        """An OCI index without images."""
        return cls(2, MediaType.OCI_INDEX, ())

    @classmethod
    def parse(cls, document: Document) -> ManifestList:
        """Read a list. Raises ImageError."""
        if not isinstance(parse_manifest(document), Index):
            raise ImageError("the manifest of one image was given where a list of images was expected")
        try:
            found = msgspec.json.decode(document.raw, type=_Received)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ImageError(f"the list of images is not valid: {str(error)[:200]}") from None
        return cls(
            2,
            found.media_type or document.media_type,
            found.manifests,
            found.annotations or None,
            found.subject,
            found.artifact_type or None,
        )

    def to_document(self) -> Document:
        """The bytes that stand for the list, the same every time."""
        return Document(self.media_type, encode(self))

    def with_entry(self, entry: Entry) -> ManifestList:
        """`entry` is in the list, in place of one with its digest. Raises ImageError for a list in the list."""
        if entry.media_type in INDEXES:
            raise ImageError(f"{entry.digest} is a list of images itself, which cannot be in a list")
        kept = tuple(each for each in self.manifests if each.digest != entry.digest)
        if len(kept) >= INDEX_MANIFESTS_MAX:
            raise ImageError(f"the list has {INDEX_MANIFESTS_MAX} images; more cannot be in one")
        return replace(self, manifests=(*kept, entry))

    def entry(self, digest: str) -> Entry:
        """The entry with a digest, `sha256:` in front of it or not, or its beginning. Raises UsageError."""
        start = digest.removeprefix("sha256:")
        found = [each for each in self.manifests if each.digest.partition(":")[2].startswith(start)] if start else []
        if len(found) != 1:
            there = ", ".join(each.digest for each in self.manifests[:20]) or "nothing"
            why = "has no image" if not found else f"has {len(found)} images"
            raise UsageError(f"the list {why} with the digest {digest[:80]}", hint=f"there is {there}")
        return found[0]

    def without(self, digest: str) -> ManifestList:
        """The entry is gone. Raises UsageError."""
        gone = self.entry(digest)
        return replace(self, manifests=tuple(each for each in self.manifests if each != gone))

    def described(self, digest: str, changes: Changes) -> ManifestList:
        """The entry with other words about it. Raises UsageError."""
        old = self.entry(digest)
        new = changes.applied(old)
        return replace(self, manifests=tuple(new if each == old else each for each in self.manifests))

    def annotated(self, annotations: Mapping[str, str]) -> ManifestList:
        """The list with these annotations of its own as well."""
        return replace(self, annotations={**(self.annotations or {}), **annotations} or None)

    def for_others(self, wanted: Format | None = None, entries: Sequence[Entry] | None = None) -> ManifestList:
        """The list as it is pushed, without notes of ours; with these entries, and in a format. Raises ImageError."""
        kind = self.media_type if wanted is None else media_type_in(self.media_type, wanted)
        plain = tuple(_without_origin(each) for each in (self.manifests if entries is None else entries))
        if kind == MediaType.DOCKER_INDEX:
            plain = tuple(replace(each, annotations=None, artifact_type=None) for each in plain)
            return ManifestList(2, kind, plain)
        return replace(self, media_type=kind, manifests=plain)


class _Received(Struct, rename="camel"):
    """What lists are read as: Go writes null for what is empty."""

    manifests: tuple[Entry, ...]
    media_type: str = ""
    annotations: dict[str, str] | None = None
    subject: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    artifact_type: str | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be said of an entry; None leaves it as it is."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def applied(self, entry: Entry) -> Entry:
        """The entry with the changes."""
        fields = {
            "os": self.os,
            "architecture": self.architecture,
            "variant": self.variant,
            "os_version": self.os_version,
            "os_features": self.os_features,
            "features": self.features,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        platform = replace(entry.platform or PlatformFields(), **given) if given else entry.platform
        return replace(entry, platform=platform, annotations={**(entry.annotations or {}), **self.annotations} or None)


def entry_of(document: Document, platform: PlatformFields | None, origin: str | None = None) -> Entry:
    """The entry for a manifest; `origin` is the repository it lies in."""
    annotations = {ORIGIN: origin} if origin else None
    return Entry(document.media_type, str(document.digest), len(document.raw), platform, annotations)


def _without_origin(entry: Entry) -> Entry:
    kept = {name: value for name, value in (entry.annotations or {}).items() if name != ORIGIN}
    return replace(entry, annotations=kept or None)
