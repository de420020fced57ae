"""Which image a text means, and where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.errors import ImageError, RegistryError, UsageError
from rootless.image.access import Access
from rootless.image.obtain import PullPolicy, fetch, obtain, tagged
from rootless.image.store import Store
from rootless.oci.platform import Platform
from tests.kit import images
from tests.kit.registry import Answer, fake_registry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.prepare()
    return store


@pytest.fixture
def layout(tmp_path: Path) -> images.Layout:
    return images.demo_layout(str(tmp_path / "layout"))


def access(home: Path, registries: str = "", policy: str = "") -> Access:
    folder = home / ".config/containers"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("registries.conf", registries), ("policy.json", policy)):
        if text:
            (folder / name).write_text(text)
    return Access(environ={"HOME": str(home)})


async def test_files_are_looked_at_each_time(store: Store, layout: images.Layout, tmp_path: Path) -> None:
    place = "oci:layout:demo"
    first = await obtain(store, place, directory=str(tmp_path))
    assert first.names == ("localhost/demo:latest",)
    layout.manifests.clear()
    layout.image("demo", [images.pack(images.tar([images.file("new")]))])
    second = await obtain(store, place, directory=str(tmp_path))
    assert second.id != first.id and store.resolve(first.id).names == ()
    with pytest.raises(UsageError, match="never"):
        await obtain(store, place, directory=str(tmp_path), policy=PullPolicy.NEVER)
    with pytest.raises(ImageError, match="not available for linux/s390x"):
        await fetch(store, place, directory=str(tmp_path), platform=Platform.parse("linux/s390x"))


async def test_a_search_list_and_an_alias(store: Store, layout: images.Layout, tmp_path: Path) -> None:
    with fake_registry(layout.path) as empty, fake_registry(layout.path) as full:
        empty.rules.append(lambda request: full.honest(request) if request.path == "/v2/" else _nothing())
        search = f'unqualified-search-registries = ["{empty.address}", "{full.address}"]\n'
        way = access(tmp_path, search + 'short-name-mode = "disabled"\n')
        image = await obtain(store, "some/tool:demo", access=way)
        assert image.names == (f"{full.address}/some/tool:demo",)
        assert any("/manifests/" in request.path for request in empty.requests)
        full.requests.clear()
        assert (await obtain(store, "some/tool:demo", access=way)).id == image.id
        assert not full.requests  # it is in the store under the name of the list
        with pytest.raises(RegistryError, match=f"found nowhere: {empty.address}.*{full.address}"):
            await obtain(store, "some/tool:other", access=way)


async def test_mirrors(store: Store, layout: images.Layout, tmp_path: Path) -> None:
    with fake_registry(layout.path) as fake, fake_registry(layout.path) as broken:
        broken.rules.append(lambda request: _nothing() if request.path != "/v2/" else None)
        way = access(
            tmp_path,
            f'[[registry]]\nlocation = "{fake.address}/a"\n[[registry.mirror]]\nlocation = "{broken.address}/m"\n',
        )
        image = await obtain(store, f"{fake.address}/a/x:demo", access=way)
        assert image.names == (f"{fake.address}/a/x:demo",)
        assert any("/m/x/" in request.path for request in broken.requests)
        with pytest.raises(RegistryError, match=rf"other.*before that, {broken.address}/m/x:other"):
            await obtain(store, f"{fake.address}/a/x:other", access=way)


async def test_a_policy_refuses_before_any_blob(store: Store, layout: images.Layout, tmp_path: Path) -> None:
    way = access(tmp_path, policy='{"default": [{"type": "reject"}]}')
    with fake_registry(layout.path) as fake:
        with pytest.raises(ImageError):
            await obtain(store, f"{fake.address}/x:demo", access=way)
        assert not any("/blobs/" in request.path for request in fake.requests)
    with pytest.raises(ImageError):
        await obtain(store, f"oci:{layout.path}:demo", access=way)
    assert store.blobs.all() == [] and store.images() == []


async def test_all_tags_of_what_is_no_repository() -> None:
    for text in ("a/b:c", f"a@sha256:{'0' * 64}", "oci:a"):
        with pytest.raises(UsageError, match="not a repository"):
            await tagged(text, Access(environ={}))


async def test_ambiguous_documents_and_foreign_layers(store: Store, tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    layer = images.pack(images.tar([images.file("f")]))
    strange = images.LayerBlob(layer.raw, layer.packed, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    layout.image("foreign", [layer, strange])
    descriptor = layout.image("x", [layer])
    raw = Path(layout.path, "blobs/sha256", descriptor["digest"][7:]).read_bytes()
    twice = raw[:-1] + b', "layers": []}'
    other = raw[:-1] + b', "Layers": []}'
    for tag, document in (("twice", twice), ("other", other)):
        found = {"mediaType": descriptor["mediaType"], "digest": layout.blob(document), "size": len(document)}
        layout.manifests.append({**found, "annotations": {"org.opencontainers.image.ref.name": tag}})
    layout._write_index()
    with fake_registry(layout.path) as fake:
        for tag, said in (("foreign", "only its maker may distribute"), ("twice", "twice"), ("other", "'Layers'")):
            with pytest.raises(ImageError, match=said):
                await obtain(store, f"{fake.address}/x:{tag}")
        assert not any("/blobs/" in request.path for request in fake.requests)
    assert store.images() == []


def _nothing() -> Answer:
    return Answer(404, b"{}")
