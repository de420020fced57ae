"""Content digests, `algorithm:hex` (OCI image-spec, descriptor.md#digests)."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from rootless.errors import ImageError

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_FORM = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([a-zA-Z0-9=_-]+)")
_HEX = re.compile(r"[a-f0-9]+")


class Hasher(Protocol):
    """What `hashlib` returns, as far as this project uses it."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Digest:
    """The name of some bytes. `str()` gives `sha256:…`, `hex` the part after the colon.

    Immutable and hashable. A plain class, because msgspec would read a dataclass as a JSON object and not as a string.
    """

    __slots__ = ("algorithm", "hex")

    algorithm: str
    hex: str

    def __init__(self, algorithm: str, hex: str) -> None:
        object.__setattr__(self, "algorithm", algorithm)
        object.__setattr__(self, "hex", hex)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read `sha256:<64 hex>` or `sha512:<128 hex>`. Raises ImageError for anything else."""
        match = _FORM.fullmatch(text) if len(text) <= 256 else None
        if match is None:
            raise ImageError(f"{text[:80]!r} is not a digest such as sha256:<64 hexadecimal digits>")
        algorithm, encoded = match.groups()
        length = _HEX_LENGTH.get(algorithm)
        if length is None:
            raise ImageError(f"digest {text[:80]!r} uses the algorithm {algorithm[:20]!r}; sha256 and sha512 are known")
        if len(encoded) != length or not _HEX.fullmatch(encoded):
            raise ImageError(f"{text[:80]!r} is not a digest: {algorithm} has {length} lower-case hexadecimal digits")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `data`."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> Hasher:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def verify(self, data: bytes, what: str) -> None:
        """Raise ImageError, naming `what`, unless `data` has this digest."""
        found = Digest.of(data, self.algorithm)
        if found != self:
            raise ImageError(f"{what} has digest {found} where {self} was promised")

    @property
    def short(self) -> str:
        """The first twelve digits, as tables show them."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    def __repr__(self) -> str:
        return f"Digest({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and self.hex == other.hex and self.algorithm == other.algorithm

    def __lt__(self, other: Digest) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(self.hex)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a digest is immutable: {name}")

    def __reduce__(self) -> tuple[type[Digest], tuple[str, str]]:
        return Digest, (self.algorithm, self.hex)
