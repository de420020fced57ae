"""Where images come from and go to: what a registry, an archive and a directory have in common.

A `Source` is one image (or a list of images) in one place, a `Destination` one place for an image. Both are
asynchronous context managers; everything that comes out of a source is hostile until its digest is verified.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rootless.oci.documents import Descriptor, Document
from rootless.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Identity:
    """What policy.json looks up (containers-policy.json(5)): a transport, a scope in it, and a name if there is one.

    `scope` is the complete reference for `docker`, and an absolute path for archives and directories.
    """

    transport: str
    scope: str
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A signature that lies beside an image: the signed bytes, and annotations of which one is the signature."""

    media_type: str
    payload: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalBlob:
    """Bytes that lie in a file already: `size` of them from `offset` on."""

    path: str
    offset: int
    size: int


class Source(Protocol):
    """One image, or a list of them, that can be read. Raises RegistryError, ImageError and HostError."""

    @property
    def identity(self) -> Identity:
        """Who it is, for the policy."""

    @property
    def title(self) -> str:
        """What messages call it: `docker.io/library/busybox:latest`, `oci-archive:/tmp/a.tar`."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def manifest(self, version: str | None = None) -> Document:
        """The manifest or index that the source stands for, or the one with the digest `version`; verified."""

    async def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, such as a configuration, verified; at most `limit` bytes."""

    def blob(self, descriptor: Descriptor, *, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from `start` to its end, exactly `size - start` of them; not verified.

        A transfer that breaks is taken up where it broke.
        """

    def local(self, descriptor: Descriptor) -> LocalBlob | None:
        """Where the blob lies in a file of this machine, as it is, if it does."""

    async def signatures(self, digest: str) -> Sequence[Attachment]:
        """The sigstore attachments of the manifest with this digest; none is an empty sequence."""


class Destination(Protocol):
    """One place that an image is written to, blobs first. Raises RegistryError, ImageError and HostError."""

    @property
    def title(self) -> str:
        """What messages call it."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def blob(
        self,
        descriptor: Descriptor,
        chunks: Callable[[int], AsyncGenerator[bytes, None]],
        origins: Sequence[Reference] = (),
    ) -> bool:
        """Have a blob there. `chunks(start)` gives its bytes from `start` on, and may be called again.

        `origins` are repositories that are known to have it. Returns False if it was there already.
        """

    async def manifest(self, document: Document, version: str | None = None) -> None:
        """Write a manifest or index, whose parts are there: under the destination's name, or `version`."""
