"""policy.json as a document, and which names in signatures fit an image."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.image.requirements import (
    AcceptAnything,
    Match,
    Reject,
    SignedIdentity,
    SigstoreSigned,
    Unsupported,
    parse,
)
from rootless.oci.reference import Reference

DIGEST = "sha256:" + "a" * 64
ACCEPT = {"type": "insecureAcceptAnything"}
SIGSTORE = {"type": "sigstoreSigned", "keyPath": "/k.pub"}


def read(**members: Any) -> Any:
    return parse(json.dumps({"default": [ACCEPT], **members}).encode(), "/p.json")


def test_what_is_understood() -> None:
    pem = base64.b64encode(b"PEM").decode()
    rules = read(
        default=[{"type": "reject"}],
        transports={
            "docker": {
                "": [ACCEPT],
                "example.com": [SIGSTORE, {**SIGSTORE, "signedIdentity": {"type": "matchRepository"}}],
                "*.example.com": [{"type": "sigstoreSigned", "keyDatas": [pem]}],
                "gpg.example": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
            },
            "oci": {"/a/b": [ACCEPT]},
            "docker-archive": {"": [ACCEPT]},
            "something-new": {"whatever": [ACCEPT]},
        },
    )
    assert rules.default == (Reject(),)
    docker = rules.transports["docker"]
    assert docker[""] == (AcceptAnything(),)
    assert docker["example.com"] == (
        SigstoreSigned(("/k.pub",), (), SignedIdentity()),
        SigstoreSigned(("/k.pub",), (), SignedIdentity(Match.REPOSITORY)),
    )
    assert docker["*.example.com"] == (SigstoreSigned((), (b"PEM",), SignedIdentity()),)
    assert isinstance(docker["gpg.example"][0], Unsupported)


FULCIO = {"caPath": "/ca", "oidcIssuer": "x", "subjectEmail": "y"}


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ({"type": "signedBy", "keyType": "GPGKeys", "keyData": "AA=="}, "signedBy"),
        ({"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}, "signedBaseLayer"),
        ({"type": "sigstoreSigned", "fulcio": FULCIO, "rekorPublicKeyPath": "/r"}, "fulcio"),
        ({"type": "sigstoreSigned", "pki": {}}, "pki"),
        ({**SIGSTORE, "rekorPublicKeyData": "AA=="}, "rekorPublicKeyData"),
    ],
)
def test_what_is_named_and_accepts_nothing(rule: dict[str, Any], name: str) -> None:
    (requirement,) = read(default=[rule]).default
    assert isinstance(requirement, Unsupported) and name in requirement.name


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"default": []}',
        b'{"default": [1]}',
        b'{"default": {}}',
        b'{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}',
        b'{"default": [{"type": "reject"}], "Default": []}',
        b'{"default": [{"type": "reject", "type": "insecureAcceptAnything"}]}',
        b'{"default": [{"type": "reject"}], "transports": []}',
        b'{"default": [{"type": "reject"}], "transports": {"docker": []}}',
        b'{"default": [{"type": "reject"}], "transports": {"docker": {"a": []}}}',
        b'{"default": [{"type": "reject"}], "transports": {"docker-archive": {"/a": [{"type": "reject"}]}}}',
        b'{"default": [{"type": "reject"}], "transports": {"oci": {"a": [{"type": "reject"}]}}}',
        b'{"default": [{"type": "reject"}], "transports": {"oci": {"/": [{"type": "reject"}]}}}',
        b'{"default": [{"type": "reject"}], "transports": {"dir": {"/a/": [{"type": "reject"}]}}}',
        b'{"default": [{"type": "reject"}], "transports": {"dir": {"/a/../b": [{"type": "reject"}]}}}',
    ],
)
def test_malformed_documents(raw: bytes) -> None:
    with pytest.raises(UsageError, match=r"/p\.json is malformed"):
        parse(raw, "/p.json")


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "insecureacceptanything"},
        {"type": "insecureAcceptAnything", "more": 1},
        {"type": "reject", "keyPath": "/k"},
        {},
        {"type": ["reject"]},
        {"type": "sigstoreSigned"},
        {"type": "sigstoreSigned", "KeyPath": "/k"},
        {"type": "sigstoreSigned", "keyPath": ""},
        {"type": "sigstoreSigned", "keyPath": ["/k"]},
        {"type": "sigstoreSigned", "keyPaths": []},
        {"type": "sigstoreSigned", "keyPaths": "/k"},
        {"type": "sigstoreSigned", "keyData": "?"},
        {"type": "sigstoreSigned", "keyDatas": ["AAAA", 1]},
        {**SIGSTORE, "keyData": "AAAA"},
        {**SIGSTORE, "fulcio": FULCIO},
        {**SIGSTORE, "signedIdentity": None},
        {**SIGSTORE, "signedIdentity": {"type": "x"}},
        {**SIGSTORE, "signedIdentity": {"type": "matchExact", "more": 1}},
        {**SIGSTORE, "signedIdentity": {"type": "exactReference"}},
        {**SIGSTORE, "signedIdentity": {"type": "exactReference", "dockerReference": "a.example/b"}},
        {**SIGSTORE, "signedIdentity": {"type": "exactReference", "dockerReference": 1}},
        {**SIGSTORE, "signedIdentity": {"type": "exactRepository", "dockerRepository": "UPPER"}},
        {**SIGSTORE, "signedIdentity": {"type": "remapIdentity", "prefix": "a.example"}},
        {**SIGSTORE, "signedIdentity": {"type": "remapIdentity", "prefix": "a", "signedPrefix": "b.example"}},
        {**SIGSTORE, "signedIdentity": {"type": "remapIdentity", "prefix": "a.example/", "signedPrefix": "b.example"}},
        {"type": "signedBy", "keyPath": "/k"},
        {"type": "signedBy", "keyType": "GPGKeys"},
    ],
)
def test_malformed_rules(rule: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="malformed"):
        read(default=[rule])


@given(
    st.recursive(
        st.none() | st.text(max_size=5) | st.sampled_from(["reject", "type"]),
        lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["type", "default", "keyPath", "transports"]), x),
    )
)
def test_any_json(value: Any) -> None:
    try:
        parse(json.dumps({"default": value}).encode(), "x")
    except UsageError:
        pass


TAGGED, DIGESTED = "example.com/a/b:1", f"example.com/a/b@{DIGEST}"


@pytest.mark.parametrize(
    ("match", "values", "image", "signed", "fits"),
    [
        ("matchRepoDigestOrExact", (), TAGGED, "example.com/a/b:1", True),
        ("matchRepoDigestOrExact", (), TAGGED, "example.com/a/b:2", False),
        ("matchRepoDigestOrExact", (), TAGGED, "example.com/a/b", False),
        ("matchRepoDigestOrExact", (), TAGGED, "example.com/a/c:1", False),
        ("matchRepoDigestOrExact", (), DIGESTED, "example.com/a/b:2", True),
        ("matchRepoDigestOrExact", (), DIGESTED, "example.com/a/b", False),
        ("matchRepoDigestOrExact", (), f"example.com/a/b:1@{DIGEST}", "example.com/a/b:2", True),
        ("matchRepoDigestOrExact", (), "busybox:1", "busybox:1", True),
        ("matchRepoDigestOrExact", (), TAGGED, "NOT A NAME", False),
        ("matchRepoDigestOrExact", (), None, "example.com/a/b:1", False),
        ("matchExact", (), TAGGED, "example.com/a/b:1", True),
        ("matchExact", (), DIGESTED, "example.com/a/b:1", False),
        ("matchExact", (), DIGESTED, DIGESTED, True),
        ("matchExact", (), TAGGED, "example.com/a/b", False),
        ("matchRepository", (), TAGGED, "example.com/a/b", True),
        ("matchRepository", (), TAGGED, "example.com/a/b:7", True),
        ("matchRepository", (), TAGGED, "example.com/a", False),
        ("matchRepository", (), None, "example.com/a/b", False),
        ("exactReference", ("x.example/y:1",), TAGGED, "x.example/y:1", True),
        ("exactReference", ("x.example/y:1",), TAGGED, "example.com/a/b:1", False),
        ("exactReference", ("x.example/y:latest",), None, "x.example/y", False),
        ("exactRepository", ("x.example/y",), None, "x.example/y:3", True),
        ("exactRepository", ("x.example/y",), TAGGED, "x.example/z:3", False),
        ("remapIdentity", ("example.com/a", "up.example/z"), TAGGED, "up.example/z/b:1", True),
        ("remapIdentity", ("example.com/a", "up.example/z"), TAGGED, "example.com/a/b:1", False),
        ("remapIdentity", ("example.com/a", "up.example/z"), "example.com/ab:1", "example.com/ab:1", True),
        ("remapIdentity", ("example.com/a", "up.example/z"), DIGESTED, "up.example/z/b:4", True),
        ("remapIdentity", ("example.com/a", "up.example/z"), None, "up.example/z/b:4", False),
    ],
)
def test_names(match: str, values: tuple[str, ...], image: str | None, signed: str, fits: bool) -> None:
    reference = Reference.parse(image) if image else None
    assert SignedIdentity(Match(match), values).accepts(reference, signed) is fits
