"""The images that contrib/bench/pull pulls: made here, the same bytes each time, as OCI layouts (image-layout.md)."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engines import CHECKOUT

TREE_LAYERS = 5
TREE_FILES = 6_000
SMALL_LAYERS = 39
BIG_FILES = 64
BIG_FILE = 16 << 20

Fill = Callable[[tarfile.TarFile], None]


class Blob(io.RawIOBase):
    """A gzip file in the making: how long it is, and both digests of a layer."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._zip = zlib.compressobj(6, zlib.DEFLATED, 31)
        self.plain = hashlib.sha256()
        self.packed = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.plain.update(data)
        self._keep(self._zip.compress(data))
        return len(data)

    def finish(self) -> None:
        self._keep(self._zip.flush())
        self._file.close()

    def _keep(self, data: bytes) -> None:
        self.packed.update(data)
        self.size += len(data)
        self._file.write(data)


def layer(blobs: Path, fill: Fill) -> tuple[dict[str, Any], str]:
    """Write one layer: its descriptor, and its diffID."""
    temporary = blobs / "new"
    blob = Blob(temporary)
    with tarfile.open(fileobj=blob, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        fill(tar)
    blob.finish()
    digest = blob.packed.hexdigest()
    temporary.rename(blobs / digest)
    descriptor = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": f"sha256:{digest}",
        "size": blob.size,
    }
    return descriptor, f"sha256:{blob.plain.hexdigest()}"


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(content), 1_700_000_000
    tar.addfile(entry, io.BytesIO(content))


def tree(number: int, files: int) -> Fill:
    """Many small files, of 200 to 8,000 bytes that compress to a half, 60 in a directory."""

    def fill(tar: tarfile.TarFile) -> None:
        chance = random.Random(number)
        for index in range(files):
            content = chance.randbytes(chance.randrange(100, 4000)).hex().encode()
            add(tar, f"srv/tree{number}/{index // 60}/file{index}", content)

    return fill


def big(tar: tarfile.TarFile) -> None:
    """1 GiB, of which a third does not compress."""
    chance = random.Random(1)
    text = b" ".join(chance.choices([b"registry", b"manifest", b"layer", b"digest", b"of", b"a"], k=200_000))
    for index in range(BIG_FILES):
        noise = chance.randbytes(BIG_FILE // 3)
        words = text * (BIG_FILE // len(text) + 1)
        add(tar, f"srv/big/{index}", noise + words[: BIG_FILE - len(noise)])


def layers_of(name: str) -> Iterator[Fill]:
    """What image `name` has above the base."""
    if name == "tree":
        yield from (tree(number, TREE_FILES) for number in range(TREE_LAYERS))
    elif name == "tree-more":
        yield from (tree(number, TREE_FILES) for number in range(TREE_LAYERS))
        yield tree(1000, 20)
    elif name == "big":
        yield big
    elif name == "forty":
        yield from (tree(100 + number, 20) for number in range(SMALL_LAYERS))


def write(name: str, directory: Path) -> Path:
    """The layout of image `name` below `directory`; kept from an earlier run if it is there."""
    layout = directory / name
    if (layout / "index.json").exists():
        return layout
    base = directory / "base"
    if not (base / "index.json").exists():
        subprocess.run([CHECKOUT / "contrib/demo-image", base], check=True)

    def read(path: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
        return json.loads((path / "blobs/sha256" / descriptor["digest"].partition(":")[2]).read_bytes())  # type: ignore[no-any-return]

    manifest = read(base, json.loads((base / "index.json").read_bytes())["manifests"][0])
    config = read(base, manifest["config"])
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    for descriptor in manifest["layers"]:
        digest = descriptor["digest"].partition(":")[2]
        (blobs / digest).write_bytes((base / "blobs/sha256" / digest).read_bytes())
    for fill in layers_of(name):
        descriptor, diff_id = layer(blobs, fill)
        manifest["layers"].append(descriptor)
        config["rootfs"]["diff_ids"].append(diff_id)
        config["history"].append({"created": config["created"], "created_by": f"contrib/bench: {name}"})

    def document(content: dict[str, Any], media_type: str) -> dict[str, Any]:
        raw = json.dumps(content).encode()
        digest = hashlib.sha256(raw).hexdigest()
        (blobs / digest).write_bytes(raw)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw)}

    manifest["config"] = document(config, manifest["config"]["mediaType"])
    entry = document(manifest, "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return layout
