"""A store of containers without images: records by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootless.container.containers import Container, Containers, new_id
from rootless.container.options import CreateOptions
from rootless.container.record import Network, Record
from rootless.container.timestamps import rfc3339
from rootless.settings import Settings

_START = 1_700_000_000 * 10**9


class Store:
    """`create(name)` makes a container, a second after the one before."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings(data=f"{root}/data", runtime=f"{root}/run", home=str(root))
        (root / "run").mkdir(mode=0o700)
        self._made = 0

    def create(self, name: str, **fields: Any) -> Container:
        self._made += 1
        given = {
            "id": new_id(),
            "name": name,
            "created": rfc3339(_START + self._made * 10**9),
            "image_id": "ab" * 32,
            "image_name": "image:latest",
            "image_digest": f"sha256:{'cd' * 32}",
            "layers": (),
            "command": ("sh",),
            "entrypoint": (),
            "hostname": "box",
            "storage_driver": "fuse",
            "uid_map": ((0, 0, 1),),
            "gid_map": ((0, 0, 1),),
            "user_namespace": "host",
            "network": Network(mode="none"),
            "options": CreateOptions(image="image"),
            **fields,
        }
        return Containers(self.settings).create(Record(**given))


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="rc-store-") as root:
        yield Store(Path(root))
