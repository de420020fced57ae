"""Any bytes in the place of a layer, a document, an archive or a word: one sentence, or it works. See ordeal.py."""

from __future__ import annotations

import json
import resource
import tarfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootless.errors import RcontainError
from rootless.image.index import LayerIndex
from rootless.oci.tar import TarEntry, TarParser
from tests.kit import images
from tests.kit.userns import in_namespaces
from tests.rootless.image import ordeal

FORMS = (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
ENTRIES = 300_000


def sample(form: int) -> bytes:
    """A small layer with everything in it."""
    return images.tar(
        [
            images.directory("d", mode=0o2750),
            images.hardlink("early", "d/f"),
            images.file("d/f", b"content" * 100, mode=0o4711),
            images.hardlink("d/g", "d/f"),
            images.symlink("l", "../../etc"),
            images.file("l/x", b"through a link"),
            images.fifo("p"),
            images.device("null", 1, 3),
            images.file("d/.wh.gone"),
            images.file("o/.wh..wh..opq"),
            images.file("n" * 99, b"x"),
        ],
        form,
    )


def damaged(raw: bytes, random: Random) -> bytes:
    """Some bytes changed, removed, repeated or cut off."""
    blocks = bytearray(raw)
    for _ in range(random.randrange(1, 8)):
        at = random.randrange(len(blocks))
        match random.randrange(5):
            case 0:
                blocks[at] = random.randrange(256)
            case 1:
                blocks[at : at + 8] = random.choice((b"\xff" * 8, b"77777777", b"../../..", b"\0" * 8))
            case 2:
                start = at // 512 * 512
                blocks[start:start] = blocks[start : start + 512]
            case 3:
                del blocks[at // 512 * 512 : at // 512 * 512 + 512]
            case _:
                blocks[at:] = b"" if len(blocks) > 2048 and random.random() < 0.2 else blocks[at:]
        if not blocks:
            blocks = bytearray(512)
    return bytes(blocks)


@pytest.mark.userns
def test_damaged_layers_in_both_forms(tmp_path: Path) -> None:
    """With right checksums, so that the damage gets through. A tree is made as root of a user namespace."""

    def work() -> int:
        survived = 0
        for seed in range(500):
            random = Random(seed)
            raw = ordeal.with_checksums(damaged(sample(random.choice(FORMS)), random))
            try:
                ordeal.layer(raw, str(tmp_path))
                survived += 1
            except RcontainError as error:
                assert error.message, seed
        return survived

    assert in_namespaces(work) > 10
    assert not list(tmp_path.iterdir())


@given(st.binary(max_size=2000), st.integers(0, 2))
@settings(max_examples=100)
def test_any_bytes_to_unpack(raw: bytes, kind: int) -> None:
    try:
        ordeal.unpack(bytes([kind]) + raw)
    except RcontainError as error:
        assert error.message


_KEYS = st.sampled_from([
    "schemaVersion", "mediaType", "manifests", "layers", "config", "digest", "size", "platform", "os", "rootfs",
    "diff_ids", "history", "annotations", "urls", "critical", "optional", "image", "identity", "type", "default",
    "transports", "registry", "unqualified", "Layers",
])  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(st.binary(max_size=500) | _JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_document(raw: bytes) -> None:
    ordeal.document(raw)


@given(st.text(max_size=100) | st.text("/:@.-_AZaz09 =\"'\\[]{},\nENVCMDLABEL", max_size=60))
@settings(max_examples=200)
def test_any_words(text: str) -> None:
    ordeal.text(text.encode("utf-8", "surrogatepass"))


def test_damaged_archives_of_images(tmp_path: Path) -> None:
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["l/layer.tar", "m/layer.tar"]}])
    raw = images.tar(
        [
            images.file("c.json", b"{}"),
            images.file("l/layer.tar", images.tar([images.file("x", b"x")])),
            images.symlink("m/layer.tar", "../l/layer.tar"),
            images.file("manifest.json", manifest.encode()),
        ]
    )
    for seed in range(300):
        random = Random(seed)
        try:
            ordeal.archive(ordeal.with_checksums(damaged(raw, random)), str(tmp_path))
        except RcontainError as error:
            assert error.message, seed


def test_hundreds_of_thousands_of_entries_in_bounded_memory() -> None:
    """A kilobyte for each, the interpreter included."""

    def work() -> int:
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
        header = bytearray(images.tar([images.file("d0000000/f000000")])[:512])
        rest = sum(header[16:148]) + 8 * ord(" ") + sum(header[156:])
        index = LayerIndex()
        parser = TarParser()
        count = 0
        for start in range(0, ENTRIES, 1000):
            part = bytearray()
            for number in range(start, start + 1000):
                header[0:16] = b"d%07d/f%06d" % (number // 1000, number % 1000)
                header[148:156] = b"%06o\0 " % (rest + sum(header[:16]))
                part += header
            for event in parser.feed(bytes(part)):
                assert isinstance(event, TarEntry)
                index.add(event)
                count += 1
        return count

    assert in_namespaces(work, patience=300) == ENTRIES
