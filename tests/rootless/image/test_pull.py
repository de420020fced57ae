"""Pulling: from Debian's docker-registry, and from one that misbehaves."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from fuse.index import Index
from rootless.errors import HostError, ImageError, RegistryError, UsageError
from rootless.image.access import Access
from rootless.image.auth import Credentials
from rootless.image.model import Derive, Image
from rootless.image.obtain import PullPolicy, obtain
from rootless.image.progress import Quiet
from rootless.image.pull import pull
from rootless.image.removal import remove_tree
from rootless.image.store import ImageNotFound, Store
from rootless.oci.digest import Digest
from rootless.oci.platform import Platform
from rootless.oci.reference import Reference
from tests.kit import images
from tests.kit.registry import Answer, FakeRegistry, Request, Rule, fake_registry, registry
from tests.kit.userns import in_namespaces

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.prepare()
    return store


@pytest.fixture
def demo(tmp_path: Path) -> str:
    return images.demo_layout(str(tmp_path / "demo")).path


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootless.image.transport._FIRST_PAUSE", 0.01)


ACCESS = Access(environ={"HOME": "/nonexistent"})


async def fetch(store: Store, text: str, *, credentials: Credentials | None = None, **options: object) -> Image:
    access = replace(ACCESS, credentials=credentials)
    return await pull(store, Reference.parse(text), access=access, **options)  # type: ignore[arg-type]


def is_clean(store: Store) -> bool:
    """No temporary file, and no name."""
    return not set(os.listdir(store.tmp)) - {"lock", "pull.lock"} and not store.images()


# a real registry


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry with the demo image, an index, a Docker schema 2 image, and one for another platform."""
    directory = tmp_path_factory.mktemp("registry")
    layout = images.demo_layout(str(directory / "layout"))
    base = images.pack(images.tar([images.file("etc/motd", b"hello\n")]))
    arm = layout.image(None, [base], architecture="arm64")
    here = layout.image(None, [images.pack(images.tar([images.file("etc/motd", b"amd64\n")]))])
    layout.index("multi", [arm, here])
    layout.index("foreign", [arm])
    layout.image("plain", [base])
    layout.image("alone", [base], architecture="arm64")
    with registry(str(directory)) as address:
        for name in ("demo", "multi", "foreign", "alone"):
            images.push(layout.path, name, address, f"test/{name}:1", every=name in ("multi", "foreign"))
        images.push(layout.path, "plain", address, "test/docker:1", docker=True)
        yield address


@pytest.mark.registry
async def test_pull_from_a_real_registry(store: Store, served: str) -> None:
    image = await fetch(store, f"{served}/test/demo:1")
    assert image.names == (f"{served}/test/demo:1",)
    assert len(image.layers) == 3
    assert image.config.config.cmd == ("/bin/sh",)
    assert {store.layer_data(layer)[1] for layer in image.layers} == {"frames", "plain"}
    for layer in image.layers:
        with open(store.blobs.path(layer.blob), "rb") as file:
            assert Digest.of(file.read()) == layer.blob
        index = Index(store.index_path(layer))
        index.verify()
        index.close()
    assert store.resolve(f"{served}/test/demo:1") == image
    assert set(os.listdir(store.tmp)) <= {"lock", "pull.lock"}


@pytest.mark.registry
async def test_the_store_is_a_layout_for_skopeo_and_umoci(store: Store, served: str, tmp_path: Path) -> None:
    image = await fetch(store, f"{served}/test/demo:1")
    name = f"{served}/test/demo:1"
    await trio.run_process(["skopeo", "copy", "--quiet", f"oci:{store.path}:{name}", f"dir:{tmp_path}/out"])
    with open(tmp_path / "out/manifest.json", "rb") as file:
        assert Digest.of(file.read()) == image.digest
    listed = await trio.run_process(["umoci", "ls", "--layout", store.path], capture_stdout=True)
    assert listed.stdout.decode().splitlines() == [name]


