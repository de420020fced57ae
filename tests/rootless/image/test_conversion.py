"""Manifests in the other format, and with other layers."""

from __future__ import annotations

import pytest

from rootless.errors import ImageError
from rootless.image.conversion import Format, converted, format_of, media_type_in, repacked
from rootless.oci.digest import Digest
from rootless.oci.documents import Descriptor, Document, Manifest, parse_manifest
from rootless.oci.mediatype import MediaType

CONFIG = Descriptor(MediaType.OCI_CONFIG, Digest.of(b"config"), 6, {"of": "config"})
LAYERS = (
    Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(b"one"), 3, {"of": "one"}),
    Descriptor(MediaType.OCI_LAYER, Digest.of(b"two"), 3),
    Descriptor(MediaType.OCI_LAYER_ZSTD, Digest.of(b"three"), 5),
)
MANIFEST = Manifest(CONFIG, LAYERS, media_type=MediaType.OCI_MANIFEST, annotations={"a": "b"})


def _read(document: Document) -> Manifest:
    read = parse_manifest(document)
    assert isinstance(read, Manifest)
    return read


def test_there_and_back_again() -> None:
    docker = _read(converted(MANIFEST, Format.DOCKER))
    assert docker.media_type == MediaType.DOCKER_MANIFEST and docker.annotations is None
    assert docker.config == Descriptor(MediaType.DOCKER_CONFIG, CONFIG.digest, 6)
    assert [layer.media_type for layer in docker.layers or ()] == [
        MediaType.DOCKER_LAYER_GZIP, MediaType.DOCKER_LAYER, MediaType.DOCKER_LAYER_ZSTD,
    ]  # fmt: skip
    back = _read(converted(docker, Format.OCI))
    assert [(layer.media_type, layer.digest) for layer in back.layers or ()] == [
        (layer.media_type, layer.digest) for layer in LAYERS
    ]


def test_the_same_format_keeps_what_it_has_and_the_same_bytes() -> None:
    same = converted(MANIFEST, Format.OCI)
    read = _read(same)
    assert (read.config, read.layers, read.annotations) == (CONFIG, LAYERS, {"a": "b"})
    assert same == converted(MANIFEST, Format.OCI)
    assert b"null" not in same.raw


def test_other_layers() -> None:
    new = repacked(LAYERS[1], Digest.of(b"packed"), 6, "zstd")
    read = _read(converted(MANIFEST, Format.OCI, [LAYERS[0], new]))
    assert read.layers == (LAYERS[0], Descriptor(MediaType.OCI_LAYER_ZSTD, Digest.of(b"packed"), 6))


def test_formats_by_media_type() -> None:
    assert format_of(MediaType.DOCKER_INDEX) is Format.DOCKER
    assert format_of(MediaType.OCI_MANIFEST) is Format.OCI
    assert media_type_in(MediaType.OCI_INDEX, Format.DOCKER) == MediaType.DOCKER_INDEX
    with pytest.raises(ImageError, match="no 'application/x'"):
        media_type_in("application/x", Format.DOCKER)
