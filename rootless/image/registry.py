"""A client of the distribution API: manifests and blobs of one repository (OCI distribution-spec, "Pull").

Plain HTTP: as Docker does, a loopback registry, and any with `tls_verify=False`, is asked over HTTPS first and over
HTTP if that fails; since some plain servers never answer a TLS greeting, HTTP is tried beside it after a moment.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from urllib.parse import urlencode

import httpx
import msgspec
import trio

from rootless.errors import ImageError, RegistryError
from rootless.image.auth import Challenge, Credentials, find_credentials, parse_challenges
from rootless.image.transport import ATTEMPTS, Endpoint, Transport, explain, is_loopback, pause, worth_retrying
from rootless.oci.digest import Digest
from rootless.oci.documents import MANIFEST_MAX, Descriptor, Document, sniff_media_type
from rootless.oci.mediatype import ACCEPT, INDEXES, MANIFESTS, SCHEMA1
from rootless.oci.reference import Reference

_DOCKER_HUB = "registry-1.docker.io"
_HEAD_START = 0.3
_PROBE = httpx.Timeout(15.0, connect=10.0)
_ERROR_BODY_MAX = 64 << 10


class _RegistryFault(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _RegistryFaults(msgspec.Struct, frozen=True):
    errors: list[_RegistryFault] = []


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class Registry:
    """One repository on one registry, as an async context manager.

    `tls_verify`: True insists on verified HTTPS, False also takes unverified HTTPS and plain HTTP, None means True
    except for loopback. `credentials`: instead of what the user's files say. All methods raise RegistryError, and
    ImageError for bad data.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        tls_verify: bool | None = None,
        credentials: Credentials | None = None,
        environ: Mapping[str, str],
    ) -> None:
        self._reference = reference
        self._authority = _DOCKER_HUB if reference.registry == "docker.io" else reference.registry
        self._local = is_loopback(self._authority)
        self._strict = not self._local if tls_verify is None else tls_verify
        self._credentials = credentials
        self._environ = environ
        self._transport = Transport(self._authority, verify=self._strict, environ=environ)
        self._endpoint = Endpoint("https", self._authority)
        self._authorization: str | None = None
        self._login = trio.Lock()

    async def __aenter__(self) -> Registry:
        await self._transport.__aenter__()
        try:
            if self._credentials is None:
                self._credentials = await find_credentials(self._reference, self._environ)
            await self._connect()
        except BaseException:
            await self._transport.__aexit__()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__()

    # what callers want

    async def manifest(self, version: str) -> Document:
        """The manifest or index at a tag or digest, verified against the digest. Raises RegistryError, ImageError."""
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._manifest(version)
            except _CutOff:
                await trio.sleep(pause(attempt))
        return await self._manifest(version)

    async def _manifest(self, version: str) -> Document:
        url = f"{self._base}/manifests/{version}"
        async with self._transport_request("GET", url, {"Accept": ACCEPT}) as response:
            if response.status_code != 200:
                raise await self._refusal(
                    response, f"{self._reference.name}:{version}" if ":" not in version else version
                )
            raw = await self._body(response, MANIFEST_MAX, "the manifest")
            media_type = response.headers.get("content-type", "").partition(";")[0].strip()
            promised = response.headers.get("docker-content-digest")
        if media_type not in MANIFESTS | INDEXES | SCHEMA1:
            media_type = sniff_media_type(raw) if media_type in ("", "application/json", "text/plain") else media_type
        document = Document(media_type, raw)
        what = f"the manifest of {self._reference.name} from {self._authority}"
        if ":" in version:
            Digest.parse(version).verify(raw, what)
        elif promised:
            Digest.parse(promised).verify(raw, what)
        return document

    async def digest(self, version: str) -> Digest | None:
        """The digest that a tag has now, without fetching the manifest where the registry can say it."""
        async with self._transport_request("HEAD", f"{self._base}/manifests/{version}", {"Accept": ACCEPT}) as response:
            promised = response.headers.get("docker-content-digest")
            if response.status_code == 200 and promised:
                return Digest.parse(promised)
        return (await self.manifest(version)).digest

    async def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, such as the configuration, verified."""
        if descriptor.size > limit:
            raise ImageError(f"blob {descriptor.digest} has {descriptor.size} bytes; the limit is {limit}")
        chunks = [chunk async for chunk in self.blob(descriptor)]
        raw = b"".join(chunks)
        descriptor.digest.verify(raw, f"blob {descriptor.digest} of {self._reference.name}")
        return raw

    async def blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob's bytes in order, exactly as many as the descriptor says. An interrupted transfer is resumed.

        The content is not verified here: whoever keeps it hashes it.
        """
        url = f"{self._base}/blobs/{descriptor.digest}"
        received = 0
        failures = 0
        while received < descriptor.size or descriptor.size == 0:
            headers = {"Range": f"bytes={received}-"} if received else {}
            before = received
            try:
                async with self._transport_request("GET", url, headers) as response:
                    if response.status_code not in (200, 206):
                        raise await self._refusal(response, f"blob {descriptor.digest}")
                    skip = received if response.status_code == 200 else 0
                    async for chunk in response.aiter_raw():
                        if skip:
                            dropped = min(skip, len(chunk))
                            skip -= dropped
                            chunk = chunk[dropped:]
                        received += len(chunk)
                        if received > descriptor.size:
                            raise ImageError(
                                f"blob {descriptor.digest} of {self._reference.name} is longer than "
                                f"the {descriptor.size} bytes that its manifest promises"
                            )
                        if chunk:
                            yield chunk
                if received >= descriptor.size:
                    return
                error: Exception | None = None
            except (httpx.HTTPError, OSError) as caught:
                if not worth_retrying(caught):
                    raise RegistryError(explain(caught, url)) from caught
                error = caught
            failures = 1 if received > before else failures + 1
            if failures >= ATTEMPTS:
                reason = f"{explain(error, url)}, " if error else ""
                raise RegistryError(
                    f"{reason}blob {descriptor.digest} of {self._reference.name} is cut off after {received} of "
                    f"{descriptor.size} bytes"
                )
            await trio.sleep(pause(failures))

    # the way there

    @property
    def _base(self) -> str:
        return f"{self._endpoint.url}/v2/{self._reference.repository}"

    async def _connect(self) -> None:
        """Find the scheme, and log in if the registry asks for it."""
        status, challenges = await (self._probe("https") if self._strict else self._probe_both())
        if status == 401:
            await self._authenticate(challenges)
        elif status == 429 or status >= 500:
            raise RegistryError(f"the registry {self._authority} is unwell: it answered {status} to the first question")
        elif status not in (200, 403):
            raise RegistryError(
                f"{self._authority} does not look like an image registry: it answered {status} to GET /v2/",
                hint="check the name in front of the first slash",
            )

    async def _probe(self, scheme: str) -> tuple[int, list[Challenge]]:
        url = f"{scheme}://{self._authority}/v2/"
        async with self._transport.request("GET", url, limits=_PROBE) as response:
            is_page = response.headers.get("content-type", "").startswith("text/html")
            if response.status_code == 200 and is_page and "docker-distribution-api-version" not in response.headers:
                raise RegistryError(
                    f"{self._authority} does not look like an image registry: it answers with a web page",
                    hint="check the name in front of the first slash",
                )
            self._endpoint = Endpoint(scheme, self._authority)
            return response.status_code, parse_challenges(response.headers.get_list("www-authenticate"))

    async def _probe_both(self) -> tuple[int, list[Challenge]]:
        """HTTPS, and after a moment or its failure HTTP. The first to answer counts; if none does, what HTTP says."""
        answers: list[tuple[str, int, list[Challenge]]] = []
        failures: dict[str, RegistryError] = {}
        tls_failed = trio.Event()

        async def attempt(scheme: str, cancel: trio.CancelScope) -> None:
            if scheme == "http":
                with trio.move_on_after(_HEAD_START):
                    await tls_failed.wait()
            try:
                status, challenges = await self._probe(scheme)
            except RegistryError as error:
                failures[scheme] = error
                tls_failed.set()
                return
            if scheme == "http" and status == 400 and not tls_failed.is_set():
                return  # a TLS server's answer to plain HTTP: leave it to the other
            answers.append((scheme, status, challenges))
            cancel.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, "https", nursery.cancel_scope)
            nursery.start_soon(attempt, "http", nursery.cancel_scope)
        if not answers:
            raise failures.get("http") or failures["https"]
        scheme, status, challenges = answers[0]
        self._endpoint = Endpoint(scheme, self._authority)
        return status, challenges

    def _transport_request(self, method: str, url: str, headers: Mapping[str, str]) -> _Authorized:
        return _Authorized(self, method, url, headers)

    async def _authenticate(self, challenges: list[Challenge]) -> None:
        """Answer a 401. Raises RegistryError if there is nothing to answer with, or it is refused."""
        bearer = next((one for one in challenges if one.scheme == "bearer"), None)
        basic = next((one for one in challenges if one.scheme == "basic"), None)
        if bearer is not None and bearer.parameters.get("realm"):
            self._authorization = "Bearer " + await self._token(bearer)
        elif basic is not None:
            if self._credentials is None or not self._credentials.username:
                raise RegistryError(
                    f"the registry {self._authority} wants a user name and a password, and there are none for it",
                    hint=f"log in with `podman login {self._reference.registry}`, or name a file in REGISTRY_AUTH_FILE",
                )
            self._authorization = self._credentials.basic
        else:
            raise RegistryError(f"the registry {self._authority} asks for an authentication that is not known here")

    async def _token(self, challenge: Challenge) -> str:
        realm = challenge.parameters["realm"]
        if not realm.startswith("https://") and not (self._endpoint.scheme == "http" and realm.startswith("http://")):
            raise RegistryError(
                f"the registry {self._authority} sends to {realm[:200]!r} for a token, which is not safe"
            )
        scope = f"repository:{self._reference.repository}:pull"
        service = challenge.parameters.get("service", "")
        query = {"service": service, "scope": scope} if service else {"scope": scope}
        credentials = self._credentials
        headers = {"Accept": "application/json"}
        if credentials is not None and credentials.identity_token:
            data = {"grant_type": "refresh_token", "refresh_token": credentials.identity_token, "client_id": "rcontain"}
            asked = self._transport.request("POST", realm, headers=headers, data={**query, **data})
        else:
            if credentials is not None and credentials.username:
                headers["Authorization"] = credentials.basic
            asked = self._transport.request(
                "GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}", headers=headers
            )
        async with asked as response:
            if response.status_code in (400, 401, 403):
                raise self._unauthorized()
            if response.status_code != 200:
                raise RegistryError(
                    f"{httpx.URL(realm).host} refused to give a token for {scope}: {response.status_code}"
                )
            raw = await self._body(response, 1 << 20, "the token")
        try:
            answer = msgspec.json.decode(raw, type=_Token)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RegistryError(f"{httpx.URL(realm).host} gave a malformed answer where a token was expected") from None
        token = answer.token or answer.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{httpx.URL(realm).host} gave no token for {scope}")
        return token

    async def _login_again(self, used: str | None, challenges: list[Challenge]) -> bool:
        """After a 401 in the middle: a fresh token, unless another task has fetched one. False if it is of no use."""
        async with self._login:
            if self._authorization != used:
                return True
            if used is not None and not used.startswith("Bearer "):
                return False
            await self._authenticate(challenges)
            return self._authorization != used

    # what went wrong

    def _unauthorized(self) -> RegistryError:
        name = self._reference.name
        if self._credentials is not None:
            origin = self._credentials.origin or "the command line"
            return RegistryError(
                f"the registry {self._authority} refused the user name or password from {origin} for {name}",
                hint=f"log in again with `podman login {self._reference.registry}`",
            )
        return RegistryError(
            f"the registry {self._authority} does not let anyone fetch {name} without logging in, or it does not exist",
            hint=f"check the name, or log in with `podman login {self._reference.registry}`",
        )

    async def _refusal(self, response: httpx.Response, what: str) -> RegistryError:
        """The error for an answer other than success."""
        faults = await self._faults(response)
        codes = {fault.code for fault in faults}
        said = f" ({'; '.join(_quoted(fault.message or fault.code) for fault in faults[:3])})" if faults else ""
        status, name, authority = response.status_code, self._reference.name, self._authority
        if status == 401:
            return self._unauthorized()
        if status == 403:
            return RegistryError(f"the registry {authority} forbids fetching {name}{said}")
        if status == 404 and "NAME_UNKNOWN" in codes:
            return RegistryError(f"the registry {authority} has no repository {self._reference.repository}")
        if status == 404 and what.startswith("blob "):
            return RegistryError(f"the registry {authority} has lost {what} of {name}", hint="push the image again")
        if status == 404:
            return RegistryError(
                f"the registry {authority} has no image {what}{said}", hint="check the name and the tag"
            )
        if status == 429:
            wait = response.headers.get("retry-after")
            hint = f"try again in {wait} seconds" if wait and wait.isdigit() else "try again later, or log in"
            return RegistryError(f"the registry {authority} says that there are too many requests{said}", hint=hint)
        if status >= 500:
            return RegistryError(
                f"the registry {authority} is unwell: it answered {status} when asked for {what}{said}"
            )
        return RegistryError(f"the registry {authority} answered {status} when asked for {what}{said}")

    async def _faults(self, response: httpx.Response) -> list[_RegistryFault]:
        try:
            raw = await self._body(response, _ERROR_BODY_MAX, "an error")
            return msgspec.json.decode(raw, type=_RegistryFaults).errors
        except (RegistryError, ImageError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return []  # the status says enough

    async def _body(self, response: httpx.Response, limit: int, what: str) -> bytes:
        raw = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                raw += chunk
                if len(raw) > limit:
                    raise ImageError(f"{what} from {self._authority} is larger than {limit} bytes")
        except httpx.HTTPError as error:
            raise _CutOff(explain(error, str(response.request.url))) from error
        return bytes(raw)


class _CutOff(RegistryError):
    """A body that stopped in the middle."""


class _Authorized:
    """A request with the registry's current authorization, repeated once with a new token after a 401."""

    def __init__(self, registry: Registry, method: str, url: str, headers: Mapping[str, str]) -> None:
        self._registry = registry
        self._method = method
        self._url = url
        self._headers = headers

    async def __aenter__(self) -> httpx.Response:
        registry = self._registry
        for attempt in (1, 2):
            used = registry._authorization
            headers = {**self._headers, **({"Authorization": used} if used else {})}
            self._context = registry._transport.request(self._method, self._url, headers=headers)
            response = await self._context.__aenter__()
            if response.status_code != 401 or attempt == 2:
                return response
            challenges = parse_challenges(response.headers.get_list("www-authenticate"))
            if not challenges:
                return response
            await self._context.__aexit__(None, None, None)
            if not await registry._login_again(used, challenges):
                raise registry._unauthorized()
        raise AssertionError("the second attempt returns")

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._context.__aexit__(kind, value, trace)


def _quoted(text: str) -> str:
    """A registry's own words, made harmless for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
