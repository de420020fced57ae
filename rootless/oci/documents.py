"""The JSON documents of an image: index, manifest, configuration, image layout.

Sources: OCI image-spec `descriptor.md`, `image-index.md`, `manifest.md`, `config.md`, `image-layout.md`; Docker's
`manifest-v2-2.md`. Types are frozen and have the specification's field names in snake case. A document is validated
once, by a `parse_*` function; digests are over bytes, so whoever needs to store or verify a document keeps its
`Document`.

Go writes `null` for an empty list, so every list and map may also be absent; `None` and empty mean the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from rootless.errors import ImageError, shortened
from rootless.oci.digest import Digest
from rootless.oci.mediatype import INDEXES, MANIFESTS, SCHEMA1
from rootless.oci.platform import Platform

MANIFEST_MAX = 4 << 20
"""Bytes of the largest manifest or index, the limit of the distribution specification."""

CONFIG_MAX = 8 << 20
"""Bytes of the largest image configuration."""

LAYERS_MAX = 1000
INDEX_MANIFESTS_MAX = 2000

REF_NAME = "org.opencontainers.image.ref.name"

Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_FRACTION = re.compile(r"\.(\d+)")
_T = TypeVar("_T")


class _PlatformFields(Struct, frozen=True):
    """`platform` of a descriptor."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = field(default="", name="os.version")


