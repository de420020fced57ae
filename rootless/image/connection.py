"""The way to one registry: HTTPS or HTTP, who asks, and requests that survive a token that expires.

Plain HTTP: as Docker does, a loopback registry, and any with `tls_verify=False`, is asked over HTTPS first and over
HTTP if that fails; since some plain servers never answer a TLS greeting, HTTP is tried beside it after a moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Self

import httpx
import trio

from rootless.errors import ImageError, RegistryError
from rootless.image.access import Access
from rootless.image.auth import Challenge, Credentials, find_credentials, parse_challenges
from rootless.image.faults import CutOff, parse_faults, refusal
from rootless.image.locations import Location
from rootless.image.proxies import host_of, is_loopback
from rootless.image.tokens import Tokens, pull_scope
from rootless.image.transport import Content, Patience, Transport, steadily
from rootless.oci.reference import DEFAULT_REGISTRY, Reference

_DOCKER_HUB = "registry-1.docker.io"
_HEAD_START = 0.3
_PROBE = httpx.Timeout(15.0, connect=10.0)
_ERROR_BODY_MAX = 64 << 10
_TURNS = 3  # a token that has expired, and then one that is not enough


class Connection:
    """One registry, about one repository on it. An async context manager; entering it finds the way.

    `location` is where the reference really lies, if registries.conf says so. `credentials` are instead of the flags'
    and of what the user's files say. Everything raises RegistryError; Unauthorized where the registry wants another
    user.
    """

    def __init__(
        self,
        reference: Reference,
        access: Access,
        *,
        location: Location | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.reference = location.reference if location is not None else reference
        self.registry = self.reference.registry
        self._access = access
        self._authority = _DOCKER_HUB if self.registry == DEFAULT_REGISTRY else self.registry
        lenient = is_loopback(host_of(self._authority)) or (location is not None and location.insecure)
        self._strict = not lenient if access.tls_verify is None else access.tls_verify
        # What the user gave for one registry is not for its mirrors on other hosts.
        given = access.credentials if self.registry == reference.registry else None
        self._credentials = credentials or given
        self._scheme = "https"
        self._transport = Transport(self.registry, access, verify=self._strict)
        self._tokens = Tokens(self._transport, self.registry, self._credentials)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        try:
            if self._credentials is None:
                self._credentials = await find_credentials(self.reference, self._access.environ, self._access.authfile)
                self._tokens = Tokens(self._transport, self.registry, self._credentials)
            await self._connect()
        except BaseException:
            await self._transport.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, value, trace)

    @property
    def origin(self) -> str:
        """`scheme://host[:port]`."""
        return f"{self._scheme}://{self._authority}"

    @property
    def url(self) -> str:
        """The repository's address in the API: add `/manifests/TAG`, `/blobs/DIGEST` and so on."""
        return f"{self.origin}/v2/{self.reference.repository}"

    @property
    def patience(self) -> Patience:
        """How often to try, and how long to pause."""
        return self._transport.patience

    @property
    def user(self) -> Credentials | None:
        """Who asks, None if nobody is logged in."""
        return self._credentials

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        scopes: Collection[str] | None = None,
        attempts: int | None = None,
        limits: httpx.Timeout | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """One answer to an authorized request, with its body still to be read; it may have any status but 401.

        `scopes` are what a token has to allow (`tokens.pull_scope`, `push_scope`), by default reading the repository.
        `content`: bytes, or a function that gives the body anew for each attempt, with its length in the header
        Content-Length. `attempts` 1 makes the request once. `url` may lead elsewhere, as a registry's Location does:
        only its own origin sees the authorization. Raises RegistryError, Unauthorized.
        """
        needed = frozenset((pull_scope(self.reference.repository),) if scopes is None else scopes)
        ours = self._is_ours(url)
        for turn in range(1, _TURNS + 1):
            used = await self._tokens.authorization(needed) if ours else None
            sent = {**(headers or {}), **({"Authorization": used} if used else {})}
            async with self._transport.request(
                method, url, headers=sent, content=content, attempts=attempts, limits=limits
            ) as response:
                if response.status_code != 401:
                    yield response
                    return
                challenges = parse_challenges(response.headers.get_list("www-authenticate"))
            if not ours or turn == _TURNS or not self._tokens.refused(used, needed, challenges):
                break
            if turn > 1:
                await trio.sleep(self.patience.pause(1))  # a fresh token that is refused: clocks that differ a little
        raise self._tokens.unauthorized(needed)

    async def check_login(self) -> None:
        """Whether the registry accepts who asks. Raises Unauthorized if not."""
        async with self.request("GET", f"{self.origin}/v2/", scopes=()) as response:
            if response.status_code != 200:
                raise await self.refusal(response, "its version", doing="logging in to")

    async def body(self, response: httpx.Response, limit: int, what: str) -> bytes:
        """All of a small answer. Raises ImageError beyond `limit` bytes, CutOff if it stops in the middle."""
        raw = bytearray()
        try:
            async with aclosing(steadily(response, decoded=True)) as chunks:
                async for chunk in chunks:
                    raw += chunk
                    if len(raw) > limit:
                        raise ImageError(f"{what} from {self.registry} is larger than {limit} bytes")
        except httpx.HTTPError as error:
            raise CutOff(self.explain(error, str(response.request.url))) from error
        return bytes(raw)

    async def refusal(self, response: httpx.Response, what: str, *, doing: str = "fetching") -> RegistryError:
        """The error for an answer that is no success: `what` was asked for."""
        try:
            faults = parse_faults(await self.body(response, _ERROR_BODY_MAX, "an error"))
        except (RegistryError, ImageError):
            faults = []
        return refusal(response, faults, what, registry=self.registry, name=self.reference.name, doing=doing)

    def explain(self, error: Exception, url: str) -> str:
        """The sentence for an exchange that failed in the middle of a body."""
        return self._transport.explain(error, url)

    def _is_ours(self, url: str) -> bool:
        """Whether `url` is on the registry itself. Raises RegistryError for one that would give away what TLS hides."""
        here, there = httpx.URL(self.origin), httpx.URL(url)
        if there.scheme not in ("https", here.scheme):
            raise RegistryError(f"the registry {self.registry} sends to {url[:200]!r}, which is not safe")
        return (here.scheme, here.host, here.port) == (there.scheme, there.host, there.port)

    async def _connect(self) -> None:
        """Find the scheme, and whether the registry asks who we are."""
        scheme, status, challenges = await (self._probe("https") if self._strict else self._probe_both())
        self._scheme = scheme
        self._tokens.plain = scheme == "http"
        if status == 401:
            self._tokens.learn(challenges)
            if not challenges:
                raise RegistryError(f"the registry {self.registry} asks for an authentication that is not known here")
        elif status == 429 or status >= 500:
            raise RegistryError(f"the registry {self.registry} is unwell: it answered {status} to the first question")
        elif status not in (200, 403):
            raise RegistryError(
                f"{self.registry} does not look like an image registry: it answered {status} to GET /v2/",
                hint="check the name in front of the first slash",
            )

    async def _probe(self, scheme: str) -> tuple[str, int, list[Challenge]]:
        url = f"{scheme}://{self._authority}/v2/"
        async with self._transport.request("GET", url, limits=_PROBE) as response:
            is_page = response.headers.get("content-type", "").startswith("text/html")
            if response.status_code == 200 and is_page and "docker-distribution-api-version" not in response.headers:
                raise RegistryError(
                    f"{self.registry} does not look like an image registry: it answers with a web page",
                    hint="check the name in front of the first slash",
                )
            return scheme, response.status_code, parse_challenges(response.headers.get_list("www-authenticate"))

    async def _probe_both(self) -> tuple[str, int, list[Challenge]]:
        """HTTPS, and after a moment or its failure HTTP. The first to answer counts; if none does, what HTTP says."""
        answers: list[tuple[str, int, list[Challenge]]] = []
        failures: dict[str, RegistryError] = {}
        tls_failed = trio.Event()

        async def attempt(scheme: str, cancel: trio.CancelScope) -> None:
            if scheme == "http":
                with trio.move_on_after(_HEAD_START):
                    await tls_failed.wait()
            try:
                answer = await self._probe(scheme)
            except RegistryError as error:
                failures[scheme] = error
                tls_failed.set()
                return
            if scheme == "http" and answer[1] == 400 and not tls_failed.is_set():
                return  # a TLS server's answer to plain HTTP: leave it to the other
            answers.append(answer)
            cancel.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, "https", nursery.cancel_scope)
            nursery.start_soon(attempt, "http", nursery.cancel_scope)
        if not answers:
            raise failures.get("http") or failures["https"]
        return answers[0]
