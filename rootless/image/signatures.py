"""Sigstore signatures of container images: what is signed, with which key, and for which name.

A signature is over a small JSON payload (cosign's `SIGNATURE_SPEC.md`, "simple signing") that names a manifest digest
and an image. All of it is hostile: first the signature is verified over the payload's bytes, then the payload is read,
strictly, and last its digest and its name are compared. Keys are ECDSA (P-256, P-384, P-521), RSA (PKCS #1 v1.5) and
Ed25519, the digest is SHA-256, as containers/image has it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rootless.errors import ImageError, UsageError
from rootless.image.shortnames import split
from rootless.image.source import Attachment
from rootless.oci.digest import Digest
from rootless.oci.reference import Reference
from rootless.oci.strict import loads

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey

MEDIA_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
PAYLOAD_MAX = 4 << 20
_SIGNATURE_MAX = 64 << 10
_TYPE = "cosign container image signature"
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_RSA_MIN = 2048


class NotAccepted(ImageError):
    """A signature that does not count, and why."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What a verified signature says: this manifest is that image."""

    digest: Digest
    identity: str


def load_key(pem: bytes, origin: str) -> PublicKey:
    """A public key in PEM. Raises UsageError, which names `origin`, for anything else and for weak ones."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError(f"{origin} is not a public key in PEM") from None
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_MIN:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise UsageError(f"{origin} is a public key of a kind that is not trusted: use ECDSA, Ed25519, or RSA of 2048 bits")


def verify(keys: Sequence[PublicKey], payload: bytes, signature: bytes) -> bool:
    """Whether one of the keys made this signature of the payload."""
    return any(_is_by(key, payload, signature) for key in keys)


def _is_by(key: PublicKey, payload: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, payload)
    except InvalidSignature:
        return False
    return True


def check(
    attachment: Attachment, keys: Sequence[PublicKey], digest: Digest, is_identity: Callable[[str], bool]
) -> None:
    """Return if the attachment is a signature of the manifest `digest`, by one of `keys`, for an accepted name.

    Raises NotAccepted.
    """
    encoded = attachment.annotations.get(ANNOTATION)
    if not isinstance(encoded, str):
        raise NotAccepted(f"it has no annotation {ANNOTATION}")
    if len(attachment.payload) > PAYLOAD_MAX or len(encoded) > _SIGNATURE_MAX:
        raise NotAccepted("it is too large")
    try:
        signature = base64.b64decode(encoded.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        raise NotAccepted("it is not base64") from None
    if not verify(keys, attachment.payload, signature):
        raise NotAccepted("it was not made with the key that is trusted")
    payload = parse_payload(attachment.payload)
    if payload.digest != digest:
        raise NotAccepted(f"it is for the manifest {payload.digest}")
    if not is_identity(payload.identity):
        raise NotAccepted(f"it is for the name {payload.identity[:200]!r}")


def parse_payload(raw: bytes) -> Payload:
    """A payload, after its signature was verified. Raises NotAccepted for one that could be read in two ways."""
    try:
        document = loads(raw)
    except ValueError as error:
        raise NotAccepted(f"what it signs is malformed: {str(error)[:200]}") from None
    critical, optional = _exactly(document, "critical", "optional")
    if optional is not None:
        _check_optional(optional)
    kind, image, identity = _exactly(critical, "type", "image", "identity")
    (digest,) = _exactly(image, "docker-manifest-digest")
    (name,) = _exactly(identity, "docker-reference")
    if kind != _TYPE:
        raise NotAccepted(f"what it signs is not a {_TYPE}")
    if not isinstance(digest, str) or not isinstance(name, str):
        raise NotAccepted("what it signs is malformed: digest and name are strings")
    try:
        return Payload(Digest.parse(digest), name)
    except ImageError as error:
        raise NotAccepted(f"what it signs is malformed: {error.message}") from None


def _check_optional(optional: Any) -> None:
    if not isinstance(optional, dict):
        raise NotAccepted("what it signs is malformed: `optional` is not an object")
    if not isinstance(optional.get("creator", ""), str):
        raise NotAccepted("what it signs is malformed: `creator` is not a string")
    time = optional.get("timestamp", 0)
    if isinstance(time, bool) or not isinstance(time, int | float) or time != time // 1:
        raise NotAccepted("what it signs is malformed: `timestamp` is not an integer")


def _exactly(document: Any, *names: str) -> list[Any]:
    if not isinstance(document, dict) or document.keys() != set(names):
        raise NotAccepted(f"what it signs is malformed: exactly {', '.join(names)} must be there")
    return [document[name] for name in names]


@dataclass(frozen=True, slots=True)
class Name:
    """A reference as it was written: `text` in full, `name` without tag and digest, and whether it has one of them."""

    text: str
    name: str
    is_bare: bool

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """None for what is no reference."""
        try:
            reference = Reference.parse(text)
        except UsageError:
            return None
        return cls(str(reference), reference.name, not split(text)[1])

    @classmethod
    def of(cls, reference: Reference) -> Name:
        """An image's own name. With a tag and a digest, the digest alone counts, as it does when images are fetched."""
        if reference.digest:
            reference = reference.with_digest(reference.digest)
        return cls(str(reference), reference.name, False)
