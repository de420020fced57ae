"""HTTP as a registry client needs it: retries with patience, redirects without leaks, errors in plain sentences."""

from __future__ import annotations

import email.utils
import random
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType

import httpx
import trio

from rootless import __version__
from rootless.errors import RegistryError
from rootless.image.access import Access
from rootless.image.certificates import tls_context
from rootless.image.faults import TooSlow, explain, worth_retrying
from rootless.image.proxies import Proxies, Routes, host_of, is_loopback

Content = bytes | Callable[[], AsyncGenerator[bytes, None]]
"""A request's body: bytes, or what gives it anew for each attempt. Its length is then in the header Content-Length."""

_ATTEMPTS = 5
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
_REDIRECTS = 8
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECT = frozenset({301, 302, 303, 307, 308})
_CONNECT = 15.0
_STALL = 30.0  # seconds without a byte, and the span over which _FLOOR counts
_FLOOR = 1024  # bytes a second; below that a transfer is as good as dead
_ANSWER = 120.0  # seconds until the head of an answer, however slowly it trickles
_SECRETS = frozenset({"authorization", "cookie"})


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is made, and how long the pauses are: in seconds, None for pauses that double."""

    attempts: int
    delay: float | None = None

    @classmethod
    def of(cls, access: Access) -> Patience:
        """What --retry and --retry-delay say."""
        return cls(_ATTEMPTS if access.retries is None else access.retries + 1, access.retry_delay)

    def pause(self, attempt: int) -> float:
        """Seconds before the next attempt after the `attempt`th, spread so that many clients do not come at once."""
        first = _FIRST_PAUSE if self.delay is None else self.delay
        factor = 2 ** min(attempt - 1, 10) if self.delay is None else 1
        return float(min(first * factor, max(first, _LONGEST_PAUSE)) * random.uniform(0.75, 1.25))


class Transport:
    """Requests to one registry and to where it redirects. An async context manager.

    `registry` is the name that certificates are kept under. `verify` is whether its certificate has to be good; other
    hosts that it sends to, loopback apart, are excused by --tls-verify=false only. `request` raises RegistryError once
    it has given up: connections and answers that may get better are tried again, with Retry-After respected, the others
    at once.
    """

    def __init__(self, registry: str, access: Access, *, verify: bool) -> None:
        self.patience = Patience.of(access)
        self._registry = registry
        self._access = access
        self._verify = verify
        self._contexts = {verify: self._new_context(verify)}
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=8)
        self._routes = Routes(Proxies(access.environ), self._context, limits)
        self._client = httpx.AsyncClient(
            transport=self._routes,
            trust_env=False,
            # Blobs are verified as they are stored: no transfer compression.
            headers={"User-Agent": f"rcontain/{__version__}", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Transport:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
            await self._client.aclose()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        content: Content | None = None,
        attempts: int | None = None,
        limits: httpx.Timeout | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """One answer, with its body still to be read; any status, once those worth another attempt were given one.

        `form` is for secrets: it goes to the origin of `url` and nowhere else. `attempts` is instead of what the flags
        say. `limits` are by default those of httpx with our seconds for a connection and for silence.
        """
        wanted = _Wanted(
            method, url, dict(headers or {}), form, content, limits or httpx.Timeout(_STALL, connect=_CONNECT)
        )
        response = await self._patiently(wanted, attempts or self.patience.attempts)
        try:
            yield response
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await response.aclose()

    def explain(self, error: Exception, url: str) -> str:
        """The sentence for an exchange that failed."""
        try:
            proxy = self._routes.named(httpx.URL(url))
        except httpx.InvalidURL:
            proxy = None
        return explain(error, url, proxy)

    def _context(self, url: httpx.URL) -> ssl.SSLContext:
        verify = self._verify or not (
            self._access.tls_verify is False or is_loopback(url.host) or url.host == host_of(self._registry)
        )
        if verify not in self._contexts:
            self._contexts[verify] = self._new_context(verify)
        return self._contexts[verify]

    def _new_context(self, verify: bool) -> ssl.SSLContext:
        access = self._access
        return tls_context(self._registry, verify=verify, environ=access.environ, cert_dir=access.cert_dir)

    async def _patiently(self, wanted: _Wanted, attempts: int) -> httpx.Response:
        for attempt in range(1, attempts + 1):
            try:
                response = await self._follow(wanted)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                if attempt == attempts or not worth_retrying(error):
                    raise RegistryError(self.explain(error, wanted.url)) from error
                await trio.sleep(self.patience.pause(attempt))
                continue
            if response.status_code not in _RETRIED or attempt == attempts:
                return response
            wait = retry_after(response.headers.get("retry-after"), time.time())
            if wait is not None and wait > _LONGEST_PAUSE:
                return response
            await response.aclose()
            await trio.sleep(self.patience.pause(attempt) if wait is None else wait)
        raise AssertionError("the last attempt returns or raises")

    async def _follow(self, wanted: _Wanted) -> httpx.Response:
        """Send, and follow redirects (RFC 9110 section 15.4). Authorization goes to the first origin only."""
        target = httpx.URL(wanted.url)
        origin = target
        for _ in range(_REDIRECTS):
            response = await self._send(wanted, target)
            location = response.headers.get("location")
            if response.status_code not in _REDIRECT or not location:
                return response
            await response.aclose()
            target = target.join(location)
            if target.scheme not in ("http", "https"):
                raise httpx.UnsupportedProtocol(f"redirected to {target.scheme}")
            if origin.scheme == "https" and target.scheme == "http" and self._verify:
                raise httpx.UnsupportedProtocol("redirected from https to plain http")
            if response.status_code in (301, 302, 303) and wanted.method not in ("GET", "HEAD"):
                wanted = wanted.as_get()
            if (target.scheme, target.host, target.port) != (origin.scheme, origin.host, origin.port):
                if wanted.form is not None:
                    raise httpx.UnsupportedProtocol(f"redirected to {target.host} with what is for {origin.host} only")
                wanted = wanted.without_secrets()
        raise httpx.TooManyRedirects(f"more than {_REDIRECTS} redirects")

    async def _send(self, wanted: _Wanted, target: httpx.URL) -> httpx.Response:
        if callable(wanted.content):
            async with aclosing(wanted.content()) as body:
                return await self._client.send(self._built(wanted, target, body), stream=True)
        request = self._built(wanted, target, wanted.content)
        with trio.move_on_after(_ANSWER):
            return await self._client.send(request, stream=True)
        raise httpx.ReadTimeout(f"no answer within {_ANSWER:.0f} seconds", request=request)

    def _built(
        self, wanted: _Wanted, target: httpx.URL, content: bytes | AsyncGenerator[bytes, None] | None
    ) -> httpx.Request:
        return self._client.build_request(
            wanted.method, target, headers=wanted.headers, data=wanted.form, content=content, timeout=wanted.limits
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A request as it is made again and again."""

    method: str
    url: str
    headers: Mapping[str, str]
    form: Mapping[str, str] | None
    content: Content | None
    limits: httpx.Timeout

    def as_get(self) -> _Wanted:
        headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("content-")}
        return _Wanted("GET", self.url, headers, None, None, self.limits)

    def without_secrets(self) -> _Wanted:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _SECRETS}
        return _Wanted(self.method, self.url, headers, self.form, self.content, self.limits)


async def steadily(response: httpx.Response, *, decoded: bool = False) -> AsyncGenerator[bytes, None]:
    """The bytes of an answer. Raises TooSlow where they only trickle; the time that the caller takes does not count."""
    waited, received = 0.0, 0
    async with aclosing(response.aiter_bytes() if decoded else response.aiter_raw()) as chunks:  # type: ignore[type-var]
        while True:
            before = trio.current_time()
            try:
                chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            waited += trio.current_time() - before
            received += len(chunk)
            if waited >= _STALL:
                if received < _FLOOR * waited:
                    raise TooSlow(f"{received} bytes in {waited:.0f} seconds", request=response.request)
                waited, received = 0.0, 0
            yield chunk


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait (RFC 9110 section 10.2.3): a number or a date."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError):
        return None
