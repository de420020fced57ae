"""Platforms, `os/architecture[/variant]`, and the choice among those an image offers.

Names are Go's (OCI image-spec, `image-index.md`); the normal forms and the order of preference are containerd's
(`platforms/database.go`, `platforms/compare.go`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rootless.errors import UsageError

_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ARCHITECTURES: dict[str, tuple[str, str]] = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "mips64el": ("mips64le", ""),
    "loongarch64": ("loong64", ""),
}
# The variant that a missing one stands for. A processor also runs what was built for the variants before its own.
_DEFAULT_VARIANT = {"amd64": 1, "arm64": 8, "arm": 7}


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor in normal form: the default variant of an architecture is left empty."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "") -> Platform:
        """The normal form of three words as documents spell them."""
        os, architecture, variant = os.lower(), architecture.lower(), variant.lower()
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
        variant = variant or implied
        if variant and variant.isdecimal():
            variant = "v" + variant
        if variant == f"v{_DEFAULT_VARIANT.get(architecture)}":
            variant = ""
        return cls(os, architecture, variant)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `linux/arm64/v8`, or a lone architecture, which means Linux. Raises UsageError."""
        words = text.split("/")
        if not 1 <= len(words) <= 3 or not all(_WORD.fullmatch(word) for word in words):
            raise UsageError(
                f"platform {text[:80]!r} is malformed", hint="write it as os/architecture or os/architecture/variant"
            )
        if len(words) == 1:
            words = ["linux", *words]
        return cls.of(*words)

    def rank(self, offered: Platform) -> int | None:
        """How well an image for `offered` runs here: 0 is best, None is not at all."""
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        mine, theirs = _level(self), _level(offered)
        if mine is None or theirs is None:
            return 0 if self.variant == offered.variant else None
        return mine - theirs if theirs <= mine else None

    def matches(self, offered: Platform) -> bool:
        """Whether an image for `offered` runs on this platform."""
        return self.rank(offered) is not None

    def __str__(self) -> str:
        return "/".join(word for word in (self.os, self.architecture, self.variant) if word)


def choose(wanted: Platform, offers: Sequence[Platform | None]) -> int | None:
    """The position of the offer that suits `wanted` best, the first among equals; None if there is none."""
    best: tuple[int, int] | None = None
    for position, offer in enumerate(offers):
        rank = wanted.rank(offer) if offer is not None else None
        if rank is not None and (best is None or rank < best[0]):
            best = rank, position
    return best[1] if best else None


def listing(offers: Iterable[Platform | None]) -> str:
    """Offers as one line for a message, without repetitions and without `unknown/unknown` attestations."""
    names = dict.fromkeys(str(offer) for offer in offers if offer is not None and offer.os != "unknown")
    return ", ".join(names) if names else "none"


def _level(platform: Platform) -> int | None:
    """The number in the variant; the architecture's default where there is none."""
    if not platform.variant:
        return _DEFAULT_VARIANT.get(platform.architecture, 0)
    digits = platform.variant.removeprefix("v")
    return int(digits) if digits.isdecimal() and len(digits) < 4 else None
