"""HTTP as a registry client needs it: retries with patience, redirects without leaks, errors in plain sentences."""

from __future__ import annotations

import email.utils
import errno
import ipaddress
import os
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import trio

from rootless import __version__
from rootless.errors import RegistryError

ATTEMPTS = 5
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
_REDIRECTS = 8
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECT = frozenset({301, 302, 303, 307, 308})
TIMEOUT = httpx.Timeout(30.0, connect=15.0)
"""Seconds for one read, and for a connection."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a registry answers: `scheme://host[:port]`."""

    scheme: str
    authority: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def host(self) -> str:
        """The host without its port."""
        return host_of(self.authority)


def host_of(authority: str) -> str:
    """`host` of `host:port`, an IPv6 address without brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def is_loopback(authority: str) -> bool:
    """Whether Docker treats the registry as local, so that it may speak plain HTTP: localhost, 127.0.0.0/8, ::1."""
    host = host_of(authority)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tls_context(authority: str, *, verify: bool, environ: Mapping[str, str]) -> ssl.SSLContext:
    """The system's certificate authorities, and those that containers-certs.d(5) names for this registry."""
    if not verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context()
    home = environ.get("HOME", "")
    for parent in (os.path.join(home, ".config/containers/certs.d"), "/etc/containers/certs.d", "/etc/docker/certs.d"):
        directory = os.path.join(parent, authority)
        if os.path.isdir(directory):
            for name in sorted(os.listdir(directory)):
                if name.endswith(".crt"):
                    try:
                        context.load_verify_locations(os.path.join(directory, name))
                    except (OSError, ssl.SSLError) as error:
                        raise RegistryError(f"cannot use the certificate {directory}/{name}: {error}") from error
    return context


class Transport:
    """Requests to one registry and to where it redirects. An async context manager.

    `request` raises RegistryError once it has given up: connections and answers that may get better are tried again,
    with Retry-After respected, the others at once.
    """

    def __init__(self, authority: str, *, verify: bool, environ: Mapping[str, str]) -> None:
        self._verify = verify
        self._client = httpx.AsyncClient(
            verify=tls_context(authority, verify=verify, environ=environ),
            timeout=TIMEOUT,
            trust_env=not is_loopback(authority),
            # Blobs are verified as they are stored: no transfer compression.
            headers={"User-Agent": f"rcontain/{__version__}", "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=8),
        )

    async def __aenter__(self) -> Transport:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
            await self._client.aclose()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        attempts: int = ATTEMPTS,
        limits: httpx.Timeout = TIMEOUT,
    ) -> AsyncIterator[httpx.Response]:
        """One answer, with its body still to be read; any status, once those worth another attempt were given one."""
        response = await self._patiently(method, url, dict(headers or {}), data, attempts, limits)
        try:
            yield response
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await response.aclose()

    async def _patiently(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        data: Mapping[str, str] | None,
        attempts: int,
        limits: httpx.Timeout,
    ) -> httpx.Response:
        for attempt in range(1, attempts + 1):
            try:
                response = await self._follow(method, url, headers, data, limits)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                if attempt == attempts or not worth_retrying(error):
                    raise RegistryError(explain(error, url)) from error
                await trio.sleep(pause(attempt))
                continue
            if response.status_code not in _RETRIED or attempt == attempts:
                return response
            wait = retry_after(response.headers.get("retry-after"), time.time())
            if wait is not None and wait > _LONGEST_PAUSE:
                return response
            await response.aclose()
            await trio.sleep(pause(attempt) if wait is None else wait)
        raise AssertionError("the last attempt returns or raises")

    async def _follow(
        self, method: str, url: str, headers: dict[str, str], data: Mapping[str, str] | None, limits: httpx.Timeout
    ) -> httpx.Response:
        """Send, and follow redirects. Authorization goes to the first host only (RFC 9110 section 15.4)."""
        target = httpx.URL(url)
        origin = target
        for _ in range(_REDIRECTS):
            request = self._client.build_request(method, target, headers=headers, data=data, timeout=limits)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            location = response.headers.get("location")
            if response.status_code not in _REDIRECT or not location:
                return response
            await response.aclose()
            target = target.join(location)
            if target.scheme not in ("http", "https"):
                raise httpx.UnsupportedProtocol(f"redirected to {target.scheme}")
            if origin.scheme == "https" and target.scheme == "http" and self._verify:
                raise httpx.UnsupportedProtocol("redirected from https to plain http")
            if (target.scheme, target.host, target.port) != (origin.scheme, origin.host, origin.port):
                if data is not None:  # it has a secret in it
                    raise httpx.UnsupportedProtocol(f"redirected to {target.host} with what is for {origin.host} only")
                headers = {
                    key: value for key, value in headers.items() if key.lower() not in ("authorization", "cookie")
                }
        raise httpx.TooManyRedirects(f"more than {_REDIRECTS} redirects")


