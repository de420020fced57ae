"""Reading from registries: a real one behind a proxy that spoils answers, and one that misbehaves on demand."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from rootless.errors import ImageError, RcontainError, RegistryError
from rootless.image.access import Access
from rootless.image.pull import pull
from rootless.image.registry import Registry
from rootless.image.store import Store
from rootless.oci.digest import Digest
from rootless.oci.documents import Descriptor
from rootless.oci.reference import Reference
from tests.kit import images
from tests.kit.faultproxy import Fault, FaultProxy, fault_proxy
from tests.kit.registry import Answer, FakeRegistry, fake_registry, registry

ACCESS = Access(retries=2, retry_delay=0.01, environ={"HOME": "/nonexistent"})


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootless.image.transport._STALL", 0.3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.prepare()
    return store


# faults x what they hit


@dataclass(frozen=True)
class Served:
    """An image behind the proxy: where its parts are, and how long they are."""

    proxy: FaultProxy
    digest: str
    paths: dict[str, str]
    sizes: dict[str, int]

    def at(self, place: str, fault: Fault) -> Fault:
        """The fault at `manifest`, `config`, `blob at 0`, `blob at half` or `blob at end`."""
        part, _, where = place.partition(" at ")
        size = self.sizes[part]
        position = {"": size // 2, "0": 0, "half": size // 2, "end": size - 1}[where]
        moved = {name: position for name in ("cut", "stall", "flip") if getattr(fault, name) is not None}
        return replace(fault, path=self.paths[part], method="GET", **moved)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("registry")
    layout = images.Layout(str(directory / "layout"))
    noise = random.Random(1).randbytes(200_000)
    entry = layout.image("x", [images.pack(images.tar([images.file("noise", noise)]))])
    raw = Path(layout.path, "blobs", entry["digest"].replace(":", "/")).read_bytes()
    manifest = json.loads(raw)
    config, blob = manifest["config"], manifest["layers"][0]
    with registry(str(directory)) as address, fault_proxy(address) as proxy:
        images.push(layout.path, "x", address, "test/x:1")
        yield Served(
            proxy,
            entry["digest"],
            {"manifest": "/manifests/", "config": config["digest"], "blob": blob["digest"]},
            {"manifest": len(raw), "config": config["size"], "blob": blob["size"]},
        )


PLACES = ("manifest", "config", "blob at 0", "blob at half", "blob at end")
ONCE = {
    "late": Fault("", latency=0.1),
    "reset": Fault("", cut=0, reset=True),
    "cut off": Fault("", cut=0),
    "silent": Fault("", stall=0),
    "too many": Fault("", status=429, headers={"Retry-After": "0"}),
    "too many until a date": Fault("", status=429, headers={"Retry-After": "Thu, 01 Jan 2015 00:00:00 GMT"}),
    "unwell": Fault("", status=500),
    "away": Fault("", status=503, headers={"Retry-After": "0"}),
}
FOR_EVER = {
    "reset": (Fault("", cut=0, reset=True), "closed the connection|failed: Connection reset"),
    "cut off": (Fault("", cut=0), "closed the connection in the middle of an answer"),
    "silent": (Fault("", stall=0), "did not answer in time"),
    "too many": (Fault("", status=429, headers={"Retry-After": "0"}), "too many requests"),
    "too many for long": (Fault("", status=429, headers={"Retry-After": "900"}), "try again in 900 seconds"),
    "unwell": (Fault("", status=500), "is unwell: it answered 500 when asked for"),
    "forbidden": (Fault("", status=403), "forbids fetching"),
    "lost": (Fault("", status=404), "has no image|has lost blob"),
    "another byte": (Fault("", flip=0), "sha256|gzip"),
}


async def fetch(store: Store, served: Served) -> None:
    image = await pull(store, Reference.parse(f"{served.proxy.address}/test/x:1"), access=ACCESS)
    assert str(image.digest) == served.digest
    assert all(store.blobs.is_sound(digest) for digest in store.blobs.all())


@pytest.mark.registry
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", ONCE)
async def test_a_fault_that_passes(store: Store, served: Served, fault: str, place: str) -> None:
    served.proxy.reset(served.at(place, ONCE[fault]))
    await fetch(store, served)
    assert not served.proxy.faults[0].times


@pytest.mark.registry
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FOR_EVER)
async def test_a_fault_that_stays(store: Store, served: Served, fault: str, place: str) -> None:
    """One sentence, no name, and nothing that the next pull could take for good."""
    what, said = FOR_EVER[fault]
    served.proxy.reset(replace(served.at(place, what), times=1000))
    if {what.cut, what.stall} != {None} and place in ("config", "blob at half", "blob at end"):
        try:
            await fetch(store, served)
        except RegistryError as error:
            assert "cut off after" in str(error)
        return  # each connection brings some of it, unless an RST takes that away
    with pytest.raises(RcontainError, match=said) as caught:
        await fetch(store, served)
    assert "\n" not in str(caught.value)
    assert not store.images()
    assert all(store.blobs.is_sound(digest) for digest in store.blobs.all())
    served.proxy.reset()
    await fetch(store, served)


RESUMED = {
    "from there": (Fault("", times=0), 2),
    "without ranges": (Fault("", drop_range=True, times=9), 2),
    "from elsewhere": (Fault("", shift=-100, times=9), 3),
    "past the end": (Fault("", status=416), 3),
}


@pytest.mark.registry
@pytest.mark.parametrize("place", ["blob at half", "blob at end"])
@pytest.mark.parametrize("answer", RESUMED)
async def test_how_a_broken_transfer_goes_on(store: Store, served: Served, answer: str, place: str) -> None:
    fault, requests = RESUMED[answer]
    served.proxy.reset(served.at(place, Fault("", cut=0)), served.at(place, fault))
    await fetch(store, served)
    asked = [exchange.range for exchange in served.proxy.exchanges if served.paths["blob"] in exchange.path]
    assert len(asked) == requests
    assert asked[0] is None and asked[1] is not None and asked[2:] in ([], [None])


# what the answer says of itself


@pytest.fixture
def blob() -> bytes:
    return random.Random(2).randbytes(50_000)


def descriptor(content: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(content), len(content))


def blobs(*answers: Answer) -> Any:
    left = list(answers)
    return lambda request: left.pop(0) if "/blobs/" in request.path and left else None


@pytest.fixture
def layout(tmp_path: Path, blob: bytes) -> str:
    layout = images.Layout(str(tmp_path / "layout"))
    layout.blob(blob)
    return layout.path


async def read(fake: FakeRegistry, wanted: Descriptor, start: int = 0) -> bytes:
    async with Registry(Reference.parse(f"{fake.address}/a:1"), ACCESS) as source:
        async with aclosing(source.blob(wanted, start=start)) as chunks:
            return b"".join([chunk async for chunk in chunks])


def ranges(fake: FakeRegistry) -> list[str | None]:
    return [request.headers.get("range") for request in fake.requests if "/blobs/" in request.path]


async def test_a_part_of_a_blob(layout: str, blob: bytes) -> None:
    with fake_registry(layout) as fake:
        assert await read(fake, descriptor(blob), 20_000) == blob[20_000:]
        assert await read(fake, descriptor(blob), len(blob)) == b""
        assert ranges(fake) == ["bytes=20000-"]


async def test_a_part_from_a_registry_that_gives_the_whole(layout: str, blob: bytes) -> None:
    with fake_registry(layout, blobs(Answer(200, blob))) as fake:
        assert await read(fake, descriptor(blob), 20_000) == blob[20_000:]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Range": "bytes 0-49999/50000"},
        {"Content-Range": "bytes 20001-49999/50000"},
        {"Content-Range": "bytes 20000-19999/50000"},
        {"Content-Range": "bytes */50000"},
        {"Content-Range": "pages 20000-49999/50000"},
        {"Content-Type": "multipart/byteranges; boundary=x"},
    ],
)
async def test_a_part_that_is_not_the_one(layout: str, blob: bytes, headers: dict[str, str]) -> None:
    """The whole is asked for, once."""
    with fake_registry(layout, blobs(Answer(206, blob[::-1], headers))) as fake:
        assert await read(fake, descriptor(blob), 20_000) == blob[20_000:]
        assert ranges(fake) == ["bytes=20000-", None]


async def test_parts_that_nobody_asked_for(layout: str, blob: bytes) -> None:
    part = Answer(206, blob[100:], {"Content-Range": "bytes 100-49999/50000"})
    with fake_registry(layout, blobs(part, part, Answer(416))) as fake:
        for start in (0, 20_000):
            with pytest.raises(RegistryError, match=r"part of blob|answered 416"):
                await read(fake, descriptor(blob), start)


async def test_a_blob_in_several_parts(layout: str, blob: bytes) -> None:
    first = Answer(206, blob[10:30_000], {"Content-Range": "bytes 10-29999/50000"})
    with fake_registry(layout, blobs(first)) as fake:
        assert await read(fake, descriptor(blob), 10) == blob[10:]
        assert ranges(fake) == ["bytes=10-", "bytes=30000-"]


@pytest.mark.parametrize("start", [0, 20_000])
async def test_a_blob_of_another_size_is_refused_at_once(layout: str, blob: bytes, start: int) -> None:
    headers = {"Content-Range": f"bytes {start}-50999/51000"}
    with fake_registry(layout, blobs(Answer(206 if start else 200, b"x" * (51_000 - start), headers))) as fake:
        async with Registry(Reference.parse(f"{fake.address}/a:1"), ACCESS) as source:
            received = 0
            with pytest.raises(ImageError, match="is longer than the 50000 bytes"):
                async with aclosing(source.blob(descriptor(blob), start=start)) as chunks:
                    async for chunk in chunks:
                        received += len(chunk)
            assert received == 0


async def test_a_body_that_trickles(layout: str, blob: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps the silence from being long; there are too few of them all the same."""
    monkeypatch.setattr("tests.kit.registry.PAUSE", 0.05)
    with fake_registry(layout, blobs(*[Answer(200, blob, trickle=True)] * 9)) as fake:
        with pytest.raises(RegistryError, match="too slowly"):
            await read(fake, descriptor(blob))


