"""Short names: images named without a registry, and what they may stand for (containers-registries.conf(5)).

An alias is taken first: one that was recorded when the user chose (`short-name-aliases.conf`, in the user's cache),
then those of registries.conf. Without an alias, the registries of `unqualified-search-registries` are tried in order.
Where that list is empty, and so where nothing is configured, a short name belongs to docker.io, as with Docker; Podman
refuses it then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from rootless.errors import HostError, UsageError
from rootless.image import registriesconf
from rootless.image.conffile import SYSTEM
from rootless.image.lock import FileLock
from rootless.image.newfile import new_file
from rootless.image.registriesconf import Alias, RegistriesConf, ShortNameMode
from rootless.oci.reference import LOCAL_REGISTRY, Reference, has_registry

Choose = Callable[[Sequence[Reference]], Reference]
"""Asks the user which of several images a short name is to mean."""

_SEARCH = re.compile(rb"^[^#\n]*unqualified-search-registries", re.MULTILINE)
_TRIES = 3


def is_short(text: str) -> bool:
    """Whether `text` names an image without saying on which registry."""
    return not has_registry(text.partition("@")[0])


def split(text: str) -> tuple[str, str]:
    """A name, and its tag and digest with the marks in front: `a/b`, `:1@sha256:…`."""
    name, at, digest = text.partition("@")
    slash = name.rfind("/")
    colon = name.find(":", slash + 1)
    if colon < 0:
        return name, at + digest
    return name[:colon], name[colon:] + at + digest


def candidates(text: str, conf: RegistriesConf, recorded: Mapping[str, Alias]) -> tuple[Reference, ...]:
    """What a short name may stand for on registries, in order; one if it has an alias. Raises UsageError."""
    aliased = find_alias(text, conf, recorded)
    if aliased is not None:
        return (aliased,)
    return tuple(_on(registry, text) for registry in conf.search or ()) or (Reference.parse(text),)


def find_alias(text: str, conf: RegistriesConf, recorded: Mapping[str, Alias]) -> Reference | None:
    """What the short name is an alias of, with the tag and digest of `text`."""
    Reference.parse(text)
    name, rest = split(text)
    alias = recorded.get(name) or conf.aliases.get(name)
    return Reference.parse(alias.name + rest) if alias is not None and alias.name else None


def choose_one(
    text: str, found: tuple[Reference, ...], conf: RegistriesConf, choose: Choose | None
) -> tuple[Reference, ...]:
    """What is left of several candidates once the mode, and the user if there is one to ask, have had their say."""
    mode = conf.mode or ShortNameMode.PERMISSIVE
    if len(found) < 2 or mode is ShortNameMode.DISABLED:
        return found
    if choose is not None:
        return (choose(found),)
    if mode is ShortNameMode.ENFORCING:
        raise UsageError(
            f"the short name {text!r} may mean {len(found)} images, and {conf.search_origin} "
            "wants somebody at a terminal to choose",
            hint=f"write it in full, such as {found[0]}",
        )
    return found


def local_names(text: str, environ: Mapping[str, str], system: str = SYSTEM) -> tuple[Reference, ...]:
    """What `text` may be called in the store, in order: its alias, `localhost/`, the search list or docker.io.

    Cheap: nothing is parsed where no file has a search list or mentions the name. Raises UsageError.
    """
    reference = Reference.parse(text)
    if not is_short(text):
        return (reference,)
    local = _on(LOCAL_REGISTRY, text)
    if not _is_mentioned(text, environ, system):
        return local, reference
    conf = RegistriesConf.load(environ, system)
    aliased = find_alias(text, conf, recorded_aliases(environ))
    return (
        *((aliased,) if aliased is not None else ()),
        local,
        *([_on(registry, text) for registry in conf.search or ()] or [reference]),
    )


def _is_mentioned(text: str, environ: Mapping[str, str], system: str) -> bool:
    name = re.compile(rb"(?<![\w./-])" + re.escape(split(text)[0].encode()) + rb"(?![\w./-])")
    main, drop_ins = registriesconf.paths(environ, system)
    for path in (main, *drop_ins, aliases_path(environ)):
        raw = registriesconf.read(path) if path else None
        if raw is not None and (name.search(raw) or _SEARCH.search(raw) or b"\\" in raw):
            return True
    return False


def _on(registry: str, text: str) -> Reference:
    return Reference.parse(f"{registry}/{text}")


# what the user chose


def aliases_path(environ: Mapping[str, str]) -> str:
    """Where choices are recorded; empty if the user has no home."""
    cache = environ.get("XDG_CACHE_HOME") or (environ.get("HOME") and os.path.join(environ["HOME"], ".cache"))
    return os.path.join(cache, "containers/short-name-aliases.conf") if cache else ""


def recorded_aliases(environ: Mapping[str, str]) -> Mapping[str, Alias]:
    """The choices that were recorded, by us or by Podman. Raises UsageError for a malformed file."""
    path = aliases_path(environ)
    raw = registriesconf.read(path) if path else None
    return registriesconf.parse_aliases(registriesconf.toml(raw, path), path) if raw else {}


def record(text: str, reference: Reference, environ: Mapping[str, str]) -> None:
    """Remember that the short name `text` means `reference`, whatever their tags. Raises HostError, UsageError."""
    path = aliases_path(environ)
    if not path:
        return
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        lock = FileLock(path + ".lock")
        lock.acquire()
        try:
            aliases = {**recorded_aliases(environ), split(text)[0]: Alias(reference.name, path)}
            lines = [f'  "{name}" = "{alias.name}"\n' for name, alias in sorted(aliases.items())]
            with new_file(path) as file:
                file.write(("[aliases]\n" + "".join(lines)).encode())
        finally:
            lock.release()
    except OSError as error:
        raise HostError(f"cannot record in {path} what {text!r} means: {error.strerror}") from error


def ask_user(found: Sequence[Reference], answers: TextIO, screen: TextIO) -> Reference:
    """A numbered list on `screen`, and a number from `answers`. Raises UsageError if there is no usable answer."""
    screen.write("The short name may mean several images:\n")
    for number, reference in enumerate(found, 1):
        screen.write(f"  {number}  {reference}\n")
    for _ in range(_TRIES):
        screen.write(f"Which one [1-{len(found)}]? ")
        screen.flush()
        line = answers.readline()
        if not line:
            break
        if line.strip().isdecimal() and 1 <= int(line.strip()[:4]) <= len(found):
            return found[int(line.strip()[:4]) - 1]
    raise UsageError("no image was chosen", hint="write the name in full")
