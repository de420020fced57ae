"""What index.json says: which manifests the store holds, under which names.

Pure. A name is the annotation `org.opencontainers.image.ref.name` of a descriptor (OCI image-spec, `annotations.md`);
an image with two names has two descriptors, and one without a name has one that lacks the annotation. An annotation
of ours says which `repository@digest` the registry answered with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rootless.oci.digest import Digest
from rootless.oci.documents import REF_NAME, Descriptor, Index, encode, parse_layout_index
from rootless.oci.mediatype import MediaType
from rootless.oci.reference import Reference

SOURCE = "io.github.rcontain.source"


@dataclass(frozen=True, slots=True)
class Catalog:
    """The descriptors of index.json. Changing methods return a new catalog."""

    entries: tuple[Descriptor, ...] = ()

    @classmethod
    def parse(cls, raw: bytes) -> Catalog:
        """Read index.json. Raises ImageError."""
        return cls(parse_layout_index(raw).manifests)

    def to_bytes(self) -> bytes:
        """index.json."""
        return encode(Index(manifests=self.entries, media_type=MediaType.OCI_INDEX))

    @property
    def digests(self) -> tuple[Digest, ...]:
        """The manifests, each once."""
        return tuple(dict.fromkeys(entry.digest for entry in self.entries))

    def find(self, reference: Reference) -> Descriptor | None:
        """The descriptor that a reference means: by digest, within its repository, if it has one; else by name."""
        if reference.digest is None:
            return self.named(str(reference))
        for entry in self.entries:
            repository, _, digest = (entry.annotation(SOURCE) or "").rpartition("@")
            if repository == reference.name and str(reference.digest) in (digest, str(entry.digest)):
                return entry
        return None

    def named(self, name: str) -> Descriptor | None:
        """The descriptor that has a name."""
        return next((entry for entry in self.entries if entry.annotation(REF_NAME) == name), None)

    def media_type(self, digest: Digest) -> str | None:
        """The media type of a manifest."""
        return next((entry.media_type for entry in self.entries if entry.digest == digest), None)

    def names(self, digest: Digest) -> tuple[str, ...]:
        """All names of a manifest."""
        own = (entry.annotation(REF_NAME) for entry in self.entries if entry.digest == digest)
        return tuple(dict.fromkeys(name for name in own if name))

    def sources(self, digest: Digest) -> tuple[str, ...]:
        """All `repository@digest` that a manifest came from, its own digest in each repository included."""
        own = (entry.annotation(SOURCE) for entry in self.entries if entry.digest == digest)
        sources = [source for source in own if source]
        own_names = [f"{source.rpartition('@')[0]}@{digest}" for source in sources]
        return tuple(dict.fromkeys(sources + own_names))

    def with_name(self, manifest: Descriptor, name: str, source: str | None) -> Catalog:
        """`manifest` gets `name`, which whoever had it before loses."""
        annotations = {REF_NAME: name, **({SOURCE: source} if source else {})}
        new = Descriptor(manifest.media_type, manifest.digest, manifest.size, annotations)
        return Catalog(_tidy([*self.without_name(name).entries, new]))

    def with_nameless(self, manifest: Descriptor) -> Catalog:
        """`manifest` is there, with whatever names it has."""
        return Catalog(_tidy([*self.entries, Descriptor(manifest.media_type, manifest.digest, manifest.size)]))

    def without_name(self, name: str) -> Catalog:
        """The name is gone; its manifest stays."""
        return Catalog(
            _tidy([_nameless(entry) if entry.annotation(REF_NAME) == name else entry for entry in self.entries])
        )

    def without(self, digests: Iterable[Digest]) -> Catalog:
        """These manifests are gone, with all their names."""
        gone = set(digests)
        return Catalog(tuple(entry for entry in self.entries if entry.digest not in gone))


def _nameless(entry: Descriptor) -> Descriptor:
    kept = {key: value for key, value in (entry.annotations or {}).items() if key != REF_NAME}
    return Descriptor(entry.media_type, entry.digest, entry.size, kept or None)


def _tidy(entries: list[Descriptor]) -> tuple[Descriptor, ...]:
    """Drop nameless descriptors of manifests that have a name, and repetitions of others."""
    named = {entry.digest for entry in entries if entry.annotation(REF_NAME)}
    seen: set[Digest] = set()
    kept = []
    for entry in entries:
        if not entry.annotation(REF_NAME):
            if entry.digest in named or entry.digest in seen:
                continue
            seen.add(entry.digest)
        kept.append(entry)
    return tuple(kept)
