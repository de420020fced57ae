"""Writing to a registry: blobs in parts that can be taken up again, then manifests (OCI distribution-spec, "Push").

What is sent is hashed on the way. The last piece of a blob only leaves when the digest is right, so that what was
damaged on this machine's disk never becomes a blob elsewhere. The order of requests is `rootless.image.uploadsteps`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import httpx
import trio

from rootless.errors import ImageError, RegistryError
from rootless.image.access import Access
from rootless.image.connection import Connection
from rootless.image.faults import worth_retrying
from rootless.image.locations import Location
from rootless.image.tokens import pull_scope, push_scope
from rootless.image.transport import retry_after
from rootless.image.uploadsteps import PART, SMALL, Step, UploadSteps
from rootless.oci.documents import Descriptor, Document
from rootless.oci.reference import Reference

Body = Callable[[], AsyncGenerator[bytes, None]]
Chunks = Callable[[int], AsyncGenerator[bytes, None]]

_ORIGINS = 3
"""Repositories from which mounting a blob is tried."""
_WAIT_MAX = 60.0
_UNHURRIED = httpx.Timeout(30.0, connect=15.0, read=300.0)
"""Some registries move the whole blob to its place before they answer."""


class RegistryDestination:
    """A place for an image in a registry: a Destination (`rootless.image.source`).

    `location` is where the reference really lies, if registries.conf says so.
    """

    def __init__(
        self,
        reference: Reference,
        access: Access,
        *,
        location: Location | None = None,
    ) -> None:
        self._reference = reference
        self._wire = Connection(reference, access, location=location)
        self._repository = self._wire.reference.repository
        self._scopes = (push_scope(self._repository),)

    @property
    def title(self) -> str:
        return str(self._reference)

    async def __aenter__(self) -> Self:
        await self._wire.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.__aexit__(kind, value, trace)

    # what callers want

    async def blob(self, descriptor: Descriptor, chunks: Chunks, origins: Sequence[Reference] = ()) -> bool:
        """Have a blob there: found, mounted from one of `origins`, or sent. Returns False if nothing had to be sent.

        Raises ImageError if the bytes are not those of the descriptor, RegistryError.
        """
        if await self.has(descriptor):
            return False
        steps = UploadSteps(descriptor.size, attempts=self._wire.patience.attempts, small=SMALL, part=PART)
        if not await self._mount(steps, descriptor, origins):
            await self._upload(steps, descriptor, _Verified(descriptor, chunks))
        return not steps.mounted

    async def has(self, descriptor: Descriptor) -> bool:
        """Whether the repository has the blob."""
        async with self._wire.request("HEAD", self._blob_url(descriptor), scopes=self._scopes) as answer:
            if answer.status_code in (200, 404):
                return answer.status_code == 200
            if answer.status_code == 403:
                raise await self._refusal(answer, f"blob {descriptor.digest}")
            return False  # an old server, or one that is unwell: the upload will tell

    async def manifest(self, document: Document, version: str | None = None) -> None:
        """Write a manifest or index under the reference's tag or digest, or under `version`.

        Raises RegistryError, also if the registry answers with another digest than the document's.
        """
        wanted = version or self._reference.version
        own = str(document.digest)
        if ":" in wanted and wanted != own:
            raise ImageError(f"{self.title} cannot be written: the manifest to push has the digest {own}")
        headers = {"Content-Type": document.media_type, "Content-Length": str(len(document.raw))}
        url = f"{self._wire.url}/manifests/{wanted}"
        async with self._wire.request(
            "PUT", url, headers=headers, content=document.raw, scopes=self._scopes, limits=_UNHURRIED
        ) as answer:
            if answer.status_code not in (200, 201, 202):
                raise await self._refusal(answer, f"manifest {wanted}")
            found = answer.headers.get("docker-content-digest")
        if found and found != own:
            raise RegistryError(f"{self.title} became {found[:100]} in the registry where {own} was sent")

    # one blob

    def _blob_url(self, descriptor: Descriptor) -> str:
        return f"{self._wire.url}/blobs/{descriptor.digest}"

    async def _mount(self, steps: UploadSteps, descriptor: Descriptor, origins: Sequence[Reference]) -> bool:
        """Mount the blob from another repository of this registry, or leave `steps` with an upload, or as it was."""
        names = dict.fromkeys(
            each.repository
            for each in origins
            if each.registry == self._wire.registry and each.repository != self._repository
        )
        for name in list(names)[:_ORIGINS]:
            if steps.location:  # the server did not mount, and began an upload in its place
                await self._cancel(steps.location)
                steps.forget()
            query = urlencode({"mount": str(descriptor.digest), "from": name})
            try:
                scopes = (*self._scopes, pull_scope(name))
                async with self._request(f"{self._wire.url}/blobs/uploads/?{query}", "POST", scopes=scopes) as answer:
                    if answer.status_code in (201, 202):
                        self._tell(steps, answer)
            except RegistryError:
                continue  # a shortcut only; what is wrong will show on the long way
            if steps.mounted:
                return True
        return False

    async def _cancel(self, location: str) -> None:
        try:
            async with self._request(location, "DELETE"):
                return
        except RegistryError:
            return  # the server will forget it

    async def _upload(self, steps: UploadSteps, descriptor: Descriptor, content: _Verified) -> None:
        while steps.step is not Step.DONE:
            failures, wait = steps.failures, None
            try:
                async with self._ask(steps, descriptor, content) as answer:
                    wait = retry_after(answer.headers.get("retry-after"), time.time())
                    self._tell(steps, answer)
                    if steps.given_up or (wait is not None and wait > _WAIT_MAX and steps.failures > failures):
                        raise await self._refusal(answer, f"blob {descriptor.digest}")
            except (RegistryError, httpx.HTTPError) as error:
                cause = error.__cause__ if isinstance(error, RegistryError) else error
                if not isinstance(cause, Exception) or not worth_retrying(cause):
                    raise
                steps.broke_off()
                if steps.given_up:
                    raise RegistryError(
                        f"blob {descriptor.digest} cannot be sent to {self.title}: it broke off {steps.failures} times,"
                        f" {steps.offset} of {descriptor.size} bytes have arrived ({error})"
                    ) from error
            if steps.failures > failures:
                pause = self._wire.patience.pause(steps.failures)
                await trio.sleep(pause if wait is None else min(wait, _WAIT_MAX))

    async def _refusal(self, answer: httpx.Response, what: str) -> RegistryError:
        return await self._wire.refusal(answer, what, doing="pushing to")

    def _ask(
        self, steps: UploadSteps, descriptor: Descriptor, content: _Verified
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """The request of the step."""
        step, start, end = steps.step, steps.offset, steps.end
        if step is Step.BEGIN:
            return self._request(f"{self._wire.url}/blobs/uploads/", "POST")
        if step is Step.CHECK:
            return self._request(self._blob_url(descriptor), "HEAD")
        if step is Step.ASK:
            return self._request(steps.location, "GET")
        if step is Step.FINISH:
            joint = "&" if "?" in steps.location else "?"
            url = f"{steps.location}{joint}{urlencode({'digest': str(descriptor.digest)})}"
            return self._request(url, "PUT", content, start, steps.size)
        extra = {"Content-Range": f"{start}-{end - 1}"}
        return self._request(steps.location, "PATCH", content, start, end, extra)

    def _request(
        self,
        url: str,
        method: str,
        content: _Verified | None = None,
        start: int = 0,
        end: int = 0,
        extra: Mapping[str, str] | None = None,
        scopes: tuple[str, ...] = (),
    ) -> AbstractAsyncContextManager[httpx.Response]:
        headers = dict(extra or {})
        if method in ("POST", "PATCH", "PUT"):
            headers["Content-Length"] = str(end - start)
        body: bytes | Body | None = None
        if content is not None:
            headers["Content-Type"] = "application/octet-stream"
            body = b"" if start == end else content.span(start, end)
            if start == end:
                content.check_empty()
        elif method == "POST":
            body = b""
        return self._wire.request(
            method, url, headers=headers, content=body, scopes=scopes or self._scopes, attempts=1, limits=_UNHURRIED
        )

    def _tell(self, steps: UploadSteps, answer: httpx.Response) -> None:
        location = answer.headers.get("location", "")
        if location and steps.step is not Step.FINISH:
            target = answer.request.url.join(location)
            if target.scheme not in ("http", "https"):
                raise RegistryError(f"{self.title} sends to {location[:100]!r} for an upload, which is no web address")
            if answer.request.url.scheme == "https" and target.scheme == "http":
                target = _secured(target, answer.request.url, self.title)
            location = str(target)
        steps.answered(
            answer.status_code,
            location=location,
            range_=answer.headers.get("range", ""),
            part_min=answer.headers.get("oci-chunk-min-length", ""),
        )


def _secured(target: httpx.URL, asked: httpx.URL, title: str) -> httpx.URL:
    """A registry behind a proxy that ends TLS says http of its own address: asked again by https. Raises RegistryError
    for another host.
    """
    if target.host != asked.host:
        raise RegistryError(f"{title} sends from https to plain http at {target.host} for an upload, which is not safe")
    return target.copy_with(scheme="https", port=asked.port)


class _Verified:
    """A blob's bytes by range, hashed where they pass for the first time.

    The piece that ends the blob is given out only if the digest is right. Raises ImageError.
    """

    def __init__(self, descriptor: Descriptor, chunks: Chunks) -> None:
        self._descriptor = descriptor
        self._chunks = chunks
        self._hasher = descriptor.digest.hasher()
        self._hashed = 0

    def span(self, start: int, end: int) -> Body:
        """The bytes from `start` to `end`, as often as they are asked for."""
        return lambda: self._span(start, end)

    def check_empty(self) -> None:
        """Raise ImageError unless all that was to be sent has been, and was right."""
        if self._descriptor.size == 0:
            self._descriptor.digest.verify(b"", f"blob {self._descriptor.digest}")

    async def _span(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        at = min(start, self._hashed)
        async with aclosing(self._chunks(at)) as pieces:
            async for piece in pieces:
                wanted = piece[: end - at]
                if at + len(wanted) > self._hashed:
                    self._take(wanted[max(0, self._hashed - at) :])
                begin = max(0, start - at)
                at += len(wanted)
                if len(wanted) > begin:
                    yield wanted[begin:] if begin else wanted
                if at >= end:
                    return
        raise ImageError(f"blob {self._descriptor.digest} ends after {at} of {self._descriptor.size} bytes")

    def _take(self, fresh: bytes) -> None:
        self._hasher.update(fresh)
        self._hashed += len(fresh)
        if self._hashed == self._descriptor.size and self._hasher.hexdigest() != self._descriptor.digest.hex:
            raise ImageError(
                f"blob {self._descriptor.digest} is damaged in the store and was not sent", hint="pull the image again"
            )
