"""Where an image is, as users write it: `docker://NAME`, `oci:PATH:TAG`, … (containers-transports(5)).

Pure. What has no transport in front is a name that registries know.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, replace
from enum import StrEnum

from rootless.errors import UsageError, shortened


class Transport(StrEnum):
    """The kinds of places."""

    DOCKER = "docker"
    """A registry."""
    OCI = "oci"
    """A directory with an OCI image layout."""
    OCI_ARCHIVE = "oci-archive"
    """A tar archive of an OCI image layout."""
    DOCKER_ARCHIVE = "docker-archive"
    """What `docker save` writes."""
    DIR = "dir"
    """A directory with a manifest and blobs, each file named after its digest."""


_PATHS = frozenset({Transport.OCI, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE, Transport.DIR})
_ELSEWHERE = {
    "containers-storage": "the store of Podman and Buildah cannot be read here",
    "docker-daemon": "Docker's own store cannot be read here",
}
_RARE = frozenset({"ostree", "sif", "tarball", "atomic"})
_POSITION = re.compile(r"@([0-9]{1,9})")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class Place:
    """One place for an image. `str` gives what `parse` reads."""

    kind: Transport
    path: str
    """Of the file or directory; empty for a registry."""
    reference: str
    """The name in a registry, as typed; in the other places what follows the path, empty if nothing does."""
    position: int | None = None
    """`@N`: the image with this number there, counted from 0."""

    def at(self, directory: str) -> Place:
        """The same place where relative paths begin in `directory`."""
        return replace(self, path=posixpath.normpath(posixpath.join(directory, self.path))) if self.path else self

    def __str__(self) -> str:
        if self.kind is Transport.DOCKER:
            return f"docker://{self.reference}"
        which = f":@{self.position}" if self.position is not None else f":{self.reference}" if self.reference else ""
        return f"{self.kind}:{self.path}{which}"


def parse(text: str) -> Place:
    """Read what a user typed. Raises UsageError for transports that are not known, or known not to work here."""
    scheme = _SCHEME.match(text)
    if scheme is not None and scheme[1] != Transport.DOCKER:
        if scheme[1] in ("http", "https"):
            raise UsageError(
                f"{shortened(text)} is a URL, not an image", hint=f"write it as {shortened(text[scheme.end() :])}"
            )
        if scheme[1] not in _PATHS and scheme[1] not in _ELSEWHERE:
            raise _unknown(scheme[1])
    word, colon, rest = text.partition(":")
    if word == Transport.DOCKER and rest.startswith("//"):
        if len(rest) == 2:
            raise UsageError("docker:// lacks the name of an image")
        return Place(Transport.DOCKER, "", rest[2:])
    if colon and word in _ELSEWHERE:
        raise UsageError(
            f"{word}: is not supported: {_ELSEWHERE[word]}",
            hint=f"copy the image with `skopeo copy {shortened(text)} oci-archive:FILE` and load FILE",
        )
    if colon and word in _RARE and rest.startswith(("/", "./", "../")):
        raise _unknown(word)
    if not colon or word not in _PATHS:
        return Place(Transport.DOCKER, "", text)
    return _in_files(Transport(word), rest, text)


def _in_files(kind: Transport, rest: str, text: str) -> Place:
    path, _, reference = (rest, "", "") if kind is Transport.DIR else rest.partition(":")
    if not path or "\0" in path:
        raise UsageError(f"{shortened(text)} lacks the path of a {'directory' if kind in _DIRECTORIES else 'file'}")
    if reference.startswith("@"):
        match = _POSITION.fullmatch(reference)
        if match is None:
            raise UsageError(f"{shortened(text)}: {shortened(reference)} is not a position such as @0")
        return Place(kind, path, "", int(match[1]))
    return Place(kind, path, reference)


_DIRECTORIES = frozenset({Transport.OCI, Transport.DIR})


def _unknown(word: str) -> UsageError:
    known = ", ".join(f"{kind}:" for kind in (Transport.OCI, Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE))
    return UsageError(f"the transport {word}: is not known", hint=f"there are docker://, {known} and {Transport.DIR}:")