@pytest.mark.registry
async def test_an_index_gives_this_platform(store: Store, served: str) -> None:
    image = await fetch(store, f"{served}/test/multi:1")
    assert image.config.architecture == {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    assert len(image.repo_digests) == 2  # of the index and of the manifest
    for digest in image.repo_digests:
        assert store.resolve(digest).id == image.id
    other = await fetch(store, f"{served}/test/multi:1", platform=Platform.parse("linux/arm64"))
    assert other.config.architecture == "arm64"
    assert store.resolve(image.id).names == ()


@pytest.mark.registry
async def test_other_platforms_only(store: Store, served: str) -> None:
    with pytest.raises(ImageError, match=r"not available for linux/riscv64.*linux/arm64"):
        await fetch(store, f"{served}/test/foreign:1", platform=Platform.parse("riscv64"))
    with pytest.raises(ImageError, match=r"not available for linux/riscv64.*image for linux/arm64"):
        await fetch(store, f"{served}/test/alone:1", platform=Platform.parse("riscv64"))


@pytest.mark.registry
async def test_docker_schema_2_and_digests(store: Store, served: str) -> None:
    image = await fetch(store, f"{served}/test/docker:1")
    assert image.layers[0].media_type.startswith("application/vnd.docker.")
    again = await fetch(store, f"{served}/test/docker@{image.digest}")
    assert again.id == image.id
    assert store.resolve(f"{served}/test/docker@{image.digest}").id == image.id


@pytest.mark.registry
async def test_unknown_names(store: Store, served: str) -> None:
    with pytest.raises(RegistryError, match=r"no (repository|image)"):
        await fetch(store, f"{served}/test/nothing:1")
    with pytest.raises(RegistryError, match=r"no image .*test/demo:2"):
        await fetch(store, f"{served}/test/demo:2")
    with pytest.raises(RegistryError, match="no image"):
        await fetch(store, f"{served}/test/demo@sha256:{'0' * 64}")
    assert is_clean(store)


@pytest.mark.registry
async def test_policies(store: Store, served: str) -> None:
    name = f"{served}/test/demo:1"
    with pytest.raises(ImageNotFound):
        await obtain(store, name, policy=PullPolicy.NEVER, access=ACCESS)
    image = await obtain(store, name, access=ACCESS)
    for policy in PullPolicy:
        assert (await obtain(store, name, policy=policy, access=ACCESS)).id == image.id
    assert (await obtain(store, image.short_id, access=ACCESS)).id == image.id


async def test_newer_and_always(store: Store, tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    layout.image("x", [images.pack(images.tar([images.file("old")]))])
    with fake_registry(layout.path) as fake:
        name = f"{fake.address}/a:x"
        old = await obtain(store, name, access=ACCESS)
        fake.requests.clear()
        assert (await obtain(store, name, policy=PullPolicy.NEWER, access=ACCESS)).id == old.id
        assert [request.method for request in fake.requests if "/manifests/" in request.path] == ["HEAD"]
        layout.manifests.clear()
        layout.image("x", [images.pack(images.tar([images.file("new")]))])
        assert (await obtain(store, name, access=ACCESS)).id == old.id
        new = await obtain(store, name, policy=PullPolicy.NEWER, access=ACCESS)
        assert new.id != old.id and store.resolve(old.id).names == ()
    assert (await obtain(store, name, policy=PullPolicy.NEWER, access=ACCESS)).id == new.id
    with pytest.raises(RegistryError, match="connection refused"):
        await obtain(store, name, policy=PullPolicy.ALWAYS, access=ACCESS)


def bcrypt(password: str) -> str:
    """A password as htpasswd(1) keeps it; perl is always there on Debian, htpasswd is not."""
    words = ["perl", "-e", "print crypt($ARGV[0], '$2y$05$' . 'a' x 21 . 'u')", password]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.registry
async def test_passwords(store: Store, demo: str, tmp_path: Path) -> None:
    directory = tmp_path / "auth"
    directory.mkdir()
    (directory / "htpasswd").write_text(f"user:{bcrypt('secret')}\n")
    with registry(str(directory), htpasswd=str(directory / "htpasswd")) as address:
        images.push(demo, "demo", address, "demo:1", credentials="user:secret")
        name = f"{address}/demo:1"
        with pytest.raises(RegistryError, match=r"wants a user name and a password.*rcontain login"):
            await fetch(store, name)
        with pytest.raises(RegistryError, match="refused the user name or password from the command line"):
            await fetch(store, name, credentials=Credentials("user", "wrong"))
        await fetch(store, name, credentials=Credentials("user", "secret"))
        auth = {"auths": {address: {"auth": base64.b64encode(b"user:secret").decode()}}}
        (directory / "auth.json").write_text(json.dumps(auth))
        access = replace(ACCESS, authfile=str(directory / "auth.json"))
        await pull(store, Reference.parse(name), access=access)
        auth["auths"][address]["auth"] = base64.b64encode(b"user:old").decode()
        (directory / "auth.json").write_text(json.dumps(auth))
        with pytest.raises(RegistryError, match=r"refused the user name or password from .*auth\.json"):
            await pull(store, Reference.parse(name), access=access)


# one that misbehaves


def when(path: str, answer: Answer, *, times: int = 1 << 30) -> Rule:
    """Answer so where the path contains `path`, the first `times` times."""
    left = [times]

    def rule(request: Request) -> Answer | None:
        if path not in request.path or left[0] <= 0:
            return None
        left[0] -= 1
        return answer

    return rule


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "does not let anyone fetch"),
        (403, "forbids fetching"),
        (404, "no image"),
        (429, "too many requests"),
        (500, "unwell: it answered 500"),
        (503, "unwell: it answered 503"),
        (418, "answered 418"),
    ],
)
async def test_refusals_are_sentences(store: Store, demo: str, status: int, message: str) -> None:
    body = json.dumps({"errors": [{"code": "X", "message": "said\x1b[31m so"}]}).encode()
    with fake_registry(demo, when("/manifests/", Answer(status, body))) as fake:
        with pytest.raises(RegistryError, match=message) as caught:
            await fetch(store, f"{fake.address}/a:demo")
    assert "\x1b" not in str(caught.value)
    assert is_clean(store)


