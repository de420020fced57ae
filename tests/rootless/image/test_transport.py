"""TLS, patience, and what errors say."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
import trio

from rootless.errors import RegistryError
from rootless.image.access import Access
from rootless.image.proxies import host_of, is_loopback
from rootless.image.registry import Registry
from rootless.image.transport import Patience, Transport, retry_after
from rootless.oci.reference import Reference
from tests.kit import images
from tests.kit.registry import Answer, FakeRegistry, Request, fake_registry


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    pem, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", pem],
        check=True, capture_output=True,
    )  # fmt: skip
    return pem, key


@pytest.fixture
def tls_registry(tmp_path: Path, certificate: tuple[str, str]) -> Iterator[FakeRegistry]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    layout = images.Layout(str(tmp_path / "layout"))
    layout.image("x", [images.pack(images.tar([]))])
    with fake_registry(layout.path, context=context) as fake:
        yield fake


async def manifest(fake: FakeRegistry, *, tls_verify: bool | None, home: str = "/nonexistent") -> None:
    reference = Reference.parse(f"{fake.address}/a:x")
    async with Registry(reference, Access(tls_verify=tls_verify, environ={"HOME": home})) as registry:
        await registry.manifest("x")


async def test_an_unknown_certificate(tls_registry: FakeRegistry) -> None:
    with pytest.raises(RegistryError, match=r"cannot be trusted.*certs\.d"):
        await manifest(tls_registry, tls_verify=True)
    await manifest(tls_registry, tls_verify=False)
    await manifest(tls_registry, tls_verify=None)  # loopback


async def test_a_certificate_in_certs_d(
    tls_registry: FakeRegistry, certificate: tuple[str, str], tmp_path: Path
) -> None:
    directory = tmp_path / ".config/containers/certs.d" / tls_registry.address
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_text(Path(certificate[0]).read_text())
    await manifest(tls_registry, tls_verify=True, home=str(tmp_path))


async def test_plain_http_where_tls_is_wanted(tmp_path: Path) -> None:
    layout = images.Layout(str(tmp_path / "layout"))
    layout.image("x", [images.pack(images.tar([]))])
    with fake_registry(layout.path) as fake:
        with pytest.raises(RegistryError, match=r"does not speak TLS.*--tls-verify=false"):
            await manifest(fake, tls_verify=True)
        await manifest(fake, tls_verify=False)


async def test_leniency_is_for_the_registry_and_not_for_where_it_sends(tls_registry: FakeRegistry) -> None:
    """A registry that may be insecure, by its address or by registries.conf, does not make its token server so."""
    lenient, strict = Access(environ={}), Access(environ={}, tls_verify=False)
    url = f"https://{tls_registry.address}/v2/".replace("127.0.0.1", "127-0-0-1.example")
    for access, registry, verified in (
        (lenient, "localhost:5000", True),
        (lenient, "127-0-0-1.example:5000", False),
        (strict, "localhost:5000", False),
    ):
        transport = Transport(registry, access, verify=False)
        assert (transport._context(httpx.URL(url)).verify_mode == ssl.CERT_REQUIRED) is verified
        assert transport._context(httpx.URL("https://127.0.0.1:1/")).verify_mode == ssl.CERT_NONE


async def test_an_answer_whose_head_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the answer never."""
    monkeypatch.setattr("rootless.image.transport._ANSWER", 0.3)

    async def trickle(stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"HTTP/1.1 200 OK\r\nX-Long: ")
                while True:
                    await stream.send_all(b"x")
                    await trio.sleep(0.05)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, trickle, listeners)
        async with Transport("x", NOBODY, verify=False) as transport:
            with pytest.raises(RegistryError, match="did not answer in time"):
                port = listeners[0].socket.getsockname()[1]
                async with transport.request("GET", f"http://127.0.0.1:{port}/"):
                    pass
        nursery.cancel_scope.cancel()


# redirects


NOBODY = Access(retries=0, environ={})


