"""OCI image layouts, in a directory or in an archive: what images they hold (OCI image-spec, `image-layout.md`)."""

from __future__ import annotations

from dataclasses import dataclass

from rootless.errors import ImageError, UsageError
from rootless.image.filesource import FileSource
from rootless.image.members import Files, read
from rootless.image.source import Identity, Source
from rootless.oci.digest import Digest
from rootless.oci.documents import MANIFEST_MAX, REF_NAME, Descriptor, Document, parse_layout_index
from rootless.oci.mediatype import INDEXES, MANIFESTS
from rootless.oci.reference import LOCAL_REGISTRY, Reference, has_registry
from rootless.oci.strict import check_manifest

CONTAINERD_NAME = "io.containerd.image.name"
"""Docker since 25 and containerd write the complete name here, and only the tag into the annotation of OCI."""

_SIGNATURE_SUFFIXES = (".sig", ".att", ".sbom")


@dataclass(frozen=True, slots=True)
class Offer:
    """One image that a place has."""

    source: Source
    names: tuple[Reference, ...]
    """What it is to be called in the store."""
    label: str
    """What it is called there, for lists; empty if it has no name."""

    def is_called(self, text: str) -> bool:
        """Whether `text` names it there, word for word or as a reference that means the same."""
        if text == self.label or text in self.label.split(", "):
            return True
        reference = as_reference(text)
        return reference is not None and reference in self.names


def as_reference(text: str) -> Reference | None:
    """The image reference that a text is, if it is one."""
    try:
        return Reference.parse(text)
    except UsageError:
        return None


def stored_name(text: str) -> Reference | None:
    """What an image that is called `text` in a place is called in the store: a complete name, or `localhost/…`.

    None if it makes no name.
    """
    found = as_reference(text if has_registry(text) else f"{LOCAL_REGISTRY}/{text}")
    return found if found is not None and found.digest is None else None


def is_layout(files: Files) -> bool:
    """Whether there is a layout with at least one image whose manifest is there."""
    if files.find("oci-layout") is None or files.find("index.json") is None:
        return False
    return any(files.find(blob_name(entry.digest)) is not None for entry in _entries(files))


def offers(files: Files, transport: str, scope: str) -> list[Offer]:
    """The images of a layout, in order. Raises ImageError for what is malformed."""
    return [_offer(files, entry, Identity(transport, scope)) for entry in _entries(files)]


def blob_name(digest: Digest) -> str:
    """Where a layout has the content of a digest."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _entries(files: Files) -> list[Descriptor]:
    raw = read(files, "index.json", MANIFEST_MAX)
    check_manifest(raw, f"index.json of {files.path}")
    found = []
    for entry in parse_layout_index(raw).manifests:
        if entry.media_type not in MANIFESTS | INDEXES or entry.artifact_type:
            continue
        if (entry.annotation(REF_NAME) or "").endswith(_SIGNATURE_SUFFIXES):
            continue  # what cosign and others attach is no image
        found.append(entry)
    return found


def _offer(files: Files, entry: Descriptor, identity: Identity) -> Offer:
    async def top() -> Document:
        raw = read(files, blob_name(entry.digest), MANIFEST_MAX)
        if len(raw) != entry.size:
            raise ImageError(f"manifest {entry.digest} of {files.path} has {len(raw)} bytes, not {entry.size}")
        entry.digest.verify(raw, f"manifest {entry.digest} of {files.path}")
        return Document(entry.media_type, raw)

    label = entry.annotation(REF_NAME) or ""
    full = entry.annotation(CONTAINERD_NAME)
    name = (as_reference(full) if full else None) or (stored_name(label) if label else None)
    return Offer(FileSource(files, identity, top, blob_name), (name,) if name else (), full or label)
