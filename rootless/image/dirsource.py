"""Skopeo's `dir:`: `manifest.json`, blobs in files named by their digests, and `version` (containers-transports(5))."""

from __future__ import annotations

from rootless.errors import ImageError
from rootless.image.filesource import FileSource
from rootless.image.layouts import Offer
from rootless.image.members import Files, Folder, read
from rootless.image.source import Identity
from rootless.oci.digest import Digest
from rootless.oci.documents import MANIFEST_MAX, Document, sniff_media_type

MANIFEST = "manifest.json"
VERSION = "version"
VERSION_LINE = b"Directory Transport Version: 1.1\n"


def is_dir(files: Files) -> bool:
    """Whether the directory is one of these."""
    return files.find(MANIFEST) is not None


def offer(folder: Folder) -> Offer:
    """The one image, or list of images, that the directory holds; it has no name."""
    if folder.find(MANIFEST) is None:
        raise ImageError(f"{folder.path} has no {MANIFEST}")

    async def top() -> Document:
        raw = read(folder, MANIFEST, MANIFEST_MAX)
        return Document(sniff_media_type(raw), raw)

    def place(digest: Digest) -> str | None:
        # Manifests of the images of a list have an ending, blobs have none.
        name = f"{digest.hex}.{MANIFEST}"
        return name if folder.find(name) is not None else digest.hex

    return Offer(FileSource(folder, Identity("dir", folder.path), top, place), (), "")
