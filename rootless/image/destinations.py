"""Places on this machine as destinations: image layouts, Docker's archives, and `dir:`."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Self

import msgspec

from rootless.errors import ImageError, UsageError
from rootless.image.compression import decompressor
from rootless.image.dirsource import MANIFEST, VERSION, VERSION_LINE
from rootless.image.layouts import as_reference, blob_name
from rootless.image.members import Folder, read
from rootless.image.sinks import ArchiveSink, Chunks, FolderSink, Sink, archive_file, verified
from rootless.image.source import Destination
from rootless.oci.digest import Digest
from rootless.oci.documents import (
    CONFIG_MAX,
    MANIFEST_MAX,
    REF_NAME,
    Descriptor,
    Document,
    Index,
    Manifest,
    encode,
    parse_config,
    parse_layout_index,
    parse_manifest,
)
from rootless.oci.mediatype import CONFIGS, MediaType, layer_compression
from rootless.oci.reference import Reference
from rootless.oci.transports import Place, Transport

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_OURS = re.compile(r"[0-9a-f]{64}|[0-9a-f]{128}|(?:[0-9a-f]+\.)?manifest\.json|version|signature-[0-9]+")


def destination(place: Place) -> Destination:
    """Where `place`, whose path is absolute, says. Raises UsageError."""
    if place.position is not None:
        raise UsageError(f"cannot write to {place}: a position only names an image that is there")
    if place.kind is Transport.OCI:
        return LayoutFolder(place.path, place.reference)
    if place.kind is Transport.OCI_ARCHIVE:
        return LayoutArchive(place.path, place.reference)
    if place.kind is Transport.DIR:
        return DirFolder(place.path)
    if place.kind is Transport.DOCKER_ARCHIVE:
        name = as_reference(place.reference) if place.reference else None
        if place.reference and (name is None or name.digest is not None):
            raise UsageError(f"cannot write to {place}: {place.reference!r} is not a name with a tag")
        return DockerArchive(place.path, [name] if name else [])
    raise UsageError(f"{place} is no place in files")


def _is_taken(path: str, mark: str) -> bool:
    """Whether something is at `path` that is no empty directory and no earlier image, which has the file `mark`."""
    if os.path.isdir(path):
        return bool(os.listdir(path)) and not os.path.isfile(os.path.join(path, mark))
    return os.path.lexists(path)


class _Written:
    """What all of them do: nothing at the beginning, and at the end what `self._stack` has collected."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._stack = AsyncExitStack()

    @property
    def title(self) -> str:
        """The transport and the path."""
        return self._title

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, value, trace)


class _Layout(_Written):
    """A layout in whatever sink; `names` of images are those of the calls of `add`."""

    def __init__(self, title: str, reference: str, entries: Sequence[Descriptor] = ()) -> None:
        super().__init__(title)
        self._reference = reference
        self._entries = list(entries)
        self._sink: Sink | None = None

    async def blob(self, descriptor: Descriptor, chunks: Chunks, origins: Sequence[Reference] = ()) -> bool:
        """A file named after its digest."""
        assert self._sink is not None
        return await self._sink.stream(blob_name(descriptor.digest), descriptor, chunks)

    async def manifest(self, document: Document, version: str | None = None) -> None:
        """A blob, and an entry of index.json unless it is part of a list."""
        assert self._sink is not None
        self._sink.put(blob_name(document.digest), document.raw)
        if version is None:
            self.add(document, [self._reference] if self._reference else [])

    def add(self, document: Document, names: Sequence[str]) -> None:
        """Entries of index.json for a manifest that is there; who had the names before loses them."""
        plain = document.descriptor()
        kept = [
            entry
            for entry in self._entries
            if entry.annotation(REF_NAME) not in names
            and not (entry.digest == plain.digest and entry.annotation(REF_NAME) is None)
        ]
        named = [document.descriptor({REF_NAME: name}) for name in names]
        self._entries = [*kept, *(named or [plain])]

    def _index(self) -> bytes:
        return encode(Index(manifests=tuple(self._entries), media_type=MediaType.OCI_INDEX))


