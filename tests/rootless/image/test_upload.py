"""Writing to registries: a real one, behind a proxy that spoils requests, and one that keeps unfinished uploads."""

from __future__ import annotations

import http.client
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest

from rootless.errors import ImageError, RegistryError
from rootless.image.access import Access
from rootless.image.auth import Credentials
from rootless.image.upload import RegistryDestination
from rootless.oci.digest import Digest
from rootless.oci.documents import Descriptor, Document
from rootless.oci.reference import Reference
from tests.kit.faultproxy import Fault, FaultProxy, fault_proxy
from tests.kit.registry import Answer, Request, fake_registry, registry
from tests.kit.tokenserver import token_server

ACCESS = Access(retries=3, retry_delay=0.01, environ={"HOME": "/nonexistent"})
KIB = 1 << 10
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DATA = random.Random(5).randbytes(900 * KIB)

Chunks = Callable[[int], AsyncGenerator[bytes, None]]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootless.image.upload.SMALL", 100 * KIB)
    monkeypatch.setattr("rootless.image.upload.PART", 400 * KIB)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    with registry(str(tmp_path_factory.mktemp("registry"))) as address, fault_proxy(address) as proxy:
        yield proxy


def chunks_of(data: bytes, asked: list[int] | None = None) -> Chunks:
    async def chunks(start: int) -> AsyncGenerator[bytes, None]:
        if asked is not None:
            asked.append(start)
        for position in range(start, len(data), 64 * KIB):
            yield data[position : position + 64 * KIB]

    return chunks


def blob_of(data: bytes) -> Descriptor:
    return Descriptor(LAYER, Digest.of(data), len(data))


async def upload(
    address: str, repository: str, data: bytes, *, origins: tuple[str, ...] = (), way: Access = ACCESS
) -> bool:
    reference = Reference.parse(f"{address}/{repository}:latest")
    others = [Reference.parse(f"{address}/{name}") for name in origins]
    async with RegistryDestination(reference, way) as destination:
        return await destination.blob(blob_of(data), chunks_of(data), others)


def held(address: str, repository: str, data: bytes) -> bool:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", f"/v2/{repository}/blobs/{Digest.of(data)}")
        answer = connection.getresponse()
        return answer.status == 200 and answer.read() == data
    finally:
        connection.close()


def came_by(proxy: FaultProxy, *expected: str) -> bool:
    """Whether these requests came by. The proxy counts one a moment after its client has the answer."""
    for _ in range(200):
        found = [exchange.method for exchange in proxy.exchanges if exchange.path != "/v2/"]
        if len(found) >= len(expected):
            break
        time.sleep(0.01)
    assert found == list(expected)
    return True


@pytest.mark.registry
async def test_small_and_large_and_what_is_there_already(proxy: FaultProxy) -> None:
    for name, data, expected in (
        ("small", DATA[: 50 * KIB], ["HEAD", "POST", "PUT"]),
        ("large", DATA, ["HEAD", "POST", "PATCH", "PATCH", "PATCH", "PUT"]),
        ("empty", b"", ["HEAD", "POST", "PUT"]),
    ):
        proxy.reset()
        assert await upload(proxy.address, name, data)
        assert came_by(proxy, *expected)
        assert held(proxy.upstream, name, data)
        proxy.reset()
        assert not await upload(proxy.address, name, data)
        assert came_by(proxy, "HEAD")
        proxy.reset()


@pytest.mark.registry
async def test_a_blob_of_another_repository_is_mounted(proxy: FaultProxy) -> None:
    data = DATA[: 300 * KIB]
    await upload(proxy.upstream, "mount/origin", data)
    proxy.reset()
    assert not await upload(proxy.address, "mount/target", data, origins=("mount/origin",))
    assert came_by(proxy, "HEAD", "POST")
    proxy.reset()
    assert not await upload(proxy.address, "mount/third", data, origins=("mount/nowhere", "mount/origin"))
    assert came_by(proxy, "HEAD", "POST", "DELETE", "POST")
    proxy.reset()
    other = DATA[1 : 300 * KIB]
    assert await upload(proxy.address, "mount/third", other, origins=("mount/nowhere",))
    assert came_by(proxy, "HEAD", "POST", "PATCH", "PUT"), "the upload that came in place of a mount is used"