def pause(attempt: int) -> float:
    """Seconds before the next attempt: doubled each time, and spread so that many clients do not come back at once."""
    return float(_FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))


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


def worth_retrying(error: Exception) -> bool:
    """Whether the same request may succeed in a moment: not after a refusal, an unknown host or a bad certificate."""
    cause = _cause(error)
    if isinstance(cause, (socket.gaierror, ssl.SSLError)) or _errno(cause) == errno.ECONNREFUSED:
        return False
    return isinstance(error, (httpx.TransportError, OSError)) and not isinstance(
        error, (httpx.UnsupportedProtocol, httpx.ConnectTimeout, httpx.LocalProtocolError)
    )


def explain(error: Exception, url: str) -> str:
    """The sentence for a failed request."""
    target = httpx.URL(url)
    where = f"{target.host}:{target.port}" if target.port else target.host
    cause = _cause(error)
    if isinstance(cause, socket.gaierror):
        reason = f"cannot find the registry {where}: the host name is unknown ({cause.strerror})"
    elif isinstance(cause, ssl.SSLCertVerificationError):
        reason = (
            f"the certificate of {where} cannot be trusted: {cause.verify_message}; "
            "add its authority to ~/.config/containers/certs.d, or use --tls-verify=false"
        )
    elif isinstance(cause, ssl.SSLError):
        reason = (
            f"{where} does not speak TLS as expected ({cause.reason or cause}); for plain HTTP use --tls-verify=false"
        )
    elif _errno(cause) == errno.ECONNREFUSED:
        reason = f"cannot reach the registry {where}: connection refused; is it running there?"
    elif isinstance(error, httpx.TimeoutException):
        reason = f"the registry {where} did not answer in time"
    elif isinstance(error, httpx.ConnectError):
        reason = f"cannot reach the registry {where}: {_reason(cause)}"
    elif isinstance(error, httpx.InvalidURL):
        reason = f"{url[:200]!r} is not a usable address: {error}"
    elif isinstance(error, httpx.RemoteProtocolError) and "peer closed connection without" in str(error):
        reason = f"the registry {where} closed the connection in the middle of an answer"
    elif isinstance(error, httpx.RemoteProtocolError):
        reason = f"{where} does not answer as a web server ({error}); is it a registry?"
    else:
        reason = f"the exchange with {where} failed: {_reason(cause)}"
    return reason


def _cause(error: BaseException) -> BaseException:
    """The innermost cause that says most: httpx and httpcore wrap what the socket raised."""
    seen: set[int] = set()
    best: BaseException = error
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, (OSError, ssl.SSLError)):
            best = current
        if isinstance(current, BaseExceptionGroup) and current.exceptions:
            current = current.exceptions[0]
        else:
            current = current.__cause__ or current.__context__
    return best


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        if error.errno is None and "refused" in str(error).lower():
            return errno.ECONNREFUSED
        return error.errno
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