async def test_the_connection_is_used_again(layout: str, blob: bytes) -> None:
    with fake_registry(layout) as fake:
        async with Registry(Reference.parse(f"{fake.address}/a:1"), ACCESS) as source:
            for _ in range(3):
                await source.document(descriptor(blob), 1 << 20)
        assert len({request.client for request in fake.requests if "/blobs/" in request.path}) == 1


async def test_cancelled_in_the_middle_of_a_body(layout: str, blob: bytes) -> None:
    """No connection is left, and none is used again with half a body in it."""
    before = set(os.listdir("/proc/self/fd"))
    wanted = descriptor(blob)
    with fake_registry(layout, blobs(*[Answer(200, blob, trickle=True)] * 4)) as fake:
        async with Registry(Reference.parse(f"{fake.address}/a:1"), ACCESS) as source:
            for _ in range(4):
                received = 0
                with trio.CancelScope() as scope:
                    async with aclosing(source.blob(wanted)) as chunks:
                        async for chunk in chunks:
                            received += len(chunk)
                            scope.cancel()
                assert scope.cancelled_caught and 0 < received < len(blob)
            assert await source.document(wanted, 1 << 20) == blob
    with trio.fail_after(10):  # the server's ends are in this process, too, and notice when they write
        while set(os.listdir("/proc/self/fd")) - before:  # noqa: ASYNC110
            await trio.sleep(0.02)


