"""Out of the store and back, through every kind of place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from rootless.errors import ImageError, UsageError
from rootless.image.destinations import DirFolder, DockerArchive, LayoutArchive, LayoutFolder
from rootless.image.model import Image
from rootless.image.obtain import fetch
from rootless.image.places import recognized
from rootless.image.policy import Policy
from rootless.image.pull import take
from rootless.image.saving import Saved, save
from rootless.image.store import Store
from rootless.oci.reference import Reference
from tests.kit import images

KINDS = {"docker-archive": DockerArchive, "oci-archive": LayoutArchive, "oci": LayoutFolder, "dir": DirFolder}
NAME = Reference.parse("example.org/team/demo:1")


def new_store(path: Path) -> Store:
    store = Store(str(path))
    store.prepare()
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path / "store")


@pytest.fixture
async def demo(store: Store, tmp_path: Path) -> Image:
    layout = images.demo_layout(str(tmp_path / "layout")).path
    return await fetch(store, f"oci:{layout}")


async def load(store: Store, source: str | int) -> list[Image]:
    async with recognized(store, source) as offers:
        return [await take(store, offer.source, policy=Policy.load({}), names=offer.names) for offer in offers]


@pytest.mark.parametrize("kind", KINDS)
async def test_there_and_back(store: Store, demo: Image, tmp_path: Path, kind: str) -> None:
    target = str(tmp_path / "out")
    await save(store, [Saved(demo, (NAME,))], KINDS[kind](target))
    other = new_store(tmp_path / "other")
    [image] = await load(other, target)
    assert image.id == demo.id
    assert [layer.diff_id for layer in image.layers] == [layer.diff_id for layer in demo.layers]
    assert image.names == (() if kind == "dir" else (str(NAME),))
    if kind.startswith("oci"):
        assert image.digest == demo.digest
    assert image.repo_digests == ()  # no registry is known to have it
    by_place = await fetch(new_store(tmp_path / "third"), f"{kind}:{target}")
    assert by_place.id == demo.id


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_bytes_every_time(store: Store, demo: Image, tmp_path: Path, kind: str) -> None:
    found = []
    for name in ("a", "b"):
        target = tmp_path / name
        await save(store, [Saved(demo, (NAME,))], KINDS[kind](str(target)))
        paths = sorted(path for path in [target, *target.rglob("*")] if path.is_file())
        found.append([(str(path.relative_to(target)), path.read_bytes()) for path in paths])
    assert found[0] == found[1] and found[0]


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "oci"])
async def test_several_images(store: Store, demo: Image, tmp_path: Path, kind: str) -> None:
    layout = images.Layout(str(tmp_path / "more"))
    layout.image("more", [images.pack(images.demo_layers()[0])])
    more = await fetch(store, f"oci:{layout.path}")
    target = str(tmp_path / "out")
    second = Reference.parse("localhost/x:y")
    await save(store, [Saved(demo, (NAME, second)), Saved(more, ())], KINDS[kind](target))
    other = new_store(tmp_path / "other")
    with pytest.raises(UsageError, match=r"holds \d images; say which.*@0 example.org/team/demo:1"):
        await fetch(other, f"{kind}:{target}")
    assert (await fetch(other, f"{kind}:{target}:{second}")).id == demo.id
    assert (await fetch(other, f"{kind}:{target}:@{1 if kind == 'docker-archive' else 2}")).id == more.id
    with pytest.raises(UsageError, match=r"has no image 'zzz'.*there are"):
        await fetch(other, f"{kind}:{target}:zzz")
    with pytest.raises(UsageError, match="does not exist"):
        await fetch(other, f"{kind}:{target}:@7")
    third = new_store(tmp_path / "third")
    assert {image.id for image in await load(third, target)} == {demo.id, more.id}
    assert third.resolve(str(NAME)).names == (str(NAME), str(second))
    assert third.resolve(more.id).names == ()


async def test_a_layout_is_added_to_and_other_things_are_left_alone(store: Store, demo: Image, tmp_path: Path) -> None:
    target = tmp_path / "out"
    for name in ("localhost/a:1", "localhost/b:1", "localhost/a:1"):
        await save(store, [Saved(demo, (Reference.parse(name),))], LayoutFolder(str(target)))
    entries = json.loads((target / "index.json").read_text())["manifests"]
    assert len(entries) == 2
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine").write_text("mine")
    for kind in (LayoutFolder, DirFolder):
        for taken in ("notes", "notes/mine"):
            with pytest.raises(UsageError, match="something else is there"):
                kind(str(tmp_path / taken))
    await save(store, [Saved(demo, ())], DirFolder(str(tmp_path / "dir")))
    (tmp_path / "dir/README").write_text("mine")
    (tmp_path / "dir" / ("0" * 64)).write_text("of an earlier image")
    await save(store, [Saved(demo, ())], DirFolder(str(tmp_path / "dir")))
    assert (tmp_path / "dir/README").exists() and not (tmp_path / "dir" / ("0" * 64)).exists()


async def test_a_damaged_blob_is_not_passed_on(store: Store, demo: Image, tmp_path: Path) -> None:
    with open(store.blobs.path(demo.layers[2].blob), "r+b") as blob:
        blob.seek(600)
        blob.write(b"\1")
    for kind, target in KINDS.items():
        with pytest.raises(ImageError, match="is damaged"):
            await save(store, [Saved(demo, (NAME,))], target(str(tmp_path / kind)))
    assert not {name for name in os.listdir(tmp_path) if "archive" in name}
    assert not os.path.exists(tmp_path / "oci/index.json")


async def test_docker_manifests_become_oci_and_keep_their_configuration(store: Store, tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    layout.image("x", [images.pack(images.demo_layers()[2], docker=True)], docker=True)
    image = await fetch(store, f"oci:{layout.path}")
    notes = await save(store, [Saved(image, (NAME,))], LayoutFolder(str(tmp_path / "out")))
    assert len(notes) == 1 and "other format" in notes[0]
    [loaded] = await load(new_store(tmp_path / "other"), str(tmp_path / "out"))
    assert loaded.id == image.id and loaded.digest != image.digest
    assert await save(store, [Saved(image, (NAME,))], DirFolder(str(tmp_path / "dir"))) == []


async def feed(path: str, fd: int) -> None:
    await trio.run_process(["cat", path], stdout=fd)
    os.close(fd)


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
async def test_packed_archives_and_pipes(store: Store, demo: Image, tmp_path: Path, packer: str) -> None:
    path = tmp_path / "a.tar"
    await save(store, [Saved(demo, (NAME,))], DockerArchive(str(path)))
    await trio.run_process([packer, "-q", "-k", str(path)])
    packed = next(str(one) for one in tmp_path.iterdir() if one.name.startswith("a.tar."))
    other = new_store(tmp_path / "other")
    assert [image.id for image in await load(other, packed)] == [demo.id]
    assert (await fetch(new_store(tmp_path / "third"), f"docker-archive:{packed}")).id == demo.id
    for source in (str(path), packed):
        read_end, write_end = os.pipe()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed, source, write_end)
            loaded = await load(other, read_end)
        os.close(read_end)
        assert [image.id for image in loaded] == [demo.id]
    assert set(os.listdir(other.tmp)) <= {"lock", "pull.lock"}
