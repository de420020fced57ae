"""registries.conf and its drop-ins: reading and merging (containers-registries.conf(5), version 2).

One main file, then drop-ins in lexical order:

    $CONTAINERS_REGISTRIES_CONF             main; drop-ins of the machine, then of the user
    ~/.config/containers/registries.conf    main, if it exists; drop-ins of the user only
    /etc/containers/registries.conf         main otherwise; drop-ins of the machine, then of the user

A drop-in's lists and modes replace what was there, a `[[registry]]` with the same prefix is replaced as a whole,
aliases are merged. Unknown members are ignored, as elsewhere, and noted in the log at level debug; version 1 (tables
below `registries`) is refused.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from rootless.errors import UsageError
from rootless.image import conffile
from rootless.image.conffile import SYSTEM
from rootless.oci.reference import has_registry, is_bare

_HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_KNOWN = frozenset(
    {"registry", "unqualified-search-registries", "credential-helpers", "short-name-mode", "aliases"}
    | {"additional-layer-store-auth-helper"}
)
_log = logging.getLogger(__name__)


class ShortNameMode(StrEnum):
    """What happens to a short name that may mean several images."""

    ENFORCING = "enforcing"
    PERMISSIVE = "permissive"
    DISABLED = "disabled"


class MirrorUse(StrEnum):
    """Which pulls a mirror serves (`pull-from-mirror`)."""

    ALL = "all"
    DIGEST_ONLY = "digest-only"
    TAG_ONLY = "tag-only"


@dataclass(frozen=True, slots=True)
class Mirror:
    """One `[[registry.mirror]]`."""

    location: str
    insecure: bool = False
    use: MirrorUse = MirrorUse.ALL


@dataclass(frozen=True, slots=True)
class RegistryTable:
    """One `[[registry]]`. `location` is empty for a wildcard prefix that rewrites nothing."""

    prefix: str
    location: str
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()
    origin: str = ""
    """The file, for messages."""


@dataclass(frozen=True, slots=True)
class Alias:
    """What a short name stands for: a name without tag and digest; empty takes an earlier alias away."""

    name: str
    origin: str


@dataclass(frozen=True, slots=True)
class RegistriesConf:
    """One file, or several merged. None: not said."""

    registries: Mapping[str, RegistryTable] = field(default_factory=dict)
    """By prefix."""
    search: tuple[str, ...] | None = None
    search_origin: str = ""
    credential_helpers: tuple[str, ...] | None = None
    mode: ShortNameMode | None = None
    aliases: Mapping[str, Alias] = field(default_factory=dict)

    @classmethod
    def load(cls, environ: Mapping[str, str], system: str = SYSTEM) -> RegistriesConf:
        """All files of this user and machine. Raises UsageError for one that is malformed or cannot be read."""
        main, drop_ins = paths(environ, system)
        required = main if "CONTAINERS_REGISTRIES_CONF" in environ or "REGISTRIES_CONFIG_PATH" in environ else None
        merged = cls()
        for path in (main, *drop_ins):
            raw = read(path)
            if raw is not None:
                merged = merged.updated(parse(raw, path))
            elif path == required:
                raise UsageError(f"the registries configuration {path} does not exist")
        return merged

    def updated(self, later: RegistriesConf) -> RegistriesConf:
        """This configuration with what a later file says."""
        merged = replace(
            self,
            registries={**self.registries, **later.registries},
            aliases={**self.aliases, **later.aliases},
            mode=later.mode or self.mode,
        )
        if later.search is not None:
            merged = replace(merged, search=later.search, search_origin=later.search_origin)
        if later.credential_helpers is not None:
            merged = replace(merged, credential_helpers=later.credential_helpers)
        return merged


def paths(environ: Mapping[str, str], system: str = SYSTEM) -> tuple[str, list[str]]:
    """The main file, whether it exists or not, and the drop-ins there are. Raises UsageError."""
    home = environ.get("HOME", "")
    user = os.path.join(home, ".config/containers/registries.conf") if home else ""
    explicit = environ.get("CONTAINERS_REGISTRIES_CONF") or environ.get("REGISTRIES_CONFIG_PATH")
    directories = [f"{user}.d"] if user else []
    if not explicit and user and os.path.exists(user):
        main = user
    else:
        main = explicit or f"{system}/registries.conf"
        directories.insert(0, f"{system}/registries.conf.d")
    drop_ins = []
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"cannot read the registries configuration in {directory}: {error.strerror}") from error
        drop_ins += [os.path.join(directory, name) for name in names if name.endswith(".conf")]
    return main, [path for path in drop_ins if not os.path.isdir(path)]


def credential_helpers(environ: Mapping[str, str], system: str = SYSTEM) -> tuple[str, ...]:
    """Where credentials are looked up, in order; empty, and nothing parsed, if no file says it. Raises UsageError."""
    main, drop_ins = paths(environ, system)
    if not any(b"credential-helpers" in (read(path) or b"") for path in (main, *drop_ins)):
        return ()
    return RegistriesConf.load(environ, system).credential_helpers or ()


def read(path: str) -> bytes | None:
    """The bytes of a file, None if there is none. Raises UsageError."""
    return conffile.read(path, "the registries configuration")


def parse(raw: bytes, path: str) -> RegistriesConf:
    """One file. Raises UsageError, which names it, if it is malformed."""
    document = toml(raw, path)
    if "registries" in document:
        raise UsageError(
            f"the registries configuration {path} is written in version 1 (tables below [registries])",
            hint="write it in version 2: unqualified-search-registries and [[registry]]",
        )
    for unknown in document.keys() - _KNOWN:
        _log.debug("%s: %r is not known", path, unknown)
    registries: dict[str, RegistryTable] = {}
    for table in _tables(document, "registry", path):
        entry = _registry(table, path)
        registries.setdefault(entry.prefix, entry)
        _check_conflicts(entry, registries.values(), path)
    search = _strings(document, "unqualified-search-registries", path)
    if search is not None:
        search = tuple(_location(host, path) for host in search)
        wrong = next((host for host in search if not _HOST.fullmatch(host)), None)
        if wrong is not None:
            raise _malformed(path, f"unqualified-search-registries names {wrong[:80]!r}, which is not a host[:port]")
    mode = _string(document, "short-name-mode", path)
    if mode and mode not in list(ShortNameMode):
        raise _malformed(path, f"short-name-mode is {mode[:40]!r}, and not enforcing, permissive or disabled")
    return RegistriesConf(
        registries=registries,
        search=search,
        search_origin=path if search is not None else "",
        credential_helpers=_strings(document, "credential-helpers", path),
        mode=ShortNameMode(mode) if mode else None,
        aliases=parse_aliases(document, path),
    )


def parse_aliases(document: Mapping[str, Any], path: str) -> dict[str, Alias]:
    """The table [aliases]: short names without tag or digest, and what they stand for. Raises UsageError."""
    table = document.get("aliases", {})
    if not isinstance(table, dict):
        raise _malformed(path, "aliases is not a table")
    aliases = {}
    for short, name in table.items():
        if not isinstance(name, str):
            raise _malformed(path, f"the alias {short[:80]!r} is not a string")
        if has_registry(short) or not is_bare(short):
            raise _malformed(path, f"the alias {short[:80]!r} is not a short name without registry, tag and digest")
        if name and not (has_registry(name) and is_bare(name)):
            raise _malformed(path, f"the alias {short[:80]!r} does not stand for a registry and a name without a tag")
        aliases[short] = Alias(name, path)
    return aliases


def _registry(table: Mapping[str, Any], path: str) -> RegistryTable:
    location = _location(_string(table, "location", path) or "", path)
    prefix = _location(_string(table, "prefix", path) or "", path) or location
    if not prefix:
        raise _malformed(path, "a [[registry]] has neither prefix nor location")
    wildcard = prefix.startswith("*.")
    if wildcard and any(mark in prefix for mark in "/@:"):
        raise _malformed(path, f"the wildcard prefix {prefix[:80]!r} is not of the form *.example.com")
    if not location and not wildcard:
        raise _malformed(path, f"the [[registry]] {prefix[:80]!r} has no location")
    if "pull-from-mirror" in table:
        raise _malformed(path, f"the [[registry]] {prefix[:80]!r} has pull-from-mirror, which belongs to a mirror")
    by_digest = _flag(table, "mirror-by-digest-only", path)
    mirrors = []
    for mirror in _tables(table, "mirror", path):
        where = _location(_string(mirror, "location", path) or "", path)
        if not where:
            raise _malformed(path, f"a mirror of {prefix[:80]!r} has no location")
        use = _string(mirror, "pull-from-mirror", path)
        if use and by_digest:
            raise _malformed(path, f"{prefix[:80]!r} has mirror-by-digest-only and its mirror {where} pull-from-mirror")
        if use and use not in list(MirrorUse):
            raise _malformed(path, f"pull-from-mirror of {where} is {use[:40]!r}, and not all, digest-only or tag-only")
        chosen = MirrorUse(use) if use else MirrorUse.DIGEST_ONLY if by_digest else MirrorUse.ALL
        mirrors.append(Mirror(where, _flag(mirror, "insecure", path), chosen))
    return RegistryTable(
        prefix, location, _flag(table, "insecure", path), _flag(table, "blocked", path), tuple(mirrors), path
    )


def _check_conflicts(entry: RegistryTable, others: Iterable[RegistryTable], path: str) -> None:
    """One physical place cannot be both trusted and not, whatever prefixes lead there."""
    for other in others:
        if (other.location or other.prefix) == (entry.location or entry.prefix):
            for name in ("insecure", "blocked"):
                if getattr(other, name) != getattr(entry, name):
                    where = entry.location or entry.prefix
                    raise _malformed(path, f"{where} is there several times with conflicting {name!r}")


def toml(raw: bytes, path: str) -> dict[str, Any]:
    """A TOML document. Raises UsageError."""
    import tomllib  # rarely needed, and not worth memory in the engine

    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(path, str(error)) from None


def _location(text: str, path: str) -> str:
    trimmed = text.rstrip("/")
    if trimmed.startswith(("http://", "https://")):
        raise _malformed(path, f"{text[:80]!r} has a scheme; write host[:port][/path]")
    return trimmed


def _tables(document: Mapping[str, Any], name: str, path: str) -> Sequence[Mapping[str, Any]]:
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _malformed(path, f"{name} is not an array of tables ([[{name}]])")
    return value


def _strings(document: Mapping[str, Any], name: str, path: str) -> tuple[str, ...] | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _malformed(path, f"{name} is not an array of strings")
    return tuple(value)


def _string(document: Mapping[str, Any], name: str, path: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise _malformed(path, f"{name} is not a string")
    return value


def _flag(document: Mapping[str, Any], name: str, path: str) -> bool:
    value = document.get(name, False)
    if not isinstance(value, bool):
        raise _malformed(path, f"{name} is neither true nor false")
    return value


def _malformed(path: str, reason: str) -> UsageError:
    return UsageError(f"the registries configuration {path} is malformed: {reason}")