async def test_patience_with_429_and_5xx(store: Store, demo: str) -> None:
    busy = Answer(429, headers={"Retry-After": "0"})
    with fake_registry(demo, when("/v2/", busy, times=2), when("/blobs/", Answer(502), times=2)) as fake:
        image = await fetch(store, f"{fake.address}/a:demo")
    assert store.images() == [image]


async def test_a_long_retry_after_is_told_and_not_waited_for(store: Store, demo: str) -> None:
    with fake_registry(demo, when("/manifests/", Answer(429, headers={"Retry-After": "3600"}))) as fake:
        with pytest.raises(RegistryError, match="try again in 3600 seconds"):
            await fetch(store, f"{fake.address}/a:demo")


async def test_an_interrupted_blob_is_resumed(store: Store, demo: str) -> None:
    with fake_registry(demo) as fake:
        cut = [0]

        def rule(request: Request) -> Answer | None:
            answer = fake.honest(request)
            if "/blobs/" not in request.path or cut[0] >= 4 or len(answer.body) < 10000:
                return None
            cut[0] += 1
            answer.cut = len(answer.body) // 2
            return answer

        fake.rules.append(rule)
        image = await fetch(store, f"{fake.address}/a:demo")
        assert cut[0] == 4
        assert any("range" in request.headers for request in fake.requests)
    assert len(image.layers) == 3


async def test_a_manifest_that_is_cut_off_is_asked_for_again(store: Store, demo: str) -> None:
    with fake_registry(demo) as fake:
        manifest = fake.honest(Request("GET", "/v2/a/manifests/demo", {}))
        manifest.cut = 100
        fake.rules.append(when("/manifests/", manifest, times=2))
        await fetch(store, f"{fake.address}/a:demo")
        fake.rules[:] = [when("/manifests/", manifest)]
        with pytest.raises(RegistryError, match="closed the connection in the middle"):
            await fetch(store, f"{fake.address}/a:demo")