class Descriptor(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A reference to content: what it is, its digest and its size in bytes."""

    media_type: str
    digest: Digest
    size: Size
    annotations: dict[str, str] | None = None
    urls: tuple[str, ...] | None = None
    artifact_type: str | None = None
    platform_fields: _PlatformFields | None = field(default=None, name="platform")

    @property
    def platform(self) -> Platform | None:
        """What the content runs on, where the descriptor says it."""
        fields = self.platform_fields
        return Platform.of(fields.os, fields.architecture, fields.variant) if fields and fields.os else None

    def annotation(self, name: str) -> str | None:
        """The value of one annotation."""
        return (self.annotations or {}).get(name)


class Index(Struct, frozen=True, rename="camel"):
    """An image index (Docker: manifest list)."""

    manifests: Annotated[tuple[Descriptor, ...], Meta(max_length=INDEX_MANIFESTS_MAX)]
    schema_version: int = 2
    media_type: str = ""
    layers: msgspec.Raw | UnsetType = UNSET
    config: msgspec.Raw | UnsetType = UNSET


class Manifest(Struct, frozen=True, rename="camel"):
    """The manifest of an image for one platform."""

    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Meta(max_length=LAYERS_MAX)] | None = None
    schema_version: int = 2
    media_type: str = ""
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    manifests: msgspec.Raw | UnsetType = UNSET


class Healthcheck(Struct, frozen=True, rename="pascal"):
    """`config.Healthcheck`; durations in nanoseconds (Docker's image specification 1.2)."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ExecutionConfig(Struct, frozen=True, rename="pascal"):
    """`config`: what a container of the image runs unless told otherwise."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] | None = None


class RootFS(Struct, frozen=True):
    """`rootfs`: the digests of the uncompressed layers, bottom first."""

    type: str = "layers"
    diff_ids: tuple[Digest, ...] | None = None


class History(Struct, frozen=True):
    """One line of the image's history."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(Struct, frozen=True, dict=True):
    """The image configuration."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str | None = None
    author: str = ""
    execution: ExecutionConfig | None = field(default=None, name="config")
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] | None = None
    os_version: str = field(default="", name="os.version")

    @cached_property
    def config(self) -> ExecutionConfig:
        """`config`, empty where the document has none."""
        return self.execution or ExecutionConfig()

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform.of(self.os, self.architecture, self.variant)

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """Digests of the uncompressed layers, bottom first."""
        return self.rootfs.diff_ids or ()

    @property
    def created_at(self) -> datetime | None:
        """`created` as a time, None where it is missing or no RFC 3339 time."""
        return parse_time(self.created)


@dataclass(frozen=True, slots=True)
class Document:
    """The bytes of a document as they were received, and what they are said to be."""

    media_type: str
    raw: bytes

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    def descriptor(self, annotations: dict[str, str] | None = None) -> Descriptor:
        """A descriptor of this document."""
        return Descriptor(self.media_type, self.digest, len(self.raw), annotations)


def parse_manifest(document: Document) -> Manifest | Index:
    """Read an index or a manifest. Raises ImageError, which names the problem, for everything else.

    A document that could be read as both kinds is refused (CVE-2021-41190).
    """
    if len(document.raw) > MANIFEST_MAX:
        raise ImageError(f"a manifest has {len(document.raw)} bytes; the limit is {MANIFEST_MAX}")
    if document.media_type in SCHEMA1:
        raise ImageError(
            "the image has a Docker schema 1 manifest, which is obsolete", hint="push it again with a current tool"
        )
    if document.media_type in INDEXES:
        index = _decode(document.raw, Index, "the image index")
        _agree(document.media_type, index.media_type, index.schema_version)
        if index.layers is not UNSET or index.config is not UNSET:
            raise ImageError("a document claims to be an image index and has layers or a configuration")
        return index
    if document.media_type in MANIFESTS:
        manifest = _decode(document.raw, Manifest, "the image manifest")
        _agree(document.media_type, manifest.media_type, manifest.schema_version)
        if manifest.manifests is not UNSET:
            raise ImageError("a document claims to be an image manifest and has a list of manifests")
        return manifest
    raise ImageError(f"the manifest has the media type {document.media_type[:120]!r}, which is not a container image")


def parse_config(raw: bytes) -> ImageConfig:
    """Read an image configuration. Raises ImageError."""
    if len(raw) > CONFIG_MAX:
        raise ImageError(f"an image configuration has {len(raw)} bytes; the limit is {CONFIG_MAX}")
    return _decode(raw, ImageConfig, "the image configuration")


def parse_layout_index(raw: bytes) -> Index:
    """Read the `index.json` of an image layout. Raises ImageError."""
    return _decode(raw, Index, "index.json")


def sniff_media_type(raw: bytes) -> str:
    """The `mediaType` inside a manifest that came without one; guessed from its fields if it is missing there."""
    fields = _decode(raw, _Sniffed, "the manifest")
    if fields.media_type:
        return fields.media_type
    if fields.manifests is not UNSET:
        return "application/vnd.oci.image.index.v1+json"
    if fields.config is not UNSET:
        return "application/vnd.oci.image.manifest.v1+json"
    return ""


def encode(document: Struct) -> bytes:
    """A document of ours as JSON. Absent members stay absent."""
    return msgspec.json.encode(document, enc_hook=_enc_hook)


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time (Go writes up to nine digits of a second), or None."""
    if not text:
        return None
    text = _FRACTION.sub(lambda match: "." + match.group(1)[:6].ljust(6, "0"), text, count=1)
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class _Sniffed(Struct, frozen=True, rename="camel"):
    media_type: str = ""
    manifests: msgspec.Raw | UnsetType = UNSET
    config: msgspec.Raw | UnsetType = UNSET


def _dec_hook(kind: type[Any], value: Any) -> Any:
    if kind is Digest and isinstance(value, str):
        return Digest.parse(value)
    raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")


def _enc_hook(value: Any) -> Any:
    if isinstance(value, Digest):
        return str(value)
    raise TypeError(f"cannot encode {type(value).__name__}")


def _decode(raw: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind, dec_hook=_dec_hook)
    except msgspec.ValidationError as error:
        raise ImageError(f"{what} is not valid: {shortened(str(error), 200)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ImageError(f"{what} is not JSON: {shortened(str(error), 200)}") from None
    except RecursionError:
        raise ImageError(f"{what} is nested too deeply") from None


def _agree(outer: str, inner: str, schema: int) -> None:
    if inner and inner != outer:
        raise ImageError(f"a manifest was served as {outer[:120]!r} and says of itself that it is {inner[:120]!r}")
    if schema != 2:
        raise ImageError(f"a manifest has schema version {schema}; version 2 is known")
