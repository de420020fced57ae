"""The rules of policy.json, read strictly (containers-policy.json(5)).

Unknown, missing and repeated members are errors: a rule that is misunderstood is worse than none. Rules that cannot be
verified here (GPG signatures, certificates of Fulcio and other authorities, entries of a Rekor log) are read, kept by
name, and accept no image.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rootless.errors import UsageError
from rootless.image.signatures import Name
from rootless.oci.reference import Reference, has_registry
from rootless.oci.strict import loads

_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_REKOR = ("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")
_PATH_TRANSPORTS = frozenset({"oci", "oci-archive", "dir", "sif"})
_SCOPELESS = frozenset({"docker-archive", "docker-daemon"})


class Match(StrEnum):
    """How a signature's name must fit the image's (`signedIdentity`)."""

    REPO_DIGEST_OR_EXACT = "matchRepoDigestOrExact"
    EXACT = "matchExact"
    REPOSITORY = "matchRepository"
    EXACT_REFERENCE = "exactReference"
    EXACT_REPOSITORY = "exactRepository"
    REMAP = "remapIdentity"


@dataclass(frozen=True, slots=True)
class SignedIdentity:
    """Which names in signatures are accepted for an image. `values`: the reference or repository, or both prefixes."""

    match: Match = Match.REPO_DIGEST_OR_EXACT
    values: tuple[str, ...] = ()

    def accepts(self, image: Reference | None, signed: str) -> bool:
        """Whether a signature for the name `signed` counts for `image`; what has no name fits no rule that wants it."""
        found = Name.parse(signed)
        if found is None:
            return False
        if self.match is Match.EXACT_REFERENCE:
            return not found.is_bare and found.text == str(Reference.parse(self.values[0]))
        if self.match is Match.EXACT_REPOSITORY:
            return found.name == Reference.parse(self.values[0]).name
        if image is None:
            return False
        if self.match is Match.REMAP:
            prefix, replacement = self.values
            if image.name == prefix or image.name.startswith(prefix + "/"):
                try:
                    image = Reference.parse(replacement + str(image)[len(prefix) :])
                except UsageError:
                    return False
        own = Name.of(image)
        if self.match is Match.REPOSITORY:
            return found.name == own.name
        if found.is_bare:
            return False
        if image.digest and self.match is not Match.EXACT:
            return found.name == own.name  # the manifest's digest is compared anyway
        return found.text == own.text


@dataclass(frozen=True, slots=True)
class AcceptAnything:
    """`insecureAcceptAnything`."""


@dataclass(frozen=True, slots=True)
class Reject:
    """`reject`."""


@dataclass(frozen=True, slots=True)
class SigstoreSigned:
    """`sigstoreSigned` with public keys: their PEM, or the files it is in."""

    paths: tuple[str, ...]
    pems: tuple[bytes, ...]
    identity: SignedIdentity


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A rule that is understood and cannot be verified here."""

    name: str


