"""Which requests go through a proxy, and what is said when that fails."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from rootless.errors import RegistryError, UsageError
from rootless.image.access import Access
from rootless.image.connection import Connection
from rootless.image.proxies import Proxies
from rootless.oci.reference import Reference

PROXY = "http://proxy.example:3128"


def proxy(url: str, **environ: str) -> str | None:
    found = Proxies(environ).of(httpx.URL(url))
    return str(found) if found else None


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({}, "https://r.example/", None),
        ({"HTTPS_PROXY": PROXY}, "https://r.example/", PROXY),
        ({"HTTPS_PROXY": PROXY}, "http://r.example/", None),
        ({"https_proxy": PROXY}, "https://r.example/", PROXY),
        ({"https_proxy": "http://small", "HTTPS_PROXY": PROXY}, "https://r.example/", PROXY),
        ({"HTTP_PROXY": PROXY}, "http://r.example/", PROXY),
        ({"ALL_PROXY": PROXY}, "https://r.example/", PROXY),
        ({"ALL_PROXY": PROXY, "HTTPS_PROXY": "http://other:1"}, "https://r.example/", "http://other:1"),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "https://r.example/", PROXY),
        ({"HTTPS_PROXY": " "}, "https://r.example/", None),
        ({"ALL_PROXY": PROXY}, "http://localhost:5000/", None),
        ({"ALL_PROXY": PROXY}, "http://127.3.2.1:5000/", None),
        ({"ALL_PROXY": PROXY}, "http://[::1]:5000/", None),
    ],
)
def test_which_proxy(environ: dict[str, str], url: str, expected: str | None) -> None:
    assert proxy(url, **environ) == expected


@pytest.mark.parametrize(
    ("exceptions", "host", "direct"),
    [
        ("*", "r.example", True),
        ("r.example", "r.example", True),
        ("r.example", "a.r.example", True),
        ("r.example", "other-r.example", False),
        ("R.Example.", "r.EXAMPLE", True),
        (".example", "r.example", True),
        (".r.example", "r.example", False),
        ("*.r.example", "a.r.example", True),
        ("*.r.example", "r.example", False),
        ("a, r.example", "r.example", True),
        ("a r.example", "r.example", True),
        ("r.example:443", "r.example", True),
        ("r.example:8443", "r.example", False),
        ("r.example:8443", "r.example:8443", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "10.example", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:5000", "10.1.2.3:5000", True),
        ("10.1.2.3:5000", "10.1.2.3", False),
        ("0.1.2.3", "10.1.2.3", False),
        ("fd00::/8", "[fd12::1]", True),
        ("fd00::/8", "[fe80::1]", False),
        ("[fd12::1]:5000", "[fd12::1]:5000", True),
        ("fd12::1", "[fd12::1]", True),
        ("10.0.0.0/99", "10.1.2.3", False),
        (",,", "r.example", False),
    ],
)
def test_exceptions(exceptions: str, host: str, direct: bool) -> None:
    assert (proxy(f"https://{host}/", HTTPS_PROXY=PROXY, NO_PROXY=exceptions) is None) is direct
    assert (proxy(f"https://{host}/", https_proxy=PROXY, no_proxy=exceptions) is None) is direct


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("socks5://user:secret@proxy:1080", "HTTPS_PROXY names a SOCKS proxy"),
        ("socks5h://proxy:1080", "SOCKS proxy"),
        ("ftp://user:secret@proxy", "not an address such as"),
        ("http://", "not an address such as"),
        ("http://user:secret@proxy:port", "not a usable address"),
    ],
)
def test_proxies_that_cannot_be_used(value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Proxies({"HTTPS_PROXY": value})
    assert "secret" not in str(caught.value)


class _Proxy(socketserver.ThreadingTCPServer):
    """Answers every request with `answer`, and keeps their first lines and headers."""

    allow_reuse_address = True
    daemon_threads = True
    answer = b""
    asked: list[str]


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Proxy)
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        self.server.asked.append("\n".join(lines))
        self.wfile.write(self.server.answer)


@contextmanager
def running(answer: bytes) -> Iterator[_Proxy]:
    with _Proxy(("127.0.0.1", 0), _Handler) as server:
        server.answer = answer
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


async def connect(text: str, tls_verify: bool | None = None, **environ: str) -> None:
    access = Access(retries=0, tls_verify=tls_verify, environ={"HOME": "/nonexistent", **environ})
    async with Connection(Reference.parse(text), access):
        pass


async def test_requests_through_a_proxy() -> None:
    """Plain HTTP is asked of the proxy itself, with the password that its address has."""
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\r\n{}"
    with running(ok) as server:
        address = f"http://me:secret@127.0.0.1:{server.server_address[1]}"
        await connect("r.invalid/a", False, HTTP_PROXY=address, HTTPS_PROXY="http://127.0.0.1:1")
        assert server.asked[0].startswith("GET http://r.invalid/v2/ HTTP/1.1\n")
        assert "proxy-authorization: basic bwu6c2vjcmv0" in server.asked[0].lower()
        with pytest.raises(RegistryError, match=r"cannot find the registry r.invalid"):
            await connect("r.invalid/a", HTTP_PROXY=address, HTTPS_PROXY=address, NO_PROXY="invalid")


async def test_a_proxy_that_refuses() -> None:
    with running(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as server:
        port = server.server_address[1]
        with pytest.raises(
            RegistryError, match=rf"the proxy 127.0.0.1:{port} does not let us through to r.invalid: 407"
        ):
            await connect("r.invalid/a", HTTPS_PROXY=f"http://me:secret@127.0.0.1:{port}")
        assert server.asked[0].startswith("CONNECT r.invalid:443 ")


async def test_a_proxy_that_is_not_there() -> None:
    with pytest.raises(RegistryError, match=r"cannot reach the proxy 127.0.0.1:1: connection refused"):
        await connect("r.invalid/a", HTTPS_PROXY="http://127.0.0.1:1")
    with pytest.raises(RegistryError, match=r"cannot find the proxy proxy.invalid:3128"):
        await connect("r.invalid/a", HTTPS_PROXY="http://proxy.invalid:3128")
