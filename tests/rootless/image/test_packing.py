"""New layers: what is packed and what is received, on a disk that has room and on one that has not."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from rootless.errors import HostError, ImageError
from rootless.image.packing import LayerPacker, LayerReceiver
from rootless.image.store import Store
from rootless.oci.digest import Digest
from tests.kit.images import file, tar
from tests.kit.userns import in_namespaces

ARCHIVE = tar([file("a", os.urandom(300_000)), file("b", b"b" * 300_000)])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    store.prepare()
    return store


def pack(store: Store, content: bytes, step: int = 100_000) -> None:
    with store.workspace() as space, LayerPacker(store, space) as packer:
        for at in range(0, len(content), step):
            packer.write(content[at : at + step])
        layer = packer.finish()
    blob = Path(store.blobs.path(layer.blob)).read_bytes()
    assert gzip.decompress(blob) == content
    assert (layer.diff_id, layer.blob, layer.size) == (Digest.of(content), Digest.of(blob), len(blob))


def receive(store: Store, content: bytes, step: int = 100_000) -> None:
    with store.workspace() as space, LayerReceiver(store, space) as receiver:
        for at in range(0, len(content), step):
            receiver.write(content[at : at + step])
        layer = receiver.finish()
    assert Path(store.blobs.path(layer.blob)).read_bytes() == content
    assert layer.diff_id == Digest.of(ARCHIVE)


@pytest.mark.parametrize("step", [700, 100_000, 1 << 20])
def test_a_layer_is_packed(store: Store, step: int) -> None:
    pack(store, ARCHIVE, step)


def test_the_same_again_is_the_same(store: Store) -> None:
    pack(store, ARCHIVE)
    pack(store, ARCHIVE, 999)
    assert len(store.blobs.all()) == 1


@pytest.mark.parametrize("step", [3, 100_000])
@pytest.mark.parametrize("form", [bytes, gzip.compress, zstandard.compress])
def test_an_archive_is_kept_as_it_came(store: Store, form: Callable[[bytes], bytes], step: int) -> None:
    receive(store, form(ARCHIVE), step if len(ARCHIVE) < step * 10_000 else 3000)


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive" * 100, ARCHIVE[:1000], gzip.compress(ARCHIVE)[:-9], b"BZh91AY&SY" * 9, b"\x1f\x8b", b"x"],
)
def test_what_is_no_archive_leaves_nothing(store: Store, content: bytes) -> None:
    with pytest.raises(ImageError):
        receive(store, content)
    assert store.blobs.all() == []
    assert [name for name in os.listdir(store.tmp) if not name.endswith("lock")] == []


@pytest.mark.userns
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    def work() -> list[str]:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)], check=True)
        store = Store(str(tmp_path))
        store.prepare()
        for put in (pack, receive):
            with pytest.raises(HostError, match="No space left"):
                put(store, tar([file("large", os.urandom(3_000_000))]))
        return [name for name in os.listdir(store.tmp) if not name.endswith("lock")] + list(map(str, store.blobs.all()))

    assert in_namespaces(work) == []