FAULTS = {
    "unwell": Fault("", status=503),
    "too many": Fault("", status=429, headers={"Retry-After": "0"}),
    "no answer": Fault("", cut=0, reset=True),
    "twice": Fault("", status=500, times=2),
    "slow": Fault("", latency=0.1),
}


@pytest.mark.registry
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
async def test_a_spoiled_request_is_made_good(proxy: FaultProxy, fault: str, method: str) -> None:
    data = random.Random(f"{fault}{method}").randbytes(900 * KIB)
    spoiled = FAULTS[fault]
    proxy.reset(Fault("/blobs/", method, spoiled.times, spoiled.latency, spoiled.status, spoiled.headers, spoiled.cut))
    await upload(proxy.address, "spoiled", data)
    assert held(proxy.upstream, "spoiled", data)


@pytest.mark.registry
@pytest.mark.parametrize("uploaded", [0, 100 * KIB, 399 * KIB])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_connection_that_breaks_in_the_middle_of_a_body(proxy: FaultProxy, method: str, uploaded: int) -> None:
    size = 900 * KIB if method == "PATCH" else 99 * KIB
    data = random.Random(f"{method}{uploaded}").randbytes(size)
    proxy.reset(Fault("/blobs/", method, uploaded=min(uploaded, size - 1)))
    await upload(proxy.address, "broken", data)
    assert held(proxy.upstream, "broken", data)


@pytest.mark.registry
async def test_a_registry_that_stays_unwell_is_named(proxy: FaultProxy) -> None:
    data = random.Random(9).randbytes(200 * KIB)
    proxy.reset(Fault("/blobs/uploads/", status=503, times=100))
    with pytest.raises(RegistryError, match="is unwell: it answered 503"):
        await upload(proxy.address, "unwell", data)
    proxy.reset(Fault("/blobs/uploads/", "PATCH", uploaded=10, times=100))
    with pytest.raises(RegistryError, match="it broke off 4 times, 0 of 204800 bytes have arrived"):
        await upload(proxy.address, "unwell", data)
    proxy.reset(Fault("/blobs/uploads/", status=429, headers={"Retry-After": "3600"}, times=100))
    with pytest.raises(RegistryError, match="try again in 3600 seconds"):
        await upload(proxy.address, "unwell", data)
    assert came_by(proxy, "HEAD", "POST")


@pytest.mark.registry
async def test_what_is_damaged_never_leaves(proxy: FaultProxy) -> None:
    for size in (50 * KIB, 900 * KIB):
        data = DATA[:size]
        damaged = data[:-5] + b"?" + data[-4:]
        for content in (damaged, data[:-1]):
            reference = Reference.parse(f"{proxy.upstream}/damaged")
            async with RegistryDestination(reference, ACCESS) as destination:
                with pytest.raises(ImageError, match=r"damaged in the store|ends after"):
                    await destination.blob(blob_of(data), chunks_of(content))
            assert not held(proxy.upstream, "damaged", content)


@pytest.mark.registry
async def test_manifests(proxy: FaultProxy) -> None:
    index = Document("application/vnd.oci.image.index.v1+json", b'{"schemaVersion":2,"manifests":[],'
                     b'"mediaType":"application/vnd.oci.image.index.v1+json"}')  # fmt: skip
    proxy.reset(Fault("/manifests/", "PUT", status=500), Fault("/manifests/", "PUT", cut=0, reset=True))
    async with RegistryDestination(Reference.parse(f"{proxy.address}/lists:one"), ACCESS) as destination:
        await destination.manifest(index)
        await destination.manifest(index, str(index.digest))
        with pytest.raises(ImageError, match="has the digest"):
            await destination.manifest(index, f"sha256:{'0' * 64}")
        lacking = Document("application/vnd.oci.image.manifest.v1+json", index.raw)
        with pytest.raises(RegistryError, match="answered 400"):
            await destination.manifest(lacking)


