"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in capitals or small.

The rules are those of Go's golang.org/x/net/http/httpproxy, which Podman and Docker follow: capitals come first, and
loopback addresses are never asked through a proxy. Entries of NO_PROXY are separated by commas or spaces:
`example.com` (and what is below it), `.example.com` and `*.example.com` (only what is below), an address, a network
such as `10.0.0.0/8`, each of them with `:port` if it is for that port only, or `*`.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping

import httpx

from rootless.errors import UsageError

_PORTS = {"http": 80, "https": 443}
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """What the environment says about proxies. Raises UsageError if that cannot be used."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        every = _proxy(environ, "ALL_PROXY")
        self._proxies = {scheme: _proxy(environ, f"{scheme.upper()}_PROXY") or every for scheme in _PORTS}
        self._exceptions = [_Exception(entry) for entry in re.split(r"[,\s]+", _variable(environ, "NO_PROXY")) if entry]

    def of(self, url: httpx.URL) -> httpx.URL | None:
        """The proxy for a request to `url`, None if it goes there directly."""
        proxy = self._proxies.get(url.scheme)
        if proxy is None or is_loopback(url.host):
            return None
        address = _address(url.host)
        port = url.port or _PORTS[url.scheme]
        return None if any(entry.covers(url.host, address, port) for entry in self._exceptions) else proxy


class Routes(httpx.AsyncBaseTransport):
    """Sends each request directly or through its proxy. `context` says how TLS is spoken with a host."""

    def __init__(self, proxies: Proxies, context: Callable[[httpx.URL], ssl.SSLContext], limits: httpx.Limits) -> None:
        self._proxies = proxies
        self._context = context
        self._limits = limits
        self._ways: dict[tuple[httpx.URL | None, ssl.SSLContext], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        proxy, context = self._proxies.of(request.url), self._context(request.url)
        way = self._ways.get((proxy, context))
        if way is None:
            way = httpx.AsyncHTTPTransport(
                verify=context, limits=self._limits, proxy=httpx.Proxy(proxy) if proxy else None
            )
            self._ways[proxy, context] = way
        return await way.handle_async_request(request)

    def named(self, url: httpx.URL) -> str | None:
        """`host:port` of the proxy for `url`, for messages: without the password that may be in its address."""
        proxy = self._proxies.of(url)
        return None if proxy is None else proxy.netloc.decode("ascii")

    async def aclose(self) -> None:
        for way in self._ways.values():
            await way.aclose()


def host_of(authority: str) -> str:
    """`host` of `host:port`, an IPv6 address without brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Whether a host, without its port, is this machine by its name alone: localhost, 127.0.0.0/8, ::1."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class _Exception:
    """One entry of NO_PROXY."""

    def __init__(self, entry: str) -> None:
        self._network: _Network | None = None
        self._port: int | None = None
        self._everything = entry == "*"
        host = entry.lower()
        if (network := _network(host)) is not None:
            self._network = network
        else:
            bare, colon, port = host.rpartition(":")
            if colon and port.isdigit() and (":" not in bare or bare.endswith("]")):
                host, self._port = bare, int(port[:9])
                self._network = _network(host.strip("[]"))
        host = host.removeprefix("*")
        self._below = host if host.startswith(".") else f".{host}"
        self._itself = None if host.startswith(".") else host.rstrip(".")

    def covers(self, host: str, address: _Address | None, port: int) -> bool:
        if self._everything:
            return True
        if self._port is not None and self._port != port:
            return False
        if self._network is not None:
            return address is not None and address in self._network
        name = host.lower().rstrip(".")
        return address is None and (name == self._itself or name.endswith(self._below))


def _variable(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.lower()) or "").strip()


def _proxy(environ: Mapping[str, str], name: str) -> httpx.URL | None:
    text = _variable(environ, name)
    if not text:
        return None
    # Messages do not repeat the text: there may be a password in it.
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL as error:
        raise UsageError(f"the proxy in {name} is not a usable address: {error}") from None
    if url.scheme.startswith("socks"):
        raise UsageError(
            f"{name} names a SOCKS proxy ({url.scheme}), which is not supported",
            hint="use an HTTP proxy, or unset it for this command",
        )
    if url.scheme not in _PORTS or not url.host:
        raise UsageError(f"the proxy in {name} is not an address such as http://proxy.example.com:3128")
    return url


def _address(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
