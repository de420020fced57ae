"""Whom to ask for an image: the names that a short name may stand for, and the registries that have a name's image.

Of all `[[registry]]` tables, the one with the longest prefix that a reference begins with counts, and it alone
(containers-registries.conf(5)). Its mirrors are asked first, in order, then its location. Whatever is asked, the image
keeps its own, logical name: in the store, and for the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rootless.errors import ImageError, UsageError
from rootless.image import shortnames
from rootless.image.conffile import SYSTEM
from rootless.image.registriesconf import Alias, MirrorUse, RegistriesConf, RegistryTable
from rootless.image.shortnames import Choose
from rootless.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class Location:
    """A place that is asked for an image. `reference` is what it is asked for; the image keeps its own name.

    `insecure`: unverified HTTPS and plain HTTP are accepted there.
    """

    reference: Reference
    insecure: bool = False
    is_mirror: bool = False


class Locations:
    """What the user's and the machine's registries.conf say. Without any, every name stands for itself."""

    def __init__(
        self,
        conf: RegistriesConf | None = None,
        recorded: Mapping[str, Alias] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._conf = conf or RegistriesConf()
        self._recorded = recorded or {}
        self._environ = environ or {}
        self._chosen: dict[str, Reference] = {}

    @classmethod
    def load(cls, environ: Mapping[str, str], system: str = SYSTEM) -> Locations:
        """The configuration as it is now. Raises UsageError for a malformed file."""
        return cls(RegistriesConf.load(environ, system), shortnames.recorded_aliases(environ), environ)

    @property
    def credential_helpers(self) -> tuple[str, ...]:
        """Where credentials are looked up, in order; `containers-auth.json` stands for the files. Empty: only there."""
        return self._conf.credential_helpers or ()

    @property
    def search(self) -> tuple[str, ...]:
        """The registries that are searched for short names; the first is what `login` means without an argument."""
        return self._conf.search or ()

    def names(self, text: str, choose: Choose | None = None) -> tuple[Reference, ...]:
        """What `text` may mean, to be tried in order: one for a name with a registry. Raises UsageError.

        `choose` is asked where a person sits at a terminal and the configuration leaves it to them.
        """
        if not shortnames.is_short(text):
            return (Reference.parse(text),)
        found = shortnames.candidates(text, self._conf, self._recorded)
        left = shortnames.choose_one(text, found, self._conf, choose)
        if len(left) < len(found):
            self._chosen[text] = left[0]
        return left

    def pulled(self, text: str, reference: Reference) -> None:
        """Note that `text` was pulled as `reference`: a choice that the user made is kept for the next time."""
        if self._chosen.get(text) == reference:
            shortnames.record(text, reference, self._environ)

    def of(self, reference: Reference) -> tuple[Location, ...]:
        """Where to ask for an image, in order: its mirrors, then its registry. Raises ImageError if it is blocked."""
        table = self._table(reference)
        if table is None:
            return (Location(reference),)
        skipped = MirrorUse.TAG_ONLY if reference.digest else MirrorUse.DIGEST_ONLY
        mirrors = [
            Location(_rewritten(reference, table, mirror.location), mirror.insecure, is_mirror=True)
            for mirror in table.mirrors
            if mirror.use is not skipped
        ]
        return (*mirrors, Location(_rewritten(reference, table, table.location), table.insecure))

    def push_location(self, reference: Reference) -> Location:
        """Where to push to: the name as it is, never a mirror or another location. Raises ImageError if blocked."""
        table = self._table(reference)
        return Location(reference, table.insecure if table is not None else False)

    def _table(self, reference: Reference) -> RegistryTable | None:
        text = str(reference)
        matching = [table for table in self._conf.registries.values() if matched(text, table.prefix) is not None]
        if not matching:
            return None
        table = max(matching, key=lambda one: len(one.prefix))
        if table.blocked:
            raise ImageError(f"{reference} is not allowed: the registry {table.prefix} is blocked in {table.origin}")
        return table


def matched(text: str, prefix: str) -> int | None:
    """How much of a complete reference a prefix covers, up to a `/`, `:` or `@` or its end; None if it does not match.

    `*.example.com` covers the host names below example.com, at any depth.
    """
    if prefix.startswith("*."):
        end = text.find(prefix[1:])
        if end < 0 or "/" in text[:end]:
            return None
        end += len(prefix) - 1
    elif text.startswith(prefix):
        end = len(prefix)
    else:
        return None
    return end if end == len(text) or text[end] in ":/@" else None


def _rewritten(reference: Reference, table: RegistryTable, location: str) -> Reference:
    text = str(reference)
    covered = matched(text, table.prefix)
    if not location or covered is None:  # a wildcard that rewrites nothing
        return reference
    rest = text[covered:]
    try:
        if "/" not in (location + rest):
            raise UsageError(f"{location + rest!r} has no repository")
        return Reference.parse(location + rest)
    except UsageError as error:
        raise UsageError(f"{table.origin} sends {reference} to a name that is malformed: {error.message}") from None
