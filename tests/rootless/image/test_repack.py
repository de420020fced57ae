"""Layers packed again: the same tar, and the same bytes each time."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.model import Layer
from rootless.image.repack import Packing, read_pieces, repack
from rootless.oci.digest import Digest
from rootless.oci.mediatype import Compression
from tests.kit import images

RAW = images.demo_layers()[1]


def _layer(compression: str) -> tuple[Layer, bytes]:
    blob = images.pack(RAW, compression)
    return Layer(Digest.parse(blob.diff_id), Digest.of(blob.packed), blob.media_type, len(blob.packed)), blob.packed


def _turn() -> None:
    return


@pytest.mark.parametrize("before", ["gzip", "zstd", "none"])
@pytest.mark.parametrize(
    "packing", [Packing(kind, level) for kind in (Compression.GZIP, Compression.ZSTD) for level in (None, 9)]
)
def test_what_comes_out_unpacks_to_the_same(tmp_path: Path, before: str, packing: Packing) -> None:
    layer, packed = _layer(before)
    first, second = str(tmp_path / "1"), str(tmp_path / "2")
    digest, size = repack(layer, iter([packed[:100], packed[100:]]), packing, first, turn=_turn)
    content = Path(first).read_bytes()
    assert (Digest.of(content), len(content)) == (digest, size)
    program = ["gzip", "-dc"] if packing.compression is Compression.GZIP else ["zstd", "-dcq"]
    assert subprocess.run(program, input=content, capture_output=True, check=True).stdout == RAW
    assert repack(layer, iter([packed]), packing, second, turn=_turn) == (digest, size)


def test_levels() -> None:
    for compression, level in ((Compression.GZIP, 10), (Compression.GZIP, 0), (Compression.ZSTD, 21)):
        with pytest.raises(UsageError, match="has the levels"):
            Packing(compression, level)
    layer, _ = _layer("gzip")
    assert not Packing(Compression.GZIP).concerns(layer)
    assert Packing(Compression.GZIP, force=True).concerns(layer) and Packing(Compression.GZIP, 9).concerns(layer)
    assert Packing(Compression.ZSTD).concerns(layer)


def test_damage_and_stops(tmp_path: Path) -> None:
    layer, packed = _layer("none")
    with pytest.raises(ImageError, match="damaged"):
        repack(layer, iter([packed[:-1] + b"?"]), Packing(Compression.GZIP), str(tmp_path / "1"), turn=_turn)

    def stop() -> None:
        raise KeyboardInterrupt

    def endless() -> Iterator[bytes]:
        while True:
            yield packed

    with pytest.raises(KeyboardInterrupt):
        repack(layer, endless(), Packing(Compression.GZIP), str(tmp_path / "2"), turn=stop)
    with pytest.raises(HostError, match="cannot write"):
        repack(layer, iter([packed]), Packing(Compression.GZIP), str(tmp_path / "no/3"), turn=_turn)


def test_pieces_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert b"".join(read_pieces(str(path), offset=2, size=5)) == b"23456"
    assert b"".join(read_pieces(str(path), offset=8)) == b"89"
    with pytest.raises(HostError, match="cannot read"):
        list(read_pieces(str(tmp_path / "nothing")))
