"""An image on a registry, as a source: manifests, blobs and signatures of one repository.

OCI distribution-spec, "Pull". A blob that breaks off is taken up by a Range request (RFC 9110 section 14); what the
answer says of itself is checked, and a registry that cannot do it is asked for the whole again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self

import httpx
import trio

from rootless.errors import ImageError, RegistryError
from rootless.image.access import Access
from rootless.image.connection import Connection
from rootless.image.faults import CutOff, NotThere, worth_retrying
from rootless.image.locations import Location
from rootless.image.source import Attachment, Identity, LocalBlob
from rootless.image.transport import steadily
from rootless.oci.digest import Digest
from rootless.oci.documents import MANIFEST_MAX, Descriptor, Document, Index, parse_manifest, sniff_media_type
from rootless.oci.mediatype import ACCEPT, INDEXES, MANIFESTS, SCHEMA1
from rootless.oci.reference import Reference

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:(\d{1,19})|\*)")
_PROGRESS = 16 << 10  # bytes; a connection that brings fewer counts as one that failed
_PAYLOAD_MAX = 4 << 20
_SIGNATURES_MAX = 64


class Registry:
    """One repository on one registry, as an async context manager; a `Source`.

    `location` is where it really lies, if registries.conf says so. All methods raise RegistryError, and ImageError for
    bad data.
    """

    def __init__(self, reference: Reference, access: Access, *, location: Location | None = None) -> None:
        self._reference = reference
        self._connection = Connection(reference, access, location=location)

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(kind, value, trace)

    @property
    def identity(self) -> Identity:
        """The name as the user gave it, wherever it is fetched from."""
        return Identity("docker", str(self._reference), self._reference)

    @property
    def title(self) -> str:
        """The reference."""
        return str(self._reference)

    @property
    def connection(self) -> Connection:
        """The way there, for other questions to the same repository."""
        return self._connection

    def local(self, descriptor: Descriptor) -> LocalBlob | None:
        """Nothing of a registry is here already."""
        return None

    async def manifest(self, version: str | None = None) -> Document:
        """The manifest or index at a tag or digest, verified against the digest. Raises RegistryError, ImageError."""
        version = self._reference.version if version is None else version
        patience = self._connection.patience
        for attempt in range(1, patience.attempts):
            try:
                return await self._manifest(version)
            except CutOff:
                await trio.sleep(patience.pause(attempt))
        return await self._manifest(version)

    async def _manifest(self, version: str) -> Document:
        connection = self._connection
        url = f"{connection.url}/manifests/{version}"
        async with connection.request("GET", url, headers={"Accept": ACCEPT}) as response:
            if response.status_code != 200:
                raise await connection.refusal(
                    response, f"{self._reference.name}:{version}" if ":" not in version else version
                )
            raw = await connection.body(response, MANIFEST_MAX, "the manifest")
            media_type = response.headers.get("content-type", "").partition(";")[0].strip()
            promised = response.headers.get("docker-content-digest")
        if media_type not in MANIFESTS | INDEXES | SCHEMA1:
            media_type = sniff_media_type(raw) if media_type in ("", "application/json", "text/plain") else media_type
        document = Document(media_type, raw)
        what = f"the manifest of {self._reference.name} from {connection.registry}"
        if ":" in version:
            Digest.parse(version).verify(raw, what)
        elif promised:
            Digest.parse(promised).verify(raw, what)
        return document

    async def digest(self, version: str) -> Digest | None:
        """The digest that a tag has now, without fetching the manifest where the registry can say it."""
        url = f"{self._connection.url}/manifests/{version}"
        async with self._connection.request("HEAD", url, headers={"Accept": ACCEPT}) as response:
            promised = response.headers.get("docker-content-digest")
            if response.status_code == 200 and promised:
                return Digest.parse(promised)
        return (await self.manifest(version)).digest

    async def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, such as the configuration, verified."""
        if descriptor.size > limit:
            raise ImageError(f"blob {descriptor.digest} has {descriptor.size} bytes; the limit is {limit}")
        async with aclosing(self.blob(descriptor)) as chunks:
            raw = b"".join([chunk async for chunk in chunks])
        descriptor.digest.verify(raw, f"blob {descriptor.digest} of {self._reference.name}")
        return raw

    async def blob(self, descriptor: Descriptor, *, start: int = 0) -> AsyncGenerator[bytes, None]:
        """A blob's bytes from `start` on, exactly as many as the descriptor says. A broken transfer is taken up.

        The content is not verified here: whoever keeps it hashes it.
        """
        connection = self._connection
        url = f"{connection.url}/blobs/{descriptor.digest}"
        received = start
        failures = 0
        ranges = True
        while received < descriptor.size or descriptor.size == 0:
            asked = received if ranges else 0
            before = received
            error: Exception | None = None
            headers = {"Range": f"bytes={asked}-"} if asked else {}
            try:
                async with connection.request("GET", url, headers=headers) as response:
                    offset = await self._offset(response, descriptor, asked)
                    if offset is None:
                        ranges = False  # once: without a range, any answer but the whole is an error
                        continue
                    skip = received - offset
                    async with aclosing(steadily(response)) as chunks:
                        async for chunk in chunks:
                            if skip:
                                dropped = min(skip, len(chunk))
                                skip -= dropped
                                chunk = chunk[dropped:]
                            received += len(chunk)
                            if received > descriptor.size:
                                raise self._longer(descriptor)
                            if chunk:
                                yield chunk
                if received >= descriptor.size:
                    return
            except (httpx.HTTPError, OSError) as caught:
                if not worth_retrying(caught):
                    raise RegistryError(connection.explain(caught, url)) from caught
                error = caught
            failures = 1 if received - before >= _PROGRESS else failures + 1
            if failures >= connection.patience.attempts:
                reason = f"{connection.explain(error, url)}, " if error else ""
                raise RegistryError(
                    f"{reason}blob {descriptor.digest} of {self._reference.name} is cut off after {received} of "
                    f"{descriptor.size} bytes"
                )
            await trio.sleep(connection.patience.pause(failures))

    async def _offset(self, response: httpx.Response, descriptor: Descriptor, asked: int) -> int | None:
        """Where in the blob the answer begins; None if it is no answer to the range that was asked for.

        Raises ImageError, before a byte is taken, if the answer says of itself that it is too long.
        """
        status = response.status_code
        if status == 416 and asked:
            return None
        if status not in (200, 206):
            raise await self._connection.refusal(response, f"blob {descriptor.digest}")
        length = response.headers.get("content-length", "")
        announced = int(length) if length.isascii() and length.isdigit() else None
        if status == 200:
            if announced is not None and announced > descriptor.size:
                raise self._longer(descriptor)
            return 0
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if match is None or int(match[1]) != asked or int(match[2]) < asked:
            if asked:
                return None
            raise RegistryError(
                f"the registry {self._connection.registry} answers with a part of blob {descriptor.digest} "
                "where all of it was asked for"
            )
        if max(int(match[2]) + 1, int(match[3] or 0)) > descriptor.size:
            raise self._longer(descriptor)
        return asked

    def _longer(self, descriptor: Descriptor) -> ImageError:
        return ImageError(
            f"blob {descriptor.digest} of {self._reference.name} is longer than the {descriptor.size} bytes that its "
            "manifest promises"
        )

    async def signatures(self, digest: str) -> Sequence[Attachment]:
        """The sigstore attachments of the manifest with this digest: what cosign keeps at the tag `sha256-HEX.sig`.

        None is an empty sequence; a registry that does not answer is an error.
        """
        try:
            document = await self.manifest(f"{digest.replace(':', '-')}.sig")
        except NotThere:
            return ()
        manifest = parse_manifest(document)
        if isinstance(manifest, Index):
            raise ImageError(f"the signatures of {digest} in {self._reference.name} are a list of images")
        layers = manifest.layers or ()
        if len(layers) > _SIGNATURES_MAX:
            raise ImageError(
                f"{digest} in {self._reference.name} has {len(layers)} signatures; the limit is {_SIGNATURES_MAX}"
            )
        return tuple(
            [
                Attachment(layer.media_type, await self.document(layer, _PAYLOAD_MAX), layer.annotations or {})
                for layer in layers
            ]
        )
