"""Tokens: their scopes, how long they are kept, and what a 401 leads to. The registry and its tokens are real."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from rootless.errors import RegistryError
from rootless.image.access import Access
from rootless.image.auth import Challenge, Credentials
from rootless.image.connection import Connection
from rootless.image.faults import Unauthorized
from rootless.image.pull import pull
from rootless.image.registry import Registry
from rootless.image.store import Store
from rootless.image.tokens import Tokens, pull_scope, push_scope
from rootless.image.transport import Transport
from rootless.oci.digest import Digest
from rootless.oci.documents import Descriptor
from rootless.oci.reference import Reference
from tests.kit import images
from tests.kit.registry import Answer, Request, fake_registry, registry
from tests.kit.tokenserver import TokenServer, token_server

USER = Credentials("user", "secret")
NOBODY = Access(retries=2, retry_delay=0.01, environ={"HOME": "/nonexistent"})
SOMEBODY = replace(NOBODY, credentials=USER)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, TokenServer]]:
    """A registry that wants tokens, with an image `test/demo:1`; and its token server."""
    directory = tmp_path_factory.mktemp("registry")
    layout = images.demo_layout(str(directory / "layout"))
    with token_server(str(directory)) as tokens, registry(str(directory), tokens=tokens) as address:
        tokens.users["user"] = "secret"
        tokens.identity_tokens["refresh"] = "user"
        images.push(layout.path, "demo", address, "test/demo:1", credentials="user:secret")
        yield address, tokens


@pytest.fixture
def served(guarded: tuple[str, TokenServer]) -> Iterator[tuple[str, TokenServer]]:
    address, tokens = guarded
    tokens.asked.clear()
    yield address, tokens
    tokens.private, tokens.spoiled, tokens.announced, tokens.lifetime = False, 0, None, 300


@pytest.mark.registry
@pytest.mark.parametrize(
    "access", [NOBODY, SOMEBODY, replace(NOBODY, credentials=Credentials(identity_token="refresh"))]
)
async def test_one_token_for_one_repository(served: tuple[str, TokenServer], access: Access, tmp_path: Path) -> None:
    address, tokens = served
    store = Store(str(tmp_path))
    store.prepare()
    await pull(store, Reference.parse(f"{address}/test/demo:1"), access=access)
    [asked] = tokens.asked
    assert asked.scopes == ("repository:test/demo:pull",)
    assert asked.user == ("" if access is NOBODY else "user")


@pytest.mark.registry
async def test_scopes(served: tuple[str, TokenServer]) -> None:
    """A token for each set of scopes; reading and writing, and a second repository to mount from."""
    address, tokens = served
    reference = Reference.parse(f"{address}/test/new:1")
    async with Connection(reference, SOMEBODY) as connection:
        for _ in range(2):
            for scopes in ((push_scope("test/new"),), (push_scope("test/new"), pull_scope("test/demo"))):
                async with connection.request("POST", f"{connection.url}/blobs/uploads/", scopes=scopes) as response:
                    assert response.status_code == 202
        async with connection.request("HEAD", f"{connection.url}/manifests/1") as response:
            assert response.status_code == 404
    assert [set(asked.scopes) for asked in tokens.asked] == [
        {"repository:test/new:pull,push"},
        {"repository:test/new:pull,push", "repository:test/demo:pull"},
        {"repository:test/new:pull"},
    ]


@pytest.mark.registry
async def test_what_a_token_does_not_allow(served: tuple[str, TokenServer]) -> None:
    """The registry names what was lacking; a token that is meant for it and lacks it all the same is the answer."""
    address, tokens = served
    async with Connection(Reference.parse(f"{address}/test/new:1"), SOMEBODY) as connection:
        async with connection.request("POST", f"{connection.url}/blobs/uploads/") as response:  # only `pull` is asked
            assert response.status_code == 202
        assert set(tokens.asked[-1].scopes) > {"repository:test/new:pull"}
    async with Connection(Reference.parse(f"{address}/test/new:1"), NOBODY) as connection:
        scopes = (push_scope("test/new"),)
        with pytest.raises(Unauthorized, match=r"does not let anyone push to .*/test/new"):
            async with connection.request("POST", f"{connection.url}/blobs/uploads/", scopes=scopes):
                pass
    tokens.private = True
    async with Registry(Reference.parse(f"{address}/test/demo:1"), NOBODY) as source:
        with pytest.raises(Unauthorized, match=r"does not let anyone fetch .*rcontain login"):
            await source.manifest()


@pytest.mark.registry
@pytest.mark.parametrize("spoiled", [1, 2])
async def test_tokens_that_have_expired_on_the_way(served: tuple[str, TokenServer], spoiled: int) -> None:
    address, tokens = served
    async with Registry(Reference.parse(f"{address}/test/demo:1"), NOBODY) as source:
        tokens.spoiled = spoiled
        await source.manifest()
    assert len(tokens.asked) == spoiled + 1


@pytest.mark.registry
async def test_a_clock_that_never_agrees(served: tuple[str, TokenServer]) -> None:
    address, tokens = served
    tokens.spoiled = 1000
    async with Registry(Reference.parse(f"{address}/test/demo:1"), NOBODY) as source:
        with pytest.raises(Unauthorized):
            await source.manifest()


@pytest.mark.registry
async def test_tokens_that_live_shorter_than_a_pull(served: tuple[str, TokenServer], tmp_path: Path) -> None:
    """Each is dead when it is used the next time, whatever is said of it; each request takes one more then."""
    address, tokens = served
    tokens.announced = 0
    store = Store(str(tmp_path))
    store.prepare()
    await pull(store, Reference.parse(f"{address}/test/demo:1"), access=NOBODY)
    assert len(tokens.asked) > 3


@pytest.mark.registry
async def test_logins(served: tuple[str, TokenServer]) -> None:
    address, _ = served
    async with Connection(Reference(address, "login"), SOMEBODY) as connection:
        await connection.check_login()
    wrong = replace(NOBODY, credentials=Credentials("user", "wrong"))
    with pytest.raises(Unauthorized, match="refused the user name or password"):
        async with Connection(Reference(address, "login"), wrong) as connection:
            await connection.check_login()


async def test_a_token_that_expires_in_the_middle_of_a_blob(tmp_path: Path) -> None:
    """The transfer breaks off, and the range that is left is asked for with a token that is no longer good."""
    content = bytes(range(256)) * 200
    layout = images.Layout(str(tmp_path))
    digest = layout.blob(content)
    good = ["1"]

    def rule(request: Request) -> Answer | None:
        if request.path.startswith("/token"):
            return Answer(200, json.dumps({"token": good[0], "expires_in": 3600}).encode())
        if request.headers.get("authorization") != f"Bearer {good[0]}":
            realm = f'Bearer realm="http://{fake.address}/token",service="x",error="invalid_token"'
            return Answer(401, headers={"WWW-Authenticate": realm})
        if "/blobs/" in request.path and "range" not in request.headers:
            good[0] = "2"
            return Answer(200, content, cut=30_000)
        return None

    with fake_registry(layout.path, rule) as fake:
        async with Registry(Reference.parse(f"{fake.address}/a:1"), NOBODY) as source:
            descriptor = Descriptor("application/octet-stream", Digest.parse(digest), len(content))
            assert await source.document(descriptor, 1 << 20) == content
        shown = [request.headers.get("authorization") for request in fake.requests if "/blobs/" in request.path]
        assert shown == ["Bearer 1", "Bearer 1", "Bearer 2"]


async def test_authorization_stays_with_the_registry(tmp_path: Path) -> None:
    """A Location elsewhere, as registries give for uploads, is asked without it."""
    challenge = Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    with (
        fake_registry(str(tmp_path)) as elsewhere,
        fake_registry(str(tmp_path), lambda request: None if "authorization" in request.headers else challenge) as fake,
    ):
        async with Connection(Reference.parse(f"{fake.address}/a:1"), SOMEBODY) as connection:
            for address in (fake.address, elsewhere.address):
                async with connection.request("GET", f"http://{address}/v2/a/blobs/x", content=b"body") as response:
                    assert response.status_code == 404
        assert "authorization" in fake.requests[-1].headers and fake.requests[-1].body == b"body"
        assert "authorization" not in elsewhere.requests[-1].headers


# the clock


async def test_how_long_a_token_is_kept(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    given: list[str] = []
    answers: list[Callable[[], dict[str, object]]] = [
        lambda: {"token": "a", "expires_in": 100},
        lambda: {"access_token": "b"},
        lambda: {"token": "c", "expires_in": -5},
        lambda: {"token": "d", "expires_in": 1e300},
    ]

    def rule(request: Request) -> Answer:
        document = answers[len(given)]()
        given.append(str(document.get("token") or document.get("access_token")))
        return Answer(200, json.dumps(document).encode())

    with fake_registry(str(tmp_path), rule) as fake:
        transport = Transport("x", NOBODY, verify=False)
        tokens = Tokens(transport, "x", None)
        tokens.plain = True
        tokens.learn([Challenge("bearer", {"realm": f"http://{fake.address}/token"})])
        scopes = frozenset({pull_scope("a")})

        async def shown() -> str | None:
            autojump_clock.autojump_threshold = float("inf")  # the server is no task of trio's
            value = await tokens.authorization(scopes)
            autojump_clock.autojump_threshold = 0
            return value

        async with transport:
            assert await shown() == "Bearer a"
            await trio.sleep(89)
            assert await shown() == "Bearer a"
            await trio.sleep(2)
            assert await shown() == "Bearer b"
            await trio.sleep(53)
            assert await shown() == "Bearer b"
            await trio.sleep(2)
            assert await shown() == "Bearer c"
            assert await shown() == "Bearer d"
            await trio.sleep(10**6)
            assert await shown() == "Bearer d"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(200, b"[]"), "malformed answer"),
        (Answer(200, b"{}"), "gave no token"),
        (Answer(200, b'{"token": "a\\nb"}'), "gave no token"),
        (Answer(200, b" " * (2 << 20)), "larger than"),
        (Answer(200, b'{"token": 5}'), "malformed answer"),
        (Answer(404), "refused to give a token"),
        (Answer(403), "does not let anyone fetch x/a"),
    ],
)
async def test_token_servers_that_are_wrong(tmp_path: Path, answer: Answer, said: str) -> None:
    with fake_registry(str(tmp_path), lambda request: answer) as fake:
        async with Transport("x", NOBODY, verify=False) as transport:
            tokens = Tokens(transport, "x", None)
            tokens.plain = True
            tokens.learn([Challenge("bearer", {"realm": f"http://{fake.address}/token"})])
            with pytest.raises(RegistryError, match=said):
                await tokens.authorization(frozenset({pull_scope("a")}))