def moved(status: int, target: str) -> Answer:
    return Answer(status, headers={"Location": target})


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "PUT", "GET"),
        (303, "PATCH", "GET"),
        (303, "HEAD", "HEAD"),
        (302, "GET", "GET"),
        (307, "PUT", "PUT"),
        (308, "PATCH", "PATCH"),
    ],
)
async def test_methods_and_bodies_of_redirects(status: int, method: str, then: str) -> None:
    """RFC 9110 section 15.4: 307 and 308 repeat the request, the others ask for what is there instead."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"bo"
        yield b"dy"

    def rule(request: Request) -> Answer:
        return moved(status, "/there") if request.path == "/here" else Answer()

    content = None if method in ("GET", "HEAD") else chunks
    headers = {"Content-Type": "text/plain", "X-Kept": "1", **({"Content-Length": "4"} if content else {})}
    with fake_registry("/nonexistent", rule) as fake:
        async with Transport("x", NOBODY, verify=False) as transport:
            url = f"http://{fake.address}/here"
            async with transport.request(method, url, headers=headers, content=content) as response:
                assert response.status_code == 200
        last = fake.requests[-1]
        assert (last.method, last.path, last.headers["x-kept"]) == (then, "/there", "1")
        assert last.body == (b"body" if then == method and content else b"")
        assert ("content-type" in last.headers) == (then == method)


async def test_what_another_host_gets_to_see() -> None:
    """The body and the rest, where the registry says so; never who asks, and never a form: that is for secrets."""
    with (
        fake_registry("/nonexistent", lambda request: Answer()) as elsewhere,
        fake_registry("/nonexistent", lambda request: moved(307, f"http://{elsewhere.address}/x")) as fake,
    ):
        async with Transport("x", NOBODY, verify=False) as transport:
            url = f"http://{fake.address}/x"
            headers = {"Authorization": "Basic c2VjcmV0", "Cookie": "secret", "X-Kept": "1"}
            async with transport.request("PUT", url, headers=headers, content=b"body") as response:
                assert response.status_code == 200
            [request] = elsewhere.requests
            assert request.body == b"body" and request.headers["x-kept"] == "1"
            assert not {"authorization", "cookie"} & set(request.headers)
            with pytest.raises(RegistryError, match=r"redirected to 127.0.0.1 with what is for"):
                async with transport.request("POST", url, form={"refresh_token": "secret"}):
                    pass
            assert len(elsewhere.requests) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://[broken", "ftp://x/"])
async def test_redirects_to_nowhere(target: str) -> None:
    with fake_registry("/nonexistent", lambda request: moved(302, target)) as fake:
        async with Transport("x", NOBODY, verify=False) as transport:
            with pytest.raises(RegistryError):
                async with transport.request("GET", f"http://{fake.address}/x"):
                    pass


@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_how_often_a_request_is_made(retries: int) -> None:
    answers = [Answer(500), Answer(429, headers={"Retry-After": "0"})] * 5
    with fake_registry("/nonexistent", lambda request: answers[len(fake.requests) - 1]) as fake:
        access = Access(retries=retries, retry_delay=0.01, environ={})
        async with Transport("x", access, verify=False) as transport:
            async with transport.request("GET", f"http://{fake.address}/x") as response:
                assert response.status_code == (429 if retries == 1 else 500)
            assert len(fake.requests) == retries + 1
            async with transport.request("GET", f"http://{fake.address}/x", attempts=1):
                pass
            assert len(fake.requests) == retries + 2


@pytest.mark.parametrize("authority", ["localhost", "localhost:5000", "127.0.0.1", "127.8.9.10:80", "[::1]:5000"])
def test_loopback(authority: str) -> None:
    assert is_loopback(host_of(authority))


@pytest.mark.parametrize(
    "authority", ["example.com", "10.0.0.1:5000", "localhost.example.com", "[fe80::1]:5000", "1270.0.0.1"]
)
def test_not_loopback(authority: str) -> None:
    assert not is_loopback(host_of(authority))


def test_retry_after() -> None:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    later = format_datetime(datetime(2024, 1, 1, 0, 0, 30, tzinfo=UTC))
    assert retry_after("7", now.timestamp()) == 7
    assert retry_after(later, now.timestamp()) == 30
    assert retry_after(later, now.timestamp() + 60) == 0
    for text in (None, "", "soon", "-1", "9" * 400):
        value = retry_after(text, now.timestamp())
        assert value is None or value > 0


def test_pauses_grow() -> None:
    patience = Patience(5)
    assert patience.pause(1) < patience.pause(3) < patience.pause(5) < 20
    assert patience.pause(50) < 100
    assert 1.4 < Patience(3, 2.0).pause(3) < 2.6
