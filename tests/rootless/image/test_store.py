"""The store: names, sharing, removal, damage, full disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from rootless.errors import ImageError, UsageError
from rootless.image.derive import LayerMaker, ensure
from rootless.image.model import Derive, Image
from rootless.image.store import ImageNotFound, Store
from rootless.oci.digest import Digest
from rootless.oci.documents import Document
from rootless.oci.reference import Reference
from tests.kit import images
from tests.kit.userns import in_namespaces

SHARED = images.pack(images.tar([images.file("shared", b"in two images")]))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.prepare()
    return store


def put(store: Store, name: str | None, *contents: str, compression: str = "gzip") -> Image:
    """An image of the shared layer and one layer for each of `contents`."""
    layers = [SHARED, *(images.pack(images.tar([images.file(text, text.encode())]), compression) for text in contents)]
    layout = images.Layout(f"{store.path}/../layout-{len(os.listdir(store.path + '/..'))}")
    descriptor = layout.image("x", layers)
    for entry in os.listdir(f"{layout.path}/blobs/sha256"):
        with open(f"{layout.path}/blobs/sha256/{entry}", "rb") as file:
            store.blobs.put(file.read(), Digest("sha256", entry))
    raw = store.blobs.read(Digest.parse(descriptor["digest"]), 1 << 20)
    image = store.add(Document(descriptor["mediaType"], raw), reference=Reference.parse(name) if name else None)
    assert image is not None
    return image


def test_names(store: Store) -> None:
    image = put(store, "example.com/app:1", "a")
    other = put(store, "app", "b")
    built = put(store, "localhost/built", "c")
    assert image.created is not None and image.created.year == 2024
    for text in (
        "example.com/app:1",
        image.id,
        image.short_id,
        f"sha256:{image.id}",
        str(image.digest),
        image.digest.hex,
        f"example.com/app@{image.digest}",
    ):
        assert store.resolve(text).id == image.id
    assert store.resolve("app").id == store.resolve("docker.io/library/app:latest").id == other.id
    assert store.resolve("built").id == built.id
    assert {one.id for one in store.images()} == {image.id, other.id, built.id}
    for text in ("nothing", "example.com/app", "app:2", f"app@{image.digest}", "0" * 64, "sha256:" + "0" * 64):
        with pytest.raises(ImageNotFound):
            store.resolve(text)
    with pytest.raises(UsageError, match="malformed"):
        store.resolve("App")


def test_what_an_index_of_another_tool_holds_is_not_collected(store: Store) -> None:
    """skopeo and umoci put indexes into a layout: their manifests are needed, though no image of ours."""
    image = put(store, "app", "a")
    catalog = json.loads(Path(store.path, "index.json").read_bytes())
    manifest = {key: catalog["manifests"][0][key] for key in ("mediaType", "digest", "size")}
    missing = {**manifest, "digest": f"sha256:{'0' * 64}"}
    kind = "application/vnd.oci.image.index.v1+json"
    raw = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [manifest, missing]}).encode()
    digest = Digest.of(raw)
    store.blobs.put(raw, digest)
    catalog["manifests"] = [{"mediaType": kind, "digest": str(digest), "size": len(raw)}]
    Path(store.path, "index.json").write_text(json.dumps(catalog))
    stray = b"of no image"
    store.blobs.put(stray, Digest.of(stray))
    assert store.collect() == len(stray)
    assert all(store.blobs.has(layer.blob, layer.size) for layer in image.layers)
    assert store.blobs.has(image.digest, manifest["size"])


def test_ambiguous_ids(store: Store) -> None:
    found: dict[str, Image] = {}
    for number in range(40):
        image = put(store, None, f"number {number}")
        if image.id[0] in found:
            with pytest.raises(UsageError, match="ambiguous"):
                store.resolve(f"sha256:{image.id[0]}")
            return
        found[image.id[0]] = image
    raise AssertionError("forty images with different first digits of sixteen")


def test_tag_and_untag(store: Store) -> None:
    image, other = put(store, "a:1", "a"), put(store, "b:1", "b")
    store.tag(image, Reference.parse("a:2"))
    assert store.resolve("a:2").names == ("docker.io/library/a:1", "docker.io/library/a:2")
    store.tag(image, Reference.parse("b:1"))
    assert store.resolve("b:1").id == image.id
    assert store.resolve(other.id).names == ()
    store.untag(Reference.parse("b:1"))
    with pytest.raises(ImageNotFound):
        store.untag(Reference.parse("b:1"))
    with pytest.raises(UsageError, match="no digest"):
        store.tag(image, Reference.parse(f"a@{image.digest}"))
    assert len(store.images()) == 2
    assert put(store, "a:1", "c").names == ("docker.io/library/a:1",)
    assert store.resolve(image.id).names == ("docker.io/library/a:2",)


async def test_removal_spares_what_is_shared(store: Store) -> None:
    image, other = put(store, "a", "a"), put(store, "b", "b")
    await ensure(store, image, Derive.INDEX)
    await ensure(store, other, Derive.INDEX)
    store.tag(image, Reference.parse("a:2"))
    removed = store.remove("a:2")
    assert removed.untagged == ("docker.io/library/a:2",) and not removed.deleted
    assert store.remove("a").deleted == (image.id,)
    assert store.has_index(other.layers[0])
    assert not os.path.exists(store.layer_path(image.layers[1]))
    assert store.blobs.has(other.layers[0].blob, other.layers[0].size)
    assert not store.blobs.has(image.layers[1].blob, image.layers[1].size)
    assert store.resolve("b").id == other.id
    assert store.remove(other.short_id).freed > 0
    assert store.blobs.all() == [] and os.listdir(f"{store.path}/layers") == []
    with pytest.raises(ImageNotFound):
        store.remove("b")


def test_removal_asks_first(store: Store) -> None:
    image = put(store, "a", "a")
    with pytest.raises(UsageError, match="used by container web"):
        store.remove("a", in_use=lambda image: "web")
    store.tag(image, Reference.parse("b"))
    assert not store.remove("b", in_use=lambda image: "web").deleted
    store.tag(image, Reference.parse("b"))
    with pytest.raises(UsageError, match="2 names"):
        store.remove(image.id)
    assert store.remove(image.id, force=True).untagged == (*image.names, "docker.io/library/b:latest")
    assert store.images() == []


def test_two_packings_of_one_image(store: Store) -> None:
    first, second = put(store, "a", "x"), put(store, "b", "x", compression="zstd")
    assert first.id == second.id and first.digest != second.digest
    [image] = store.images()
    assert set(image.names) == {"docker.io/library/a:latest", "docker.io/library/b:latest"}
    assert store.remove("a").untagged == ("docker.io/library/a:latest",)
    [image] = store.images()
    assert image.digest == second.digest and image.names == ("docker.io/library/b:latest",)
    put(store, "a", "x")
    with pytest.raises(UsageError, match="2 names"):
        store.remove(image.id)
    assert set(store.remove(image.id, force=True).untagged) == {
        "docker.io/library/a:latest",
        "docker.io/library/b:latest",
    }
    assert store.blobs.all() == []


async def test_damage_is_seen_and_repaired(store: Store) -> None:
    image = put(store, "a", "a")
    path = store.blobs.path(image.manifest.config.digest)
    with open(path, "rb") as file:
        good = file.read()
    with open(path, "wb") as file:
        file.write(good[:-1] + b" ")
    with pytest.raises(ImageError, match=r"damaged.*pull it again"):
        store.resolve("a")
    assert store.images() == [] and [one.names for one in store.damaged()] == [("docker.io/library/a:latest",)]
    with open(path, "wb") as file:
        file.write(good)
    os.unlink(store.blobs.path(image.layers[1].blob))
    with pytest.raises(ImageError, match="missing or incomplete"):
        store.resolve("a")
    with pytest.raises(ImageError, match="missing from the store"):
        await LayerMaker(store, Derive.INDEX).from_store(image.layers[1])
    raw = store.blobs.read(image.digest, 1 << 20)
    assert store.add(Document(images.OCI + ".manifest.v1+json", raw), reference=Reference.parse("a")) is None
    assert store.remove("a").untagged == ("docker.io/library/a:latest",)
    assert store.images() == store.damaged() == []


async def test_a_damaged_layer_is_never_derived(store: Store) -> None:
    image = put(store, "a", "a")
    path = store.blobs.path(image.layers[0].blob)
    with open(path, "r+b") as file:
        file.seek(30)
        file.write(b"\0\1\2")
    with pytest.raises(ImageError):
        await ensure(store, image, Derive.INDEX)
    assert not store.has_index(image.layers[0])
    assert set(os.listdir(store.tmp)) <= {"lock", "pull.lock"}


async def test_derived_layers_are_made_once(store: Store) -> None:
    image = put(store, "a", "a")
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ensure, store, image, Derive.INDEX)
    before = [os.stat(store.index_path(layer)).st_ino for layer in image.layers]
    await ensure(store, image, Derive.INDEX)
    assert [os.stat(store.index_path(layer)).st_ino for layer in image.layers] == before
    assert store.layer_data(image.layers[0]) == (store.frames_path(image.layers[0]), "frames")


def test_a_foreign_layout_is_read(tmp_path: Path) -> None:
    """What skopeo wrote, we read: names as skopeo spells them."""
    layout = images.Layout(str(tmp_path / "layout"))
    layout.image("docker.io/library/app:latest", [SHARED])
    subprocess.run(
        [
            "skopeo",
            "copy",
            "--quiet",
            f"oci:{layout.path}:docker.io/library/app:latest",
            f"oci:{tmp_path}/other:quay.io/x/y:1",
        ],
        check=True,
    )
    store = Store(str(tmp_path / "other"))
    store.prepare()
    assert store.resolve("quay.io/x/y:1").layers[0].diff_id == Digest.parse(SHARED.diff_id)


def test_index_json_that_is_damaged(store: Store) -> None:
    with open(f"{store.path}/index.json", "w") as file:
        file.write("{")
    with pytest.raises(ImageError, match=r"index\.json is not JSON"):
        store.images()


@pytest.mark.userns
def test_removal_on_a_full_disk(tmp_path: Path) -> None:
    def work() -> list[str]:
        disk = str(tmp_path)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=200", "none", disk], check=True)
        store = Store(f"{disk}/store")
        store.prepare()
        image = put(store, "a", "a")
        trio.run(ensure, store, image, Derive.INDEX)
        with pytest.raises(OSError), open(f"{disk}/filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(OSError):
            for number in range(300):
                os.mkdir(f"{disk}/filler-{number}")
        store.remove("a")
        return [*map(str, store.blobs.all()), *os.listdir(f"{store.path}/layers")]

    assert in_namespaces(work) == []


def test_the_store_does_not_import_the_network() -> None:
    code = "import sys, rootless.image.store; print([m for m in ('httpx', 'trio', 'rich', 'ssl') if m in sys.modules])"
    checkout = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_annotations_of_others_are_kept(store: Store) -> None:
    image = put(store, "a", "a")
    with open(f"{store.path}/index.json") as file:
        document = json.load(file)
    document["manifests"].append({**document["manifests"][0], "annotations": {"org.example": "x"}})
    with open(f"{store.path}/index.json", "w") as file:
        json.dump(document, file)
    assert store.resolve("a").id == image.id
