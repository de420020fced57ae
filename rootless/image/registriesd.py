"""registries.d: whether images of a registry have sigstore signatures beside them (containers-registries.d(5)).

Files `*.yaml` of ~/.config/containers/registries.d if that exists, else of /etc/containers/registries.d. Of everything
in them only `use-sigstore-attachments` matters here: `lookaside` and its kin are about signatures by GPG.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from rootless.errors import UsageError
from rootless.image.conffile import SYSTEM, read
from rootless.oci.reference import Reference

_SETTING = "use-sigstore-attachments"
_KNOWN = frozenset({"lookaside", "lookaside-staging", "sigstore", "sigstore-staging", _SETTING})


def scopes(reference: Reference) -> Iterator[str]:
    """What configurations may call an image: itself, its repository and parents, its host, `*.` domains of the host.

    The order of containers-policy.json(5), most specific first. With a tag and a digest, the digest alone counts.
    """
    version = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
    name = reference.name
    yield name + version
    while True:
        yield name
        parent, slash, _ = name.rpartition("/")
        if not slash:
            break
        name = parent
    host = name.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        yield f"*.{host}"


def uses_attachments(reference: Reference, environ: Mapping[str, str], system: str = SYSTEM) -> bool:
    """Whether signatures of this image are looked for beside it. Raises UsageError for a malformed file."""
    default, namespaces = _load(directory(environ, system))
    for scope in scopes(reference):
        setting = namespaces.get(scope, {}).get(_SETTING)
        if setting is not None:
            return bool(setting)
    return bool(default.get(_SETTING, False))


def directory(environ: Mapping[str, str], system: str = SYSTEM) -> str:
    """The directory that counts, whether it exists or not."""
    home = environ.get("HOME", "")
    user = os.path.join(home, ".config/containers/registries.d") if home else ""
    return user if user and os.path.exists(user) else f"{system}/registries.d"


def _load(path: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    try:
        files = sorted(name for name in os.listdir(path) if name.endswith(".yaml"))
    except (FileNotFoundError, NotADirectoryError):
        return {}, {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    default: dict[str, Any] | None = None
    namespaces: dict[str, dict[str, Any]] = {}
    for file in (os.path.join(path, name) for name in files):
        document = _parse(file)
        if document.get("default-docker") is not None:
            if default is not None:
                raise _malformed(file, "default-docker is in another file of the directory as well")
            default = _namespace(document["default-docker"], file)
        inner = document.get("docker")
        if inner is not None and not isinstance(inner, dict):
            raise _malformed(file, "docker is not a mapping")
        for scope, settings in (inner or {}).items():
            if scope in namespaces:
                raise _malformed(file, f"{str(scope)[:80]!r} is in another file of the directory as well")
            namespaces[scope] = _namespace(settings, file)
    return default or {}, namespaces


def _namespace(settings: Any, file: str) -> dict[str, Any]:
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise _malformed(file, "a scope is not a mapping")
    if not isinstance(settings.get(_SETTING), bool | None):
        raise _malformed(file, f"{_SETTING} is neither true nor false")
    return {key: value for key, value in settings.items() if key in _KNOWN}


def _parse(file: str) -> dict[str, Any]:
    import yaml  # rarely needed, and not worth memory in the engine

    class Unique(yaml.SafeLoader):
        """YAML that refuses a key that is there twice, and aliases, which can grow without bounds."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not supported")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
                raise yaml.YAMLError("a key is there twice, or is not a string")
            return super().construct_mapping(node, deep)

    try:
        document = yaml.load((read(file, "the signature configuration") or b"").decode(), Unique)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _malformed(file, " ".join(str(error).split())[:200]) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise _malformed(file, "it is not a mapping")
    return document


def _malformed(file: str, reason: str) -> UsageError:
    return UsageError(f"the signature configuration {file} is malformed: {reason}")
