"""Documents that two readers could understand differently are refused: members repeated, or misspelt in case.

RFC 8259 section 4 leaves open what a repeated member means, and Go's `encoding/json` takes `Layers` for `layers`. What
one tool verifies, another would then run. Looked at once, when a document arrives; names that the user of a format
chooses (annotations, labels) may differ in case only.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NoReturn

import msgspec

from rootless.errors import ImageError
from rootless.oci.documents import (
    Descriptor,
    ExecutionConfig,
    Healthcheck,
    History,
    ImageConfig,
    Index,
    Manifest,
    RootFS,
)

_DOCUMENT = "document"  # a manifest or an index, whichever it turns out to be
_INSIDE: dict[tuple[object, str], object] = {
    (_DOCUMENT, "config"): Descriptor,
    (_DOCUMENT, "layers"): Descriptor,
    (_DOCUMENT, "manifests"): Descriptor,
    (ImageConfig, "config"): ExecutionConfig,
    (ImageConfig, "rootfs"): RootFS,
    (ImageConfig, "history"): History,
    (ExecutionConfig, "Healthcheck"): Healthcheck,
}


class _Object(list[tuple[str, Any]]):
    """A JSON object as it was written."""


def check_manifest(raw: bytes, what: str = "the manifest") -> None:
    """Raise ImageError if the members of a manifest or index are ambiguous."""
    _walk(_parsed(raw, what), _DOCUMENT, what)


def check_config(raw: bytes, what: str = "the image configuration") -> None:
    """Raise ImageError if the members of an image configuration are ambiguous."""
    _walk(_parsed(raw, what), ImageConfig, what)


def check_members(raw: bytes, what: str) -> None:
    """Raise ImageError if any JSON document repeats a member."""
    _walk(_parsed(raw, what), None, what)


def loads(raw: bytes) -> Any:
    """Any JSON, in Python's own types. Raises ValueError for what is none, or repeats a member, or is nested deeply."""
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _parsed(raw: bytes, what: str) -> Any:
    try:
        return json.loads(
            raw.decode(), object_pairs_hook=_Object, parse_int=float, parse_float=float, parse_constant=_refuse
        )
    except RecursionError:
        raise ImageError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ImageError(f"{what} is not JSON: {str(error)[:200]}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _walk(value: Any, kind: object, what: str) -> None:
    """`kind` says which members an object has; lists hand it on."""
    pending = [(value, kind)]
    while pending:
        value, kind = pending.pop()
        if isinstance(value, _Object):
            seen: set[str] = set()
            known = _members(kind) if kind is not None else {}
            for name, inner in value:
                if name in seen:
                    raise ImageError(f"{what} has the member {name[:60]!r} twice")
                seen.add(name)
                right = known.get(name.lower(), name)
                if right != name:
                    raise ImageError(f"{what} has the member {name[:60]!r}, which is not {right!r}")
                pending.append((inner, _INSIDE.get((kind, name))))
        elif isinstance(value, list):
            pending += [(inner, kind) for inner in value if isinstance(inner, list)]


@cache
def _members(kind: object) -> dict[str, str]:
    """The names that objects of a kind have, by their form in small letters."""
    kinds = (Manifest, Index) if kind is _DOCUMENT else (kind,)
    return {
        field.encode_name.lower(): field.encode_name
        for one in kinds
        for field in msgspec.structs.fields(one)  # type: ignore[arg-type]
    }
