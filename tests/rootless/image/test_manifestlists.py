"""Lists of images as they are edited."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import ImageError, UsageError
from rootless.image.conversion import Format
from rootless.image.manifestlists import ORIGIN, Changes, Entry, ManifestList, PlatformFields, entry_of
from rootless.oci.digest import Digest
from rootless.oci.documents import Document, Index, parse_manifest
from rootless.oci.mediatype import MediaType


def _entry(name: str, origin: str | None = None) -> Entry:
    return entry_of(Document(MediaType.OCI_MANIFEST, name.encode()), PlatformFields("arm64", "linux", "v8"), origin)


def _list(*names: str) -> ManifestList:
    images = ManifestList.empty()
    for name in names:
        images = images.with_entry(_entry(name))
    return images


def test_entries_come_and_go() -> None:
    images = _list("a", "b", "a")
    assert [entry.digest for entry in images.manifests] == [str(Digest.of(b"b")), str(Digest.of(b"a"))]
    assert images.without(Digest.of(b"b").hex[:12]) == _list("a")
    assert images.without(str(Digest.of(b"a"))) == _list("b")
    with pytest.raises(UsageError, match="has no image"):
        images.without("sha256:" + "0" * 64)
    with pytest.raises(UsageError, match="has no image"):
        images.without("")
    with pytest.raises(ImageError, match="cannot be in a list"):
        images.with_entry(Entry(MediaType.DOCKER_INDEX, str(Digest.of(b"c")), 1))


def test_descriptions() -> None:
    images = _list("a").described(
        str(Digest.of(b"a")), Changes(architecture="arm", variant="v7", os_features=("x",), annotations={"k": "v"})
    )
    document = json.loads(images.annotated({"of": "list"}).to_document().raw)
    assert document == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": str(Digest.of(b"a")),
                "size": 1,
                "platform": {"architecture": "arm", "os": "linux", "variant": "v7", "os.features": ["x"]},
                "annotations": {"k": "v"},
            }
        ],
        "annotations": {"of": "list"},
    }


def test_what_is_pushed_says_nothing_of_here() -> None:
    images = ManifestList.empty().with_entry(_entry("a", "quay.io/x"))
    assert images.manifests[0].origin == "quay.io/x"
    assert ORIGIN.encode() in images.to_document().raw and ORIGIN.encode() not in images.for_others().to_document().raw
    docker = images.annotated({"of": "list"}).for_others(Format.DOCKER).to_document()
    assert docker.media_type == MediaType.DOCKER_INDEX and b"annotations" not in docker.raw
    assert isinstance(parse_manifest(docker), Index)


def test_lists_of_other_tools_keep_what_they_say() -> None:
    raw = json.dumps(
        {
            "schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "annotations": None, "artifactType": "application/x",
            "subject": {"mediaType": "application/x", "digest": str(Digest.of(b"s")), "size": 1},
            "manifests": [{
                "mediaType": MediaType.OCI_MANIFEST, "digest": str(Digest.of(b"a")), "size": 1, "annotations": None,
                "platform": {"architecture": "amd64", "os": "windows", "os.version": "10.0", "os.features": None},
            }],
        }
    ).encode()  # fmt: skip
    images = ManifestList.parse(Document(MediaType.OCI_INDEX, raw))
    assert images.manifests[0].platform == PlatformFields("amd64", "windows", os_version="10.0")
    again = json.loads(images.to_document().raw)
    assert again["subject"]["digest"] == str(Digest.of(b"s")) and again["artifactType"] == "application/x"
    assert ManifestList.parse(images.to_document()) == images


@pytest.mark.parametrize("manifests", ["null", "3", '[{"digest":"x"}]', '[{"mediaType":"a","digest":"b","size":-1}]'])
def test_what_is_no_list(manifests: str) -> None:
    with pytest.raises(ImageError):
        ManifestList.parse(Document(MediaType.OCI_INDEX, b'{"schemaVersion":2,"manifests":%b}' % manifests.encode()))


@given(st.lists(st.sampled_from("abcdef")), st.lists(st.sampled_from("abcdef")))
def test_a_list_is_the_images_that_were_added_last(added: list[str], removed: list[str]) -> None:
    images = _list(*added)
    expected = list(dict.fromkeys(reversed(added)))[::-1]
    for name in removed:
        if name in expected:
            expected.remove(name)
            images = images.without(str(Digest.of(name.encode())))
    assert [entry.digest for entry in images.manifests] == [str(Digest.of(name.encode())) for name in expected]
