"""Image references: `[registry/]repository[:tag][@digest]`, with Docker's grammar and short names.

Source: github.com/distribution/reference, `regexp.go` and `normalize.go`. `busybox` means
`docker.io/library/busybox:latest`; the first component is a registry if it has a dot, a colon or an upper-case
letter, or is `localhost`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from rootless.errors import ImageError, UsageError, shortened
from rootless.oci.digest import Digest

DEFAULT_REGISTRY = "docker.io"
LOCAL_REGISTRY = "localhost"
"""Where names belong that images are given here; no registry is asked for them."""
DEFAULT_TAG = "latest"
_LEGACY_REGISTRY = "index.docker.io"
_OFFICIAL = "library/"
_PATH_MAX = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A complete reference. `registry` and `repository` are always there; without a digest there is always a tag."""

    registry: str
    repository: str
    tag: str | None = DEFAULT_TAG
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read what a user typed. Raises UsageError with the reason for a malformed one."""
        if not text:
            raise UsageError("an image reference is empty", hint="give a name such as docker.io/library/busybox:latest")
        name, digest = text, None
        if "@" in text:
            name, _, digest_text = text.partition("@")
            try:
                digest = Digest.parse(digest_text)
            except ImageError as error:
                raise _malformed(text, error.message) from None
        tag = None
        colon = name.rfind(":")
        if colon > name.rfind("/") and colon > 0:
            name, tag = name[:colon], name[colon + 1 :]
            if not _TAG.fullmatch(tag):
                raise _malformed(text, f"{tag[:40]!r} is not a tag (letters, digits, '_', '.', '-'; at most 128)")
        if _IDENTIFIER.fullmatch(name):
            raise _malformed(text, "64 hexadecimal digits are an image ID and cannot be a name")
        registry, path = _split_registry(name)
        if registry == _LEGACY_REGISTRY:
            registry = DEFAULT_REGISTRY
        if registry == DEFAULT_REGISTRY and "/" not in path:
            path = _OFFICIAL + path
        if not _DOMAIN.fullmatch(registry):
            raise _malformed(text, f"{registry[:60]!r} is not a registry (host or host:port)")
        if len(path) > _PATH_MAX:
            raise _malformed(text, f"the repository name is longer than {_PATH_MAX} characters")
        if not _PATH.fullmatch(path):
            reason = (
                "the repository name must be lower case" if path != path.lower() else "the repository name is malformed"
            )
            raise _malformed(text, reason)
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(registry, path, tag, digest)

    @classmethod
    def parse_given(cls, text: str) -> Reference:
        """A name that somebody gives to what is here: without a registry it belongs to localhost, as with Podman.

        Raises UsageError.
        """
        reference = cls.parse(text)
        if reference.registry != DEFAULT_REGISTRY or text.startswith((f"{DEFAULT_REGISTRY}/", f"{_LEGACY_REGISTRY}/")):
            return reference
        return replace(reference, registry=LOCAL_REGISTRY, repository=reference.repository.removeprefix(_OFFICIAL))

    @property
    def name(self) -> str:
        """Registry and repository: `docker.io/library/busybox`."""
        return f"{self.registry}/{self.repository}"

    @property
    def version(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest else str(self.tag)

    @property
    def familiar(self) -> str:
        """The shortest text that means the same: `busybox:latest`, `quay.io/a/b@sha256:…`."""
        text = str(self)
        if self.registry != DEFAULT_REGISTRY:
            return text
        name = self.repository
        if name.startswith(_OFFICIAL) and "/" not in name[len(_OFFICIAL) :]:
            name = name[len(_OFFICIAL) :]
        if _split_registry(name)[0] != DEFAULT_REGISTRY or _IDENTIFIER.fullmatch(name):
            return text  # without its registry it would mean something else
        return name + text[len(self.name) :]

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository at one digest, without a tag."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def has_registry(name: str) -> bool:
    """Whether the first component of a name is a registry, so that it is no short name."""
    first, slash, _ = name.partition("/")
    return bool(slash) and (any(mark in first for mark in ".:[") or first == LOCAL_REGISTRY)


def is_bare(name: str) -> bool:
    """Whether a name has neither tag nor digest."""
    return "@" not in name and ":" not in name.rpartition("/")[2]


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (has_registry(name) or first != first.lower()):
        return first, rest
    return DEFAULT_REGISTRY, name


def _malformed(text: str, reason: str) -> UsageError:
    return UsageError(f"image reference {shortened(text)!r} is malformed: {reason}")