async def test_a_registry_that_answers_with_another_digest(tmp_path: Path) -> None:
    def lie(request: Request) -> Answer | None:
        return Answer(201, headers={"Docker-Content-Digest": f"sha256:{'0' * 64}"}) if request.method == "PUT" else None

    with fake_registry(str(tmp_path), lie) as fake:
        async with RegistryDestination(Reference.parse(f"{fake.address}/x"), ACCESS) as destination:
            with pytest.raises(RegistryError, match="became sha256:000"):
                await destination.manifest(Document("application/vnd.oci.image.index.v1+json", b"{}"))


class Uploads:
    """A registry that keeps what has arrived of an upload: a rule for FakeRegistry. It loses what `lose` says."""

    def __init__(self, *lose: int) -> None:
        self.held: bytearray = bytearray()
        self.stored: bytes | None = None
        self.lose = list(lose)
        self.ranges: list[str] = []

    def __call__(self, request: Request) -> Answer | None:
        path, _, query = request.path.partition("?")
        if request.method == "HEAD" and "/blobs/" in path:
            return Answer(404)
        if "/blobs/uploads/" not in path:
            return None
        if request.method == "POST":
            self.held.clear()
            return Answer(202, headers={"Location": "/v2/x/blobs/uploads/1?_state=a"})
        if request.method == "PATCH":
            self.ranges.append(request.headers["content-range"])
            lost = self.lose.pop(0) if self.lose else 0
            self.held += request.body[: len(request.body) - lost]
            if lost:
                return Answer(502)
        if request.method == "PUT":
            self.held += request.body
            good = re.search(r"digest=(sha256%3A\w+)", query)
            assert good and "_state=a" in query
            if good[1].replace("%3A", ":") != str(Digest.of(bytes(self.held))):
                return Answer(400)
            self.stored = bytes(self.held)
            return Answer(201)
        state = {"Location": "/v2/x/blobs/uploads/1?_state=a", "Range": f"0-{max(0, len(self.held) - 1)}"}
        return Answer(204 if request.method == "GET" else 202, headers=state)


async def test_an_upload_goes_on_where_the_registry_says(tmp_path: Path) -> None:
    uploads = Uploads(300 * KIB, 1, 400 * KIB)
    with fake_registry(str(tmp_path), uploads) as fake:
        assert await upload(fake.address, "x", DATA)
    assert uploads.stored == DATA
    starts = [int(range_.partition("-")[0]) for range_ in uploads.ranges]
    assert starts == [0, 100 * KIB, 500 * KIB - 1, 500 * KIB - 1, 900 * KIB - 1]


async def test_bytes_are_hashed_once_and_resumed_from_where_they_are(tmp_path: Path) -> None:
    asked: list[int] = []
    with fake_registry(str(tmp_path), Uploads(300 * KIB)) as fake:
        async with RegistryDestination(Reference.parse(f"{fake.address}/x"), ACCESS) as destination:
            assert await destination.blob(blob_of(DATA), chunks_of(DATA, asked))
    assert asked == [0, 100 * KIB, 500 * KIB]


@pytest.mark.registry
async def test_passwords_and_tokens_that_expire(tmp_path: Path) -> None:
    with token_server(str(tmp_path)) as tokens, registry(str(tmp_path), tokens=tokens) as address:
        tokens.users["ann"] = "secret"
        way = Access(
            ACCESS.tls_verify, Credentials("ann", "secret"), retries=3, retry_delay=0.01, environ=ACCESS.environ
        )
        await upload(address, "ann/one", DATA, way=way)
        tokens.spoiled = 1
        await upload(address, "ann/two", DATA, origins=("ann/one",), way=way)
        assert any(len(asked.scopes) == 2 for asked in tokens.asked), "a mount asks for reading the origin"
        with pytest.raises(RegistryError):
            await upload(address, "ann/three", DATA)
