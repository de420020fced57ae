"""An image that lies in files of this machine, as a source."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

import trio

from rootless.errors import ImageError
from rootless.image.members import Files, read, read_at
from rootless.image.source import Attachment, Identity, LocalBlob
from rootless.oci.digest import Digest
from rootless.oci.documents import MANIFEST_MAX, Descriptor, Document, sniff_media_type

_CHUNK = 1 << 20


class FileSource:
    """A `Source`. `top` gives its manifest or index; `place` is the name of the file that holds a digest's content."""

    def __init__(
        self,
        files: Files,
        identity: Identity,
        top: Callable[[], Awaitable[Document]],
        place: Callable[[Digest], str | None],
    ) -> None:
        self._files = files
        self._identity = identity
        self._top = top
        self._place = place

    @property
    def identity(self) -> Identity:
        """The transport and the path."""
        return self._identity

    @property
    def title(self) -> str:
        """The transport and the path as messages show them."""
        return f"{self._identity.transport}:{self._files.path}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def manifest(self, version: str | None = None) -> Document:
        """The manifest or index, or another one of the same place by its digest; verified."""
        if version is None:
            return await self._top()
        digest = Digest.parse(version)
        return self._manifest(digest)

    def _manifest(self, digest: Digest) -> Document:
        name = self._place(digest)
        if name is None or self._files.find(name) is None:
            raise ImageError(f"{self.title} has no manifest {digest}")
        raw = read(self._files, name, MANIFEST_MAX)
        digest.verify(raw, f"manifest {digest} in {self.title}")
        return Document(sniff_media_type(raw), raw)

    async def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, verified."""
        found = self._found(descriptor)
        if descriptor.size > limit:
            raise ImageError(f"blob {descriptor.digest} has {descriptor.size} bytes; the limit is {limit}")
        raw = read_at(found, 0, found.size)
        descriptor.digest.verify(raw, f"blob {descriptor.digest} of {self.title}")
        return raw

    async def blob(self, descriptor: Descriptor, *, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` on."""
        found = self._found(descriptor)
        async for chunk in chunks(found, start):
            yield chunk

    def local(self, descriptor: Descriptor) -> LocalBlob | None:
        """Where the blob is."""
        return self._found(descriptor)

    async def signatures(self, digest: str) -> Sequence[Attachment]:
        """None: these places have nowhere to keep them."""
        return ()

    def _found(self, descriptor: Descriptor) -> LocalBlob:
        name = self._place(descriptor.digest)
        found = self._files.find(name) if name is not None else None
        if found is None:
            raise ImageError(f"{self.title} lacks blob {descriptor.digest}")
        if found.size != descriptor.size:
            raise ImageError(
                f"blob {descriptor.digest} of {self.title} has {found.size} bytes; "
                f"its manifest promises {descriptor.size}"
            )
        return found


async def chunks(found: LocalBlob, start: int = 0) -> AsyncGenerator[bytes, None]:
    """The bytes of a file. Raises ImageError if it is cut short meanwhile, HostError."""
    while start < found.size:
        chunk = read_at(found, start, _CHUNK)
        if not chunk:
            raise ImageError(f"{found.path} became shorter while it was read")
        start += len(chunk)
        yield chunk
        await trio.lowlevel.checkpoint()
