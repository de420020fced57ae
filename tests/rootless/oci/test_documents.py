"""Manifests, indexes and configurations: what is read, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import ImageError
from rootless.oci.digest import Digest
from rootless.oci.documents import (
    CONFIG_MAX,
    MANIFEST_MAX,
    Descriptor,
    Document,
    Index,
    Manifest,
    encode,
    parse_config,
    parse_layout_index,
    parse_manifest,
    parse_time,
    sniff_media_type,
)
from rootless.oci.mediatype import MediaType
from rootless.oci.platform import Platform

BLOB = {"mediaType": MediaType.OCI_LAYER_GZIP, "digest": str(Digest.of(b"")), "size": 3}
CONFIG = {**BLOB, "mediaType": MediaType.OCI_CONFIG}


def manifest(kind: str = MediaType.OCI_MANIFEST, **changes: Any) -> Document:
    fields = {"schemaVersion": 2, "mediaType": kind, "config": CONFIG, "layers": [BLOB], **changes}
    return Document(kind, json.dumps({key: value for key, value in fields.items() if value is not ...}).encode())


def test_manifests() -> None:
    for kind in (MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST):
        parsed = parse_manifest(manifest(kind))
        assert isinstance(parsed, Manifest) and parsed.layers is not None
        assert parsed.layers[0].digest == Digest.of(b"")
    parsed = parse_manifest(manifest(layers=None, mediaType=..., annotations=None))
    assert isinstance(parsed, Manifest) and not parsed.layers


def test_indexes() -> None:
    entry = {**BLOB, "platform": {"os": "linux", "architecture": "arm", "variant": "v6"}, "urls": None}
    for kind in (MediaType.OCI_INDEX, MediaType.DOCKER_INDEX):
        document = Document(kind, json.dumps({"schemaVersion": 2, "manifests": [entry, BLOB]}).encode())
        parsed = parse_manifest(document)
        assert isinstance(parsed, Index)
        assert [one.platform for one in parsed.manifests] == [Platform("linux", "arm", "v6"), None]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (manifest(config=None), "not valid"),
        (manifest(config=...), "not valid"),
        (manifest(layers=[{**BLOB, "size": -1}]), "not valid"),
        (manifest(layers=[{**BLOB, "size": 2**63}]), "not valid"),
        (manifest(layers=[{**BLOB, "size": 1e30}]), "not valid"),
        (manifest(layers=[{**BLOB, "digest": "sha256:../../etc"}]), "not a digest"),
        (manifest(layers=[BLOB] * 1001), "not valid"),
        (manifest(schemaVersion=1), "schema version 1"),
        (manifest(manifests=[]), "has a list of manifests"),
        (manifest(mediaType=MediaType.OCI_INDEX), "says of itself"),
        (Document(MediaType.OCI_INDEX, manifest(mediaType=..., manifests=[]).raw), "has layers"),
        (Document(MediaType.OCI_MANIFEST, b""), "not JSON"),
        (Document(MediaType.OCI_MANIFEST, b"\xff\xfe"), "not JSON"),
        (Document(MediaType.OCI_MANIFEST, b"null"), "not valid"),
        (Document(MediaType.OCI_MANIFEST, b'{"config":' + b'{"a":' * 100_000), "nested too deeply|not valid|not JSON"),
        (Document(MediaType.OCI_MANIFEST, b'{"x":' + b"[" * 100_000), "nested too deeply"),
        (Document(MediaType.OCI_MANIFEST, b" " * (MANIFEST_MAX + 1)), "limit"),
        (Document("application/vnd.docker.distribution.manifest.v1+prettyjws", b"{}"), "obsolete"),
        (Document("text/html", b"<html>"), "not a container image"),
    ],
)
def test_what_is_refused(document: Document, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        parse_manifest(document)


def test_configurations() -> None:
    raw = json.dumps(
        {
            "architecture": "arm64", "variant": "v8", "os": "linux", "created": "2024-01-02T03:04:05.123456789Z",
            "config": {
                "User": "1000:1000", "ExposedPorts": {"80/tcp": {}}, "Env": ["A=b"], "Entrypoint": None, "Cmd": ["x"],
                "Volumes": {"/data": {}}, "WorkingDir": "/w", "Labels": {"a": "b"}, "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000}, "Unknown": [1, {}],
            },
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b"a"))]},
            "history": [{"created_by": "x", "empty_layer": True}],
        }
    ).encode()  # fmt: skip
    parsed = parse_config(raw)
    assert str(parsed.platform) == "linux/arm64"
    assert parsed.config.user == "1000:1000" and parsed.config.exposed_ports == {"80/tcp": {}}
    assert parsed.config.entrypoint is None and parsed.config.cmd == ("x",)
    assert parsed.config.healthcheck is not None and parsed.config.healthcheck.interval == 30_000_000_000
    assert parsed.diff_ids == (Digest.of(b"a"),)
    assert parsed.created_at == datetime(2024, 1, 2, 3, 4, 5, 123456, UTC)
    empty = parse_config(b'{"config":null,"rootfs":{"diff_ids":null}}')
    assert empty.config.env is None and empty.diff_ids == ()


@pytest.mark.parametrize("raw", [b"[]", b'{"config":[]}', b'{"rootfs":{"diff_ids":["x"]}}', b" " * (CONFIG_MAX + 1)])
def test_configurations_that_are_refused(raw: bytes) -> None:
    with pytest.raises(ImageError):
        parse_config(raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_document_or_an_image_error(raw: bytes) -> None:
    for parse in (
        parse_config,
        parse_layout_index,
        sniff_media_type,
        lambda raw: parse_manifest(Document(MediaType.OCI_INDEX, raw)),
        lambda raw: parse_manifest(Document(MediaType.OCI_MANIFEST, raw)),
    ):
        try:
            parse(raw)
        except ImageError:
            pass


def test_sniffing() -> None:
    assert sniff_media_type(b'{"mediaType":"a"}') == "a"
    assert sniff_media_type(b'{"manifests":[]}') == MediaType.OCI_INDEX
    assert sniff_media_type(b'{"config":{}}') == MediaType.OCI_MANIFEST
    assert sniff_media_type(b"{}") == ""


def test_our_own_documents_survive() -> None:
    descriptor = Descriptor(MediaType.OCI_MANIFEST, Digest.of(b"x"), 5, {"a": "ü"})
    index = Index(manifests=(descriptor,), media_type=MediaType.OCI_INDEX)
    raw = encode(index)
    assert parse_layout_index(raw) == index
    assert set(json.loads(raw)) == {"schemaVersion", "mediaType", "manifests"}
    assert set(json.loads(raw)["manifests"][0]) == {"mediaType", "digest", "size", "annotations"}


@pytest.mark.parametrize("text", ["", None, "yesterday", "2024-13-01T00:00:00Z"])
def test_times_that_are_none(text: str | None) -> None:
    assert parse_time(text) is None


def test_times() -> None:
    assert parse_time("2024-01-02T03:04:05Z") == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert parse_time("2024-01-02T03:04:05.5+02:00") == datetime(2024, 1, 2, 1, 4, 5, 500000, UTC)
