"""Whom to ask for an image: the names that a short name may stand for, and the registries that have a name's image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rootless.oci.reference import Reference

Choose = Callable[[Sequence[Reference]], Reference]
"""Asks the user which of several images a short name is to mean."""


@dataclass(frozen=True, slots=True)
class Location:
    """A place that is asked for an image. `reference` is what it is asked for; the image keeps its own name.

    `insecure`: unverified HTTPS and plain HTTP are accepted there.
    """

    reference: Reference
    insecure: bool = False
    is_mirror: bool = False


class Locations:
    """What the user's and the machine's registries.conf say."""

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Locations:
        """The configuration as it is now."""
        return cls()

    @property
    def credential_helpers(self) -> tuple[str, ...]:
        """Where credentials are looked up, in order; `containers-auth.json` stands for the files. Empty: only there."""
        return ()

    def names(self, text: str, choose: Choose | None = None) -> tuple[Reference, ...]:
        """What `text` may mean, to be tried in order: one for a name with a registry. Raises UsageError.

        `choose` is asked where a person sits at a terminal and the configuration leaves it to them.
        """
        return (Reference.parse(text),)

    def of(self, reference: Reference) -> tuple[Location, ...]:
        """Where to ask for an image, in order: its mirrors, then its registry. Raises ImageError if it is blocked."""
        return (Location(reference),)

    def push_location(self, reference: Reference) -> Location:
        """Where to push to: never a mirror. Raises ImageError if it is blocked."""
        return Location(reference)

    def pulled(self, text: str, reference: Reference) -> None:
        """Note that `text` was pulled as `reference`: a choice that the user made is kept for the next time."""
