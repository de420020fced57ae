"""Lists of images: what they hold, and what they mean on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rootless.errors import ImageError, UsageError
from rootless.image.lookup import ImageNotFound, host_platform
from rootless.image.model import Image, ImageList
from rootless.image.store import Store
from rootless.oci.digest import Digest
from rootless.oci.documents import Document
from rootless.oci.reference import Reference
from tests.kit import images

KIND = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.prepare()
    return store


def put(store: Store, name: str | None, text: str, architecture: str = "") -> tuple[dict[str, object], Image]:
    layout = images.Layout(f"{store.path}/../layout-{len(os.listdir(store.path + '/..'))}")
    layer = images.pack(images.tar([images.file(text, text.encode())]))
    descriptor = layout.image("x", [layer], architecture=architecture)
    for entry in os.listdir(f"{layout.path}/blobs/sha256"):
        store.blobs.put(Path(layout.path, "blobs/sha256", entry).read_bytes(), Digest("sha256", entry))
    document = Document(descriptor["mediaType"], store.blobs.read(Digest.parse(descriptor["digest"]), 1 << 20))
    image = store.add(document, reference=Reference.parse(name) if name else None)
    assert image is not None
    plain = {key: descriptor[key] for key in ("mediaType", "digest", "size")}
    return {**plain, "platform": {"os": "linux", "architecture": image.config.architecture}}, image


def put_list(store: Store, name: str, *entries: dict[str, object]) -> ImageList:
    raw = json.dumps({"schemaVersion": 2, "mediaType": KIND, "manifests": entries}).encode()
    return store.add_index(Document(KIND, raw), reference=Reference.parse(name))


def test_a_list_means_its_image_for_this_platform(store: Store) -> None:
    mine, image = put(store, "mine", "a")
    other, _ = put(store, "other", "b", "s390x")
    absent = {**other, "digest": f"sha256:{'0' * 64}"}
    found = put_list(store, "all:1", absent, other, mine)
    assert [one.digest for one in store.indexes()] == [found.digest] and not store.damaged()
    assert len(store.images()) == 2
    resolved = store.resolve("all:1")
    assert resolved.id == image.id and resolved.names == (*image.names, "docker.io/library/all:1")
    assert store.find(Reference.parse("all:1")) == resolved == store.resolve(found.short_id)
    assert store.resolve_index("all:1") == found == store.resolve_index(str(found.digest))
    with pytest.raises(ImageNotFound, match="not a list"):
        store.resolve_index("mine")
    put_list(store, "all:1", other)
    with pytest.raises(ImageNotFound, match=f"no image for {host_platform()}"):
        store.resolve("all:1")
    assert store.find(Reference.parse("all:1")) is None


def test_a_list_keeps_its_images(store: Store) -> None:
    mine, image = put(store, "mine", "a")
    found = put_list(store, "all", mine)
    store.tag(found, Reference.parse("again"))
    assert store.remove("mine").deleted == (image.id,)
    assert store.images() == [] and store.resolve("all").id == image.id == store.resolve(image.short_id).id
    assert store.collect() == 0
    with pytest.raises(UsageError, match="belongs to a list"):
        store.remove(image.id)
    assert not store.remove("again").deleted
    with pytest.raises(UsageError, match="used by container web"):
        store.remove("all", in_use=lambda used: "web" if used.id == image.id else None)
    assert store.remove("all").deleted == (found.id,)
    assert store.blobs.all() == [] and store.indexes() == []


def test_an_image_outlives_its_list(store: Store) -> None:
    mine, image = put(store, "mine", "a")
    put_list(store, "all", mine)
    assert store.remove("all", in_use=lambda used: "web").freed > 0
    assert store.resolve("mine").id == image.id


def test_what_is_no_list(store: Store) -> None:
    _, image = put(store, "mine", "a")
    raw = store.blobs.read(image.digest, 1 << 20)
    kind = store.lookup().catalog.media_type(image.digest)
    assert kind is not None
    with pytest.raises(ImageError, match="where a list"):
        store.add_index(Document(kind, raw))


def test_a_damaged_list(store: Store) -> None:
    found = put_list(store, "all", put(store, "mine", "a")[0])
    Path(store.blobs.path(found.digest)).write_bytes(b"{}")
    assert [one.names for one in store.damaged()] == [("docker.io/library/all:latest",)]
    for look in (store.resolve, store.resolve_index):
        with pytest.raises(ImageError, match="damaged"):
            look("all")
    assert store.remove("all").deleted == (found.digest.hex,)