Requirement = AcceptAnything | Reject | SigstoreSigned | Unsupported


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole policy.json: lists of rules by transport and scope, and the default."""

    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]]


def parse(raw: bytes, path: str) -> Rules:
    """Read a policy.json. Raises UsageError, which names `path`, if it is malformed."""
    try:
        document = loads(raw)
        _members(document, "the policy", {"default"}, {"transports"})
        transports = document.get("transports", {})
        _members(transports, "transports")
        return Rules(
            _requirements(document["default"], "default"),
            {transport: _scopes(scopes, transport) for transport, scopes in transports.items()},
        )
    except ValueError as error:
        raise UsageError(f"the signature policy {path} is malformed: {str(error)[:300]}") from None


def _scopes(scopes: Any, transport: str) -> dict[str, tuple[Requirement, ...]]:
    _members(scopes, f"the transport {transport[:40]!r}")
    for scope in filter(None, scopes):
        if transport in _SCOPELESS:
            raise ValueError(f"{transport} has no scopes but the empty one, and {scope[:80]!r} is there")
        if transport in _PATH_TRANSPORTS and (scope == "/" or scope[0] != "/" or os.path.normpath(scope) != scope):
            raise ValueError(f"{scope[:80]!r} is not a clean absolute path below /, as scopes of {transport} are")
    return {scope: _requirements(rules, f"{transport} {scope}"[:120]) for scope, rules in scopes.items()}


def _requirements(rules: Any, where: str) -> tuple[Requirement, ...]:
    if not isinstance(rules, list) or not rules:
        raise ValueError(f"{where!r} is not a list of at least one requirement")
    return tuple(_requirement(rule, where) for rule in rules)


def _requirement(rule: Any, where: str) -> Requirement:
    kind = rule.get("type") if isinstance(rule, dict) else None
    if kind == "insecureAcceptAnything":
        _members(rule, where, {"type"}, set())
        return AcceptAnything()
    if kind == "reject":
        _members(rule, where, {"type"}, set())
        return Reject()
    if kind == "signedBy":
        _members(rule, where, {"type", "keyType"}, {"keyPath", "keyPaths", "keyData", "signedIdentity"})
        _one_of(rule, where, "keyPath", "keyPaths", "keyData")
        _identity(rule, where)
        return Unsupported("signedBy (signatures by GPG)")
    if kind == "signedBaseLayer":
        _members(rule, where, {"type", "baseLayerIdentity"}, set())
        return Unsupported("signedBaseLayer")
    if kind == "sigstoreSigned":
        return _sigstore(rule, where)
    raise ValueError(f"{where!r} has a requirement of an unknown type: {str(kind)[:60]!r}")


def _sigstore(rule: dict[str, Any], where: str) -> Requirement:
    _members(rule, where, {"type"}, {*_KEYS, *_REKOR, "fulcio", "pki", "signedIdentity"})
    source = _one_of(rule, where, *_KEYS, "fulcio", "pki")
    identity = _identity(rule, where)
    rekor = next((name for name in _REKOR if name in rule), None)
    if source in ("fulcio", "pki"):
        return Unsupported(f"sigstoreSigned with {source}")
    value = rule[source]
    many = source.endswith("s")
    values = value if many else [value]
    if not isinstance(values, list) or not values or not all(isinstance(one, str) and one for one in values):
        raise ValueError(f"{where!r}: {source} is not {'a list of strings' if many else 'a string'}")
    if rekor:
        return Unsupported(f"sigstoreSigned with {rekor}")
    if source.startswith("keyPath"):
        return SigstoreSigned(tuple(values), (), identity)
    try:
        return SigstoreSigned((), tuple(base64.b64decode(one, validate=True) for one in values), identity)
    except (binascii.Error, ValueError):
        raise ValueError(f"{where!r}: {source} is not base64") from None


def _identity(rule: Any, where: str) -> SignedIdentity:
    if "signedIdentity" not in rule:
        return SignedIdentity()
    rule = rule["signedIdentity"]
    kind = rule.get("type") if isinstance(rule, dict) else None
    if kind not in list(Match):
        raise ValueError(f"{where!r} has a signedIdentity of an unknown type: {str(kind)[:60]!r}")
    match = Match(kind)
    names = {
        Match.EXACT_REFERENCE: ("dockerReference",),
        Match.EXACT_REPOSITORY: ("dockerRepository",),
        Match.REMAP: ("prefix", "signedPrefix"),
    }.get(match, ())
    _members(rule, where, {"type", *names}, set())
    values = tuple(rule[name] for name in names)
    for name, value in zip(names, values, strict=True):
        parsed = Name.parse(f"{value}/x" if match is Match.REMAP else value) if isinstance(value, str) else None
        if parsed is None:
            raise ValueError(f"{where!r}: {name} is malformed")
        if match is Match.EXACT_REFERENCE and parsed.is_bare:
            raise ValueError(f"{where!r}: {name} has neither tag nor digest")
        if match is Match.REMAP and not has_registry(f"{value}/x"):
            raise ValueError(f"{where!r}: {name} does not begin with a registry")
    return SignedIdentity(match, values)


def _one_of(rule: Mapping[str, Any], where: str, *names: str) -> str:
    found = [name for name in names if name in rule]
    if len(found) != 1:
        raise ValueError(f"{where!r} must have exactly one of {', '.join(names)}")
    return found[0]


def _members(value: Any, what: str, needed: set[str] | None = None, allowed: set[str] | None = None) -> None:
    """Without names, any members are fine."""
    if not isinstance(value, dict):
        raise ValueError(f"{what!r} is not an object")
    if needed is None:
        return
    missing = needed - value.keys()
    if missing:
        raise ValueError(f"{what!r} has no {sorted(missing)[0]!r}")
    unknown = value.keys() - needed - (allowed or set())
    if unknown:
        raise ValueError(f"{what!r} has a member that is not known: {sorted(unknown)[0][:60]!r}")
