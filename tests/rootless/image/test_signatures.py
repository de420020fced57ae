"""Signatures that count, and those that do not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.image.signatures import ANNOTATION, MEDIA_TYPE, NotAccepted, check, load_key, parse_payload, verify
from rootless.image.source import Attachment
from rootless.oci.digest import Digest
from tests.kit.signing import attachment, new_key, payload, public_pem, sign

DIGEST = Digest.of(b"manifest")
NAME = "example.com/a/b:1"


def is_name(name: str) -> bool:
    return name == NAME


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519", "rsa2048"])
def test_each_kind_of_key(kind: str) -> None:
    key, other = new_key(kind), new_key("p256")
    keys = [load_key(public_pem(other), "other"), load_key(public_pem(key), "key")]
    raw = payload(str(DIGEST), NAME)
    check(attachment(key, raw), keys, DIGEST, is_name)
    for wrong in (attachment(new_key(kind), raw), Attachment(MEDIA_TYPE, raw + b" ", attachment(key, raw).annotations)):
        with pytest.raises(NotAccepted, match="not made with the key"):
            check(wrong, keys, DIGEST, is_name)
    with pytest.raises(NotAccepted, match="for the manifest"):
        check(attachment(key, raw), keys, Digest.of(b"other"), is_name)
    with pytest.raises(NotAccepted, match="for the name"):
        check(attachment(key, raw), keys, DIGEST, lambda name: False)


@pytest.mark.parametrize("kind", ["p224", "secp256k1", "rsa1024"])
def test_weak_and_strange_keys(kind: str) -> None:
    with pytest.raises(UsageError, match="of a kind that is not trusted"):
        load_key(public_pem(new_key(kind)), "/k.pub")


@pytest.mark.parametrize("pem", [b"", b"x", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key(pem: bytes) -> None:
    with pytest.raises(UsageError, match=r"/k\.pub is not a public key"):
        load_key(pem, "/k.pub")


def test_annotations() -> None:
    key = new_key()
    raw = payload(str(DIGEST), NAME)
    keys = [load_key(public_pem(key), "")]
    good = base64.b64encode(sign(key, raw)).decode()
    check(Attachment(MEDIA_TYPE, raw, {ANNOTATION: good[:20] + "\r\n" + good[20:]}), keys, DIGEST, is_name)
    for wrong in ({}, {ANNOTATION: "?"}, {ANNOTATION: ""}, {ANNOTATION: good[:-2]}, {ANNOTATION: "A" * 100_000}):
        with pytest.raises(NotAccepted):
            check(Attachment(MEDIA_TYPE, raw, wrong), keys, DIGEST, is_name)
    assert not verify([], raw, sign(key, raw))
    huge = payload(str(DIGEST), NAME, x="y" * (4 << 20))
    with pytest.raises(NotAccepted, match="too large"):
        check(attachment(key, huge), keys, DIGEST, is_name)


# skopeo 1.18 generate-sigstore-key, and copy --sign-by-sigstore-private-key --sign-identity …
SKOPEO_KEY = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEBnBuJi4tmwstHaPso29C4HWc353q
CmIG7rB9g/0AHbtuS/unLnhHag8yMYKmtu5fRhkHhZO4oeeoAoUlskSjng==
-----END PUBLIC KEY-----
"""
SKOPEO_DIGEST = "sha256:946721a61a3446ec5f9966e9aaace2944525e5aed29b0a41213e72c708e3c3a2"
SKOPEO_PAYLOAD = (
    b'{"critical":{"identity":{"docker-reference":"registry.example.org/team/signed:1"},"image":'
    b'{"docker-manifest-digest":"' + SKOPEO_DIGEST.encode() + b'"},"type":"cosign container image signature"},'
    b'"optional":{"creator":"containers/image 5.34.2","timestamp":1795543194}}'
)
SKOPEO_SIGNATURE = "MEUCIQCe09qYVUoWYLAUYje6CIvHH6RPWVmO21kAnT4wz+x6BwIgBuqEyNedS/hWS2hxALm9AqW2W5b9LsqZ95TqWhkDgmM="


def test_signed_by_skopeo() -> None:
    keys = [load_key(SKOPEO_KEY, "")]
    signature = Attachment(MEDIA_TYPE, SKOPEO_PAYLOAD, {ANNOTATION: SKOPEO_SIGNATURE})
    check(signature, keys, Digest.parse(SKOPEO_DIGEST), lambda name: name == "registry.example.org/team/signed:1")


def changed(**members: Any) -> bytes:
    document = json.loads(payload(str(DIGEST), NAME))
    for path, value in members.items():
        inner = document
        *parents, last = path.split("__")
        for parent in parents:
            inner = inner[parent.replace("_", "-")]
        inner[last.replace("_", "-")] = value
    return json.dumps(document).encode()


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\xff",
    b"[" * 100_000,
    payload(str(DIGEST), NAME) + b"{}",
    payload(str(DIGEST), NAME).replace(b'"critical"', b'"Critical"'),
    payload(str(DIGEST), NAME).replace(b'"optional": null', b'"optional": null, "critical": {}'),
    payload(str(DIGEST), NAME).replace(b'"identity"', b'"identity": {"docker-reference": "evil"}, "identity"'),
    payload(str(DIGEST), NAME).replace(
        b'"docker-manifest-digest"', b'"docker-manifest-digest": "x", "docker-manifest-digest"'
    ),
    changed(more=1),
    changed(critical=None),
    changed(critical__more=1),
    changed(critical__type="atomic container signature"),
    changed(critical__type=["cosign container image signature"]),
    changed(critical__image__more=1),
    changed(critical__image__docker_manifest_digest="sha256:abc"),
    changed(critical__image__docker_manifest_digest=None),
    changed(critical__identity__docker_reference=1),
    changed(critical__identity={}),
    changed(optional=[]),
    changed(optional={"creator": 1}),
    changed(optional={"timestamp": 1.5}),
    changed(optional={"timestamp": True}),
    payload(str(DIGEST), NAME, timestamp=1).replace(b": 1}", b": 1e999}"),
    payload(str(DIGEST), NAME, timestamp=1).replace(b": 1}", b": NaN}"),
    payload(str(DIGEST), NAME, timestamp=1).replace(b": 1}", b": " + b"1" * 5000 + b"}"),
]


@pytest.mark.parametrize("raw", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_payloads(raw: bytes) -> None:
    key = new_key()
    with pytest.raises(NotAccepted, match=r"malformed|is not a cosign"):
        check(attachment(key, raw), [load_key(public_pem(key), "")], DIGEST, lambda name: True)


def test_optional_members() -> None:
    for raw in (payload(str(DIGEST), NAME, creator="me", timestamp=17, other=[1]), changed(optional={})):
        assert parse_payload(raw).digest == DIGEST


@given(st.binary(max_size=300))
def test_any_payload(raw: bytes) -> None:
    with pytest.raises(NotAccepted):
        parse_payload(raw)