class LayoutFolder(_Layout):
    """A layout in a directory; images that are there stay."""

    def __init__(self, path: str, reference: str = "") -> None:
        entries: tuple[Descriptor, ...] = ()
        if _is_taken(path, "oci-layout"):
            raise UsageError(f"cannot write an image layout to {path}: something else is there")
        if os.path.isdir(path) and (folder := Folder(path)).find("index.json") is not None:
            entries = parse_layout_index(read(folder, "index.json", MANIFEST_MAX)).manifests
        super().__init__(f"oci:{path}", reference, entries)
        self._folder = FolderSink(path)
        self._sink = self._folder

    async def __aenter__(self) -> Self:
        self._folder.put("oci-layout", _LAYOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            self._folder.put("index.json", self._index())


class LayoutArchive(_Layout):
    """A layout in an archive, which replaces what was there."""

    def __init__(self, path: str, reference: str = "") -> None:
        super().__init__(f"oci-archive:{path}", reference)
        self._path = path

    async def __aenter__(self) -> Self:
        self._archive = await self._stack.enter_async_context(archive_file(self._path))
        self._archive.put("oci-layout", _LAYOUT)
        self._sink = self._archive
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            self._archive.put("index.json", self._index())
        await super().__aexit__(kind, value, trace)


class DirFolder(_Written):
    """Skopeo's `dir:`; what an earlier image of this kind left there is removed."""

    def __init__(self, path: str) -> None:
        if _is_taken(path, VERSION):
            raise UsageError(f"cannot write an image to {path}: something else is there")
        super().__init__(f"dir:{path}")
        self._path = path
        self._folder = FolderSink(path)
        self._written: set[str] = {VERSION}

    async def __aenter__(self) -> Self:
        self._folder.put(VERSION, VERSION_LINE)
        return self

    async def blob(self, descriptor: Descriptor, chunks: Chunks, origins: Sequence[Reference] = ()) -> bool:
        """A file named after its digest."""
        self._written.add(descriptor.digest.hex)
        return await self._folder.stream(descriptor.digest.hex, descriptor, chunks)

    async def manifest(self, document: Document, version: str | None = None) -> None:
        """manifest.json, or the manifest of one image of a list."""
        name = MANIFEST if version is None else f"{Digest.parse(version).hex}.{MANIFEST}"
        self._written.add(name)
        self._folder.put(name, document.raw)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            for name in os.listdir(self._path):
                if _OURS.fullmatch(name) and name not in self._written:
                    os.unlink(os.path.join(self._path, name))


class _Item(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    repo_tags: list[str] | None
    layers: list[str]


class DockerArchive(_Written):
    """What `docker load` reads: layers unpacked, named after their digests; it replaces what was there."""

    def __init__(self, path: str, names: Sequence[Reference] = ()) -> None:
        super().__init__(f"docker-archive:{path}")
        self._path = path
        self._names = names
        self._configs: dict[Digest, bytes] = {}
        self._unpacked: dict[Digest, Digest] = {}
        self._items: list[_Item] = []
        self._repositories: dict[str, dict[str, str]] = {}

    async def __aenter__(self) -> Self:
        self._archive: ArchiveSink = await self._stack.enter_async_context(archive_file(self._path))
        return self

    async def blob(self, descriptor: Descriptor, chunks: Chunks, origins: Sequence[Reference] = ()) -> bool:
        """A layer is unpacked; a configuration waits for its manifest."""
        if descriptor.media_type in CONFIGS:
            if descriptor.size > CONFIG_MAX:
                raise ImageError(f"the configuration {descriptor.digest} has {descriptor.size} bytes")
            async with aclosing(verified(descriptor, chunks)) as pieces:
                self._configs[descriptor.digest] = b"".join([piece async for piece in pieces])
            return True
        if descriptor.digest in self._unpacked:
            return False
        hasher = Digest.of(b"").hasher()

        async def unpacked() -> AsyncGenerator[bytes, None]:
            unpacking = decompressor(layer_compression(descriptor.media_type))
            async with aclosing(verified(descriptor, chunks)) as pieces:
                async for packed in pieces:
                    for piece in unpacking.feed(packed):
                        hasher.update(piece)
                        yield piece
            unpacking.close()

        finish = await self._archive.unsized(unpacked())
        diff_id = Digest("sha256", hasher.hexdigest())
        self._unpacked[descriptor.digest] = diff_id
        finish(f"{diff_id.hex}.tar")
        return True

    async def manifest(self, document: Document, version: str | None = None) -> None:
        """The configuration, and an item of manifest.json."""
        self.add(document, self._names)

    def add(self, document: Document, names: Sequence[Reference]) -> None:
        """An image whose blobs are there, under these names."""
        parsed = parse_manifest(document)
        if not isinstance(parsed, Manifest):
            raise ImageError(f"{self.title} can hold images, but not a list of images")
        raw = self._configs[parsed.config.digest]
        layers = [self._unpacked[layer.digest] for layer in parsed.layers or ()]
        if tuple(layers) != parse_config(raw).diff_ids:
            raise ImageError("the layers do not unpack to what the image's configuration promises")
        config = f"{parsed.config.digest.hex}.json"
        self._archive.put(config, raw)
        tags = [str(name) for name in names]
        self._items.append(_Item(config, tags or None, [f"{layer.hex}.tar" for layer in layers]))
        for name in names:
            if name.tag and layers:
                self._repositories.setdefault(name.name, {})[name.tag] = layers[-1].hex

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is None:
            self._archive.put("manifest.json", msgspec.json.encode(self._items))
            self._archive.put("repositories", msgspec.json.encode(self._repositories))
        await super().__aexit__(kind, value, trace)