async def test_a_blob_that_stays_truncated(store: Store, demo: str) -> None:
    with fake_registry(demo) as fake:

        def rule(request: Request) -> Answer | None:
            answer = fake.honest(request)
            if "/blobs/" in request.path and len(answer.body) > 10000:
                return Answer(200, answer.body, cut=5000)
            return None

        fake.rules.append(rule)
        with pytest.raises(RegistryError, match=r"closed the connection.*cut off after 5000 of"):
            await fetch(store, f"{fake.address}/a:demo")
    assert is_clean(store)


def altered(fake: FakeRegistry, change: dict[str, bytes]) -> Rule:
    def rule(request: Request) -> Answer | None:
        for digest, body in change.items():
            if request.path.endswith(digest):
                return Answer(200, body, {"Content-Type": fake.honest(request).headers.get("Content-Type", "")})
        return None

    return rule


async def test_wrong_content_is_refused(store: Store, tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    layer = images.pack(images.tar([images.file("f", os.urandom(3000))]))
    descriptor = layout.image("x", [layer])
    manifest = json.loads((tmp_path / "layout/blobs/sha256" / descriptor["digest"][7:]).read_bytes())
    blob, config = manifest["layers"][0]["digest"], manifest["config"]["digest"]
    size = manifest["layers"][0]["size"]
    with fake_registry(layout.path) as fake:
        name = f"{fake.address}/a:x"
        for digest, body, message in (
            (blob, b"x" * size, "not valid gzip"),
            (blob, b"x" * (size + 1), "longer than"),
            (config, b"x" * manifest["config"]["size"], "was promised"),
            ("/x", json.dumps(manifest).encode() + b" ", None),
        ):
            fake.rules[:] = [altered(fake, {digest: body})]
            if message is None:
                await fetch(store, name)  # another manifest, and nothing promised its digest
                continue
            with pytest.raises(ImageError, match=message):
                await fetch(store, name)
            assert is_clean(store)
            assert not store.blobs.has(Digest.parse(blob), size)
            store.collect()
            assert store.blobs.all() == []
        fake.rules[:] = [altered(fake, {descriptor["digest"]: json.dumps(manifest).encode() + b" "})]
        with pytest.raises(ImageError, match=r"has digest .* was promised"):
            await fetch(store, f"{fake.address}/a@{descriptor['digest']}")


async def test_wrong_blob_digest_with_valid_gzip(store: Store, tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    layer = images.pack(images.tar([images.file("f", bytes(3000))]), "none")
    layout.image("x", [layer])
    other = images.tar([images.file("g", bytes(3000))])
    assert len(other) == len(layer.packed)
    with fake_registry(layout.path) as fake:
        fake.rules.append(altered(fake, {layer.diff_id: other}))
        with pytest.raises(ImageError, match="arrived with the digest"):
            await fetch(store, f"{fake.address}/a:x", derive=Derive.INDEX | Derive.TREE, squash=True)
    assert is_clean(store)
    assert os.listdir(f"{store.path}/layers") == []


async def test_wrong_diff_id(store: Store, tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    layout.image("x", [images.pack(images.tar([images.file("f")]))], diff_ids=["sha256:" + "1" * 64])
    with fake_registry(layout.path) as fake:
        with pytest.raises(ImageError, match=f"configuration promises sha256:{'1' * 64}"):
            await fetch(store, f"{fake.address}/a:x")
    assert is_clean(store)
    assert os.listdir(f"{store.path}/layers") == []


async def test_unknown_kinds_of_content(store: Store, tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    layer = images.pack(images.tar([images.file("f")]))
    strange = images.LayerBlob(layer.raw, layer.packed, "application/vnd.oci.image.layer.v1.tar+brotli")
    layout.image("layer", [strange])
    layout.image("short", [layer], diff_ids=[layer.diff_id, layer.diff_id])
    chart = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": layout.blob(b"{}"), "size": 2}
    layout.manifest(
        "chart",
        {"schemaVersion": 2, "mediaType": f"{images.OCI}.manifest.v1+json", "config": chart, "layers": []},
    )
    layout.manifest("artifact", {"schemaVersion": 2, "mediaType": "application/vnd.example+json"})
    layout.manifest("schema1", {"schemaVersion": 1, "mediaType": f"{images.DOCKER}.distribution.manifest.v1+json"})
    layout.manifest("nested", {"schemaVersion": 2, "mediaType": f"{images.OCI}.manifest.v1+json", "config": [[[]]]})
    with fake_registry(layout.path) as fake:
        for tag, message in (
            ("layer", r"tar\+brotli.*cannot read"),
            ("short", "1 layers and the configuration 2"),
            ("chart", "not a container image: .*helm"),
            ("artifact", "not a container image"),
            ("schema1", "obsolete"),
            ("nested", "not valid"),
        ):
            with pytest.raises(ImageError, match=message):
                await fetch(store, f"{fake.address}/a:{tag}")
    assert is_clean(store)


async def test_token_dance(store: Store, demo: str) -> None:
    with fake_registry(demo) as fake:

        def rule(request: Request) -> Answer | None:
            if request.path.startswith("/token"):
                assert "scope=repository%3Aa%2Fb%3Apull" in request.path and "service=reg" in request.path
                if request.headers.get("authorization") not in (None, Credentials("u", "p").basic):
                    return Answer(401)
                return Answer(body=b'{"token":"abc"}')
            if request.headers.get("authorization") == "Bearer abc":
                return None
            realm = f'Bearer realm="http://{fake.address}/token",service="reg",scope="repository:a/b:pull"'
            return Answer(401, headers={"WWW-Authenticate": realm})

        fake.rules.append(rule)
        await fetch(store, f"{fake.address}/a/b:demo")
        assert sum(request.path.startswith("/token") for request in fake.requests) == 1
        await fetch(store, f"{fake.address}/a/b:demo", credentials=Credentials("u", "p"))
        with pytest.raises(RegistryError, match="refused the user name or password"):
            await fetch(store, f"{fake.address}/a/b:demo", credentials=Credentials("u", "wrong"))


async def test_an_unsafe_realm_gets_no_password(store: Store, demo: str) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'}
    with fake_registry(demo, when("/v2/", Answer(401, headers=challenge))) as fake:
        with pytest.raises(RegistryError, match="not safe"):
            await fetch(store, f"{fake.address}/a:demo", credentials=Credentials("u", "p"))


async def test_a_refresh_token_is_not_sent_where_a_token_server_redirects(store: Store, demo: str) -> None:
    with fake_registry(demo) as elsewhere, fake_registry(demo) as fake:

        def rule(request: Request) -> Answer:
            if request.path.startswith("/token"):
                return Answer(307, headers={"Location": f"http://{elsewhere.address}{request.path}"})
            return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="http://{fake.address}/token"'})

        fake.rules.append(rule)
        with pytest.raises(RegistryError, match="redirected"):
            await fetch(store, f"{fake.address}/a:demo", credentials=Credentials(identity_token="secret"))
        assert not elsewhere.requests


async def test_redirects_do_not_leak_credentials(store: Store, demo: str) -> None:
    with fake_registry(demo) as cdn, fake_registry(demo) as fake:

        def rule(request: Request) -> Answer | None:
            if "/blobs/" in request.path:
                return Answer(307, headers={"Location": f"http://{cdn.address}{request.path}"})
            return (
                None
                if "authorization" in request.headers
                else Answer(401, headers={"WWW-Authenticate": "Basic realm=x"})
            )

        fake.rules.append(rule)
        await fetch(store, f"{fake.address}/a:demo", credentials=Credentials("u", "p"))
        assert any("authorization" in request.headers for request in fake.requests)
        assert cdn.requests and not any("authorization" in request.headers for request in cdn.requests)
        fake.rules[:] = [lambda request: Answer(302, headers={"Location": request.path})]
        with pytest.raises(RegistryError, match="redirects"):
            await fetch(store, f"{fake.address}/a:demo")


async def test_not_a_registry(store: Store, demo: str) -> None:
    for answer in (Answer(404, b"<html>"), Answer(200, b"<html>", {"Content-Type": "text/html"})):
        with fake_registry(demo, when("/v2/", answer)) as fake:
            with pytest.raises(RegistryError, match="does not look like an image registry"):
                await fetch(store, f"{fake.address}/a:demo")


async def test_nobody_there(store: Store) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(RegistryError, match="connection refused; is it running there"):
        await fetch(store, f"{address}/a:1")
    with pytest.raises(RegistryError, match="host name is unknown"):
        await fetch(store, "no-such-host.invalid/a:1")


async def test_something_else_listens(store: Store) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def talk(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")
            await stream.receive_some(1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, talk, listeners)
        with pytest.raises(RegistryError, match=r"does not answer as a web server|failed"):
            await fetch(store, f"127.0.0.1:{port}/a:1")
        nursery.cancel_scope.cancel()


async def test_a_plain_server_that_ignores_tls_greetings(store: Store, demo: str) -> None:
    """The HTTPS attempt hangs; HTTP beside it answers."""
    with fake_registry(demo) as fake:
        upstream = int(fake.address.rpartition(":")[2])

        async def relay(stream: trio.SocketStream) -> None:
            async with stream:
                first = await stream.receive_some(4096)
                if first[:1] == b"\x16":
                    await trio.sleep_forever()
                async with await trio.open_tcp_stream("127.0.0.1", upstream) as onward:
                    await onward.send_all(first)

                    async def back() -> None:
                        async for data in onward:
                            await stream.send_all(data)

                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(back)
                        async for data in stream:
                            await onward.send_all(data)
                        nursery.cancel_scope.cancel()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, relay, listeners)
            with trio.fail_after(10):
                await fetch(store, f"127.0.0.1:{listeners[0].socket.getsockname()[1]}/a:demo")
            nursery.cancel_scope.cancel()


# nothing half-done


class _CancelAt(Quiet):
    def __init__(self, scope: trio.CancelScope, after: int) -> None:
        self._scope = scope
        self._left = after

    def advance(self, layer: Digest, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            self._scope.cancel()


@pytest.mark.parametrize("after", [1, 300_000, 900_000])
async def test_cancelled_in_the_middle(store: Store, demo: str, after: int) -> None:
    with fake_registry(demo) as fake:
        with trio.CancelScope() as scope:
            await fetch(store, f"{fake.address}/a:demo", progress=_CancelAt(scope, after))
        assert scope.cancelled_caught
        assert is_clean(store)
        await fetch(store, f"{fake.address}/a:demo")
    assert len(store.images()) == 1


def test_killed_in_the_middle(store: Store, demo: str) -> None:
    """kill -9 of the pull: its workers die with it, and the next command sweeps."""
    script = (
        "import sys, trio\n"
        "from rootless.image.store import Store\n"
        "from rootless.image.pull import pull\n"
        "from rootless.oci.reference import Reference\n"
        "trio.run(lambda: pull(Store(sys.argv[1]), Reference.parse(sys.argv[2])))\n"
    )
    with fake_registry(demo) as fake:
        stall = [True]

        def rule(request: Request) -> Answer | None:
            if "/blobs/" in request.path and len(fake.honest(request).body) > 100_000:
                while stall[0]:
                    time.sleep(0.01)
            return None

        fake.rules.append(rule)
        process = subprocess.Popen([sys.executable, "-c", script, store.path, f"{fake.address}/a:demo"], cwd=CHECKOUT)
        while not any(len(name) == 16 for name in os.listdir(store.tmp)):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stall[0] = False
        while any(len(name) == 16 for name in os.listdir(store.tmp)):
            store.prepare()
            time.sleep(0.01)
        assert not [name for name in os.listdir(store.tmp) if len(name) == 16]
        trio.run(lambda: fetch(store, f"{fake.address}/a:demo"))
    assert len(store.images()) == 1


async def test_two_pulls_at_once_fetch_each_layer_once(store: Store, demo: str) -> None:
    with fake_registry(demo) as fake:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(fetch, store, f"{fake.address}/a:demo")
        [image] = store.images()
        for layer in image.layers:
            fetched = sum(request.path.endswith(str(layer.blob)) for request in fake.requests)
            assert fetched == 1
    assert set(os.listdir(store.tmp)) <= {"lock", "pull.lock"}


class _RemoveMeanwhile(Quiet):
    """Takes a layer out of the store as soon as it is there, once, as another command's rmi might."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.removed: list[Digest] = []

    def finish(self, layer: Digest, outcome: str) -> None:
        if not self.removed:
            self._store.blobs.remove(layer)
            self.removed.append(layer)


async def test_a_layer_that_disappears_is_fetched_again(store: Store, demo: str) -> None:
    progress = _RemoveMeanwhile(store)
    with fake_registry(demo) as fake:
        image = await fetch(store, f"{fake.address}/a:demo", progress=progress)
    assert progress.removed
    assert all(store.blobs.has(layer.blob, layer.size) and store.has_index(layer) for layer in image.layers)


async def test_a_damaged_store_is_repaired(store: Store, demo: str) -> None:
    """Bits that changed on the disk: in the configuration, and in a layer that must be derived again."""
    with fake_registry(demo) as fake:
        name = f"{fake.address}/a:demo"
        image = await fetch(store, name)
        layer = image.layers[0]
        for digest in (image.manifest.config.digest, image.digest, layer.blob):
            with open(store.blobs.path(digest), "r+b") as file:
                file.seek(20)
                file.write(b"\0\0\0")
        os.unlink(store.index_path(layer))
        with pytest.raises(ImageError, match="damaged"):
            store.resolve(name)
        assert await fetch(store, name) == image
        assert all(store.blobs.is_sound(digest) for digest in store.blobs.all())
        assert store.has_index(layer)


@pytest.mark.userns
@pytest.mark.registry
def test_trees_while_pulling(served: str, tmp_path: Path) -> None:
    """As the engine does it: root of a user namespace pulls, and the kernel's overlay shows the result."""

    def work() -> list[object]:
        store = Store(str(tmp_path / "store"))
        store.prepare()
        image = trio.run(lambda: fetch(store, f"{served}/test/demo:1", derive=Derive.INDEX | Derive.TREE))
        for name in ("upper", "work", "merged"):
            os.mkdir(tmp_path / name)
        lower = ":".join(store.tree_path(layer) for layer in reversed(image.layers))
        options = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work,userxattr"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "none", tmp_path / "merged"], check=True)
        hidden = os.listdir(tmp_path / "merged/srv/hidden")
        kept = os.stat(tmp_path / "merged/srv/kept")
        setuid = os.stat(tmp_path / "merged/usr/bin/su-id").st_mode & 0o7777
        names = sorted(os.listdir(tmp_path / "merged/srv"))
        subprocess.run(["umount", tmp_path / "merged"], check=True)
        for name in ("store", "upper", "work", "merged"):
            remove_tree(str(tmp_path / name))
        return [hidden, names, (kept.st_uid, kept.st_gid), setuid]

    assert in_namespaces(work) == [["new"], ["hidden", "kept"], (1000, 50), 0o4755]


@pytest.mark.userns
@pytest.mark.parametrize(
    ("size", "message"), [("1m", "needs [0-9]+ MiB and .* has 0 MiB left"), ("3m", "No space left")]
)
def test_a_full_disk(demo: str, tmp_path: Path, size: str, message: str) -> None:
    """Before the transfer, and in the middle of it."""

    def work() -> list[str]:
        small = str(tmp_path / "small")
        os.mkdir(small)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", small], check=True)
        store = Store(small + "/store")
        store.prepare()

        async def run() -> None:
            with fake_registry(demo) as fake:
                with pytest.raises(HostError, match=message):
                    await fetch(store, f"{fake.address}/a:demo")

        trio.run(run)
        left = {*os.listdir(store.tmp), *os.listdir(store.path + "/layers"), *map(str, store.blobs.all())}
        return sorted(left - {"lock", "pull.lock"})

    assert in_namespaces(work) == []


def test_usage() -> None:
    with pytest.raises(UsageError):
        Reference.parse("Upper/Case")
    assert base64.b64decode(Credentials("u", "p").basic[6:]) == b"u:p"
