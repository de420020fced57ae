"""Whom to trust: whether an image may be stored, as policy.json says (containers-policy.json(5)).

The file is ~/.config/containers/policy.json, else /etc/containers/policy.json; where there is neither, everything is
accepted. Of all scopes of an image, the most specific that is there counts, and all its requirements must accept.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from rootless.errors import ImageError, UsageError
from rootless.image import signatures as sigstore
from rootless.image.conffile import SYSTEM, read
from rootless.image.registriesd import directory, scopes, uses_attachments
from rootless.image.requirements import (
    AcceptAnything,
    Match,
    Reject,
    Requirement,
    Rules,
    SigstoreSigned,
    Unsupported,
    parse,
)
from rootless.image.source import Attachment, Identity
from rootless.oci.digest import Digest
from rootless.oci.reference import Reference

Signatures = Callable[[], Awaitable[Sequence[Attachment]]]
_TOLD = 3


class Policy:
    """The rules of one policy.json."""

    def __init__(
        self,
        rules: Rules | None = None,
        path: str = "",
        environ: Mapping[str, str] | None = None,
        system: str = SYSTEM,
    ) -> None:
        self._rules = rules
        self._path = path
        self._environ = environ or {}
        self._system = system

    @classmethod
    def load(cls, environ: Mapping[str, str], system: str = SYSTEM) -> Policy:
        """The policy as it is now; without a file everything is accepted. Raises UsageError for a malformed one."""
        home = environ.get("HOME", "")
        paths = [os.path.join(home, ".config/containers/policy.json")] if home else []
        for path in (*paths, f"{system}/policy.json"):
            raw = read(path, "the signature policy")
            if raw is not None:
                return cls(parse(raw, path), path, environ, system)
        return cls()

    async def check(self, identity: Identity, digest: Digest, signatures: Signatures) -> None:
        """Return if the image with this manifest digest is accepted; raises ImageError if it is not.

        To be asked for the manifest of the one image that is to be stored, before anything else of it is read.
        `signatures` is called only where a rule needs them. Raises UsageError for keys that cannot be used.
        """
        if self._rules is None:
            return
        for requirement in self._requirements(identity):
            if isinstance(requirement, AcceptAnything):
                continue
            if isinstance(requirement, SigstoreSigned):
                await self._check_signed(requirement, identity, digest, signatures)
            elif isinstance(requirement, Reject):
                raise self._refused(identity, "images of this scope are rejected")
            else:
                raise self._refused(identity, _unsupported(requirement))

    def _requirements(self, identity: Identity) -> tuple[Requirement, ...]:
        assert self._rules is not None
        lists = self._rules.transports.get(identity.transport)
        if lists is not None:
            for scope in (*_scopes(identity), ""):
                if scope in lists:
                    return lists[scope]
        return self._rules.default

    async def _check_signed(
        self, requirement: SigstoreSigned, identity: Identity, digest: Digest, signatures: Signatures
    ) -> None:
        pems = [(pem, "keyData in " + self._path) for pem in requirement.pems]
        for path in requirement.paths:
            raw = read(path, "the key")
            if raw is None:
                raise UsageError(f"the key {path}, which {self._path} trusts, does not exist")
            pems.append((raw, path))
        keys = [sigstore.load_key(pem, origin) for pem, origin in pems]
        reference = identity.reference
        if identity.transport == "docker":
            reference = reference or Reference.parse(identity.scope)
            if not uses_attachments(reference, self._environ, self._system):
                raise self._refused(
                    identity,
                    "it must be signed, and signatures are not looked for",
                    hint=f"set use-sigstore-attachments for it in {directory(self._environ, self._system)}",
                )
        found = [one for one in await signatures() if one.media_type == sigstore.MEDIA_TYPE]
        if not found:
            raise self._refused(identity, "it must be signed, and there is no signature of it")
        reasons: dict[str, None] = {}
        for attachment in found:
            try:
                sigstore.check(attachment, keys, digest, lambda name: requirement.identity.accepts(reference, name))
                return
            except sigstore.NotAccepted as error:
                reasons.setdefault(error.message)
        hint = None
        if requirement.identity.match is Match.REPO_DIGEST_OR_EXACT and any("for the name" in one for one in reasons):
            hint = "cosign signs repositories without tags: signedIdentity matchRepository accepts these"
        told = "; ".join(list(reasons)[:_TOLD])
        raise self._refused(identity, f"no signature of it is accepted: {told}", hint=hint)

    def _refused(self, identity: Identity, reason: str, *, hint: str | None = None) -> ImageError:
        name = identity.reference or f"{identity.transport}:{identity.scope}"
        return ImageError(f"{name} is not accepted by {self._path}: {reason}", hint=hint)


def _unsupported(requirement: Unsupported) -> str:
    return f"it asks for {requirement.name}, which cannot be verified here"


def _scopes(identity: Identity) -> Iterator[str]:
    """Most specific first, without the empty one."""
    if identity.transport == "docker":
        yield from scopes(identity.reference or Reference.parse(identity.scope))
        return
    path = identity.scope
    while path.startswith("/") and path != "/":
        yield path
        path = path.rpartition("/")[0]
