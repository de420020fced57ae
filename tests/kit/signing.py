"""Signatures of images, as cosign and skopeo make them: good ones and hostile ones."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rootless.image.signatures import ANNOTATION, MEDIA_TYPE
from rootless.image.source import Attachment

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def new_key(kind: str = "p256") -> PrivateKey:
    """A key pair: p224, p256, p384, p521, secp256k1, ed25519, rsa1024, rsa2048."""
    curves: dict[str, ec.EllipticCurve] = {
        "p224": ec.SECP224R1(),
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
        "p521": ec.SECP521R1(),
        "secp256k1": ec.SECP256K1(),
    }
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def public_pem(key: PrivateKey) -> bytes:
    """What policy.json's keyPath names."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def payload(digest: str, identity: str, **optional: Any) -> bytes:
    """What is signed."""
    critical = {
        "type": "cosign container image signature",
        "image": {"docker-manifest-digest": digest},
        "identity": {"docker-reference": identity},
    }
    return json.dumps({"critical": critical, "optional": optional or None}).encode()


def sign(key: PrivateKey, raw: bytes) -> bytes:
    """The signature of some bytes."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(raw, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(raw, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(raw)


def attachment(key: PrivateKey, raw: bytes) -> Attachment:
    """A signature as a source gives it."""
    return Attachment(MEDIA_TYPE, raw, {ANNOTATION: base64.b64encode(sign(key, raw)).decode()})
