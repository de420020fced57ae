"""What of an image gets to a destination, in which order, and in which form."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.conversion import Format
from rootless.image.push import Wishes, known_places, push
from rootless.image.repack import Packing
from rootless.image.store import Store
from rootless.oci.digest import Digest
from rootless.oci.documents import Descriptor, Document
from rootless.oci.mediatype import Compression
from rootless.oci.reference import Reference
from tests.kit import images


class Memory:
    """A destination that keeps everything in order."""

    title = "memory"

    def __init__(self) -> None:
        self.order: list[str] = []
        self.blobs: dict[Digest, bytes] = {}
        self.documents: list[tuple[Document, str | None]] = []
        self.origins: dict[Digest, Sequence[Reference]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def blob(
        self,
        descriptor: Descriptor,
        chunks: Callable[[int], AsyncGenerator[bytes, None]],
        origins: Sequence[Reference] = (),
    ) -> bool:
        self.blobs[descriptor.digest] = b"".join([chunk async for chunk in chunks(0)])
        assert self.blobs[descriptor.digest][3:] == b"".join([chunk async for chunk in chunks(3)])
        self.order.append(descriptor.media_type.rpartition(".")[2].rpartition("+")[0] or descriptor.media_type)
        self.origins[descriptor.digest] = origins
        return True

    async def manifest(self, document: Document, version: str | None = None) -> None:
        self.order.append("manifest")
        self.documents.append((document, version))


def stored(tmp_path: Path, *kinds: str) -> Store:
    """A store whose one image has a layer of each kind of packing. The layout is one that another tool has written."""
    layout = images.Layout(str(tmp_path / "store"))
    layers = [images.pack(images.tar([images.file(kind, kind.encode() * 999)]), kind) for kind in kinds]
    layout.image("example.org/team/x:1", layers, {"Cmd": ["x"]})
    layout.image("No Name At All", layers, {"Cmd": ["y"]})
    store = Store(layout.path)
    store.prepare()
    return store


async def test_the_manifest_comes_last_and_is_as_it_was(tmp_path: Path) -> None:
    store = stored(tmp_path, "gzip", "zstd", "none")
    image = store.resolve("example.org/team/x:1")
    memory = Memory()
    result = await push(store, image, memory, wishes=Wishes(pack_plain=True))
    assert memory.order[-1] == "manifest" and len(memory.order) == 5
    assert memory.documents == [(result, None)] and result.digest == image.digest
    assert all(Digest.of(content) == digest for digest, content in memory.blobs.items())
    assert all([str(place) for place in places] == ["example.org/team/x:latest"] for places in memory.origins.values())
    assert set(known_places(store)) >= set(memory.blobs)


@pytest.mark.parametrize(
    ("kinds", "wishes", "expected"),
    [
        (("gzip", "zstd", "none"), Wishes(Format.DOCKER), "gzip gzip gzip"),
        (("gzip", "zstd", "none"), Wishes(Format.OCI), "gzip zstd tar"),
        (("gzip", "none"), Wishes(packing=Packing(Compression.ZSTD)), "zstd zstd"),
        (("none", "none"), Wishes(pack_plain=True), "gzip gzip"),
        (("none", "none"), Wishes(), "tar tar"),
    ],
)
async def test_forms(tmp_path: Path, kinds: tuple[str, ...], wishes: Wishes, expected: str) -> None:
    store = stored(tmp_path, *kinds)
    image = store.resolve("example.org/team/x:1")
    memory = Memory()
    manifest = json.loads((await push(store, image, memory, wishes=wishes)).raw)
    ends = [layer["mediaType"].rpartition(".")[2].rpartition("+")[2] for layer in manifest["layers"]]
    assert " ".join(ends) == expected
    assert [Digest.parse(layer["digest"]) in memory.blobs for layer in manifest["layers"]] == [True] * len(kinds)
    assert manifest["config"]["digest"] == f"sha256:{image.id}"
    assert not [name for name in (tmp_path / "store/tmp").iterdir() if name.is_dir()], "workspaces are gone"


async def test_what_cannot_be(tmp_path: Path) -> None:
    store = stored(tmp_path, "gzip")
    image = store.resolve("example.org/team/x:1")
    with pytest.raises(UsageError, match="v2s2"):
        Wishes(Format.DOCKER, Packing(Compression.ZSTD)).checked()
    path = Path(store.blobs.path(image.layers[0].blob))
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(ImageError):
        await push(store, image, Memory(), wishes=Wishes(packing=Packing(Compression.ZSTD)))
    path.unlink()
    with pytest.raises((HostError, ImageError)):
        await push(store, image, Memory())
    shutil.rmtree(tmp_path / "store")