# signatures


async def test_signatures(tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    payload = b'{"critical":{}}'
    digest = f"sha256:{'a' * 64}"
    entry = {
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "digest": layout.blob(payload),
        "size": len(payload),
        "annotations": {"dev.cosignproject.cosign/signature": "c2ln"},
    }
    config = {"mediaType": f"{images.OCI}.config.v1+json", "digest": layout.blob(b"{}"), "size": 2}
    kind = f"{images.OCI}.manifest.v1+json"
    layout.manifest(
        f"{digest.replace(':', '-')}.sig",
        {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [entry, entry]},
    )
    with fake_registry(layout.path) as fake:
        async with Registry(Reference.parse(f"{fake.address}/a:1"), ACCESS) as source:
            first, second = await source.signatures(digest)
            assert first == second and first.payload == payload
            assert first.annotations == {"dev.cosignproject.cosign/signature": "c2ln"}
            assert await source.signatures(f"sha256:{'b' * 64}") == ()
            fake.rules.append(lambda request: Answer(403) if request.path.endswith(".sig") else None)
            with pytest.raises(RegistryError, match="forbids"):
                await source.signatures(digest)
            fake.rules[:] = [lambda request: Answer(200, b"[]") if "/blobs/" in request.path else None]
            with pytest.raises(RcontainError):
                await source.signatures(digest)
