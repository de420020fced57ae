"""What every test of the whole road has: a real registry with the demo image, and a command that has pulled it."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.residue import residue, scour
from tests.kit.command import Rcontain
from tests.kit.images import LayerBlob, Layout, demo_layout, pack, push
from tests.kit.registry import registry

# A directory with alpine-minirootfs-*.tar.gz, the root filesystem of the official Alpine image.
IMAGES = "RCONTAIN_TEST_IMAGES"


@pytest.fixture(scope="session")
def demo_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry that has the image `demo` with the tag `latest`."""
    directory = tmp_path_factory.mktemp("registry")
    demo_layout(str(directory / "layout"))
    with registry(str(directory)) as address:
        push(str(directory / "layout"), "demo", address, "demo:latest")
        yield address


@pytest.fixture(scope="session")
def demo(demo_registry: str) -> str:
    """The reference of the demo image."""
    return f"{demo_registry}/demo"


@pytest.fixture(scope="module", params=["overlay", "packed", "fuse"])
def driver(request: pytest.FixtureRequest) -> str:
    """The storage drivers, one after the other."""
    return str(request.param)


@pytest.fixture(scope="module")
def box(shared_rcontain: Rcontain, demo: str, driver: str) -> Rcontain:
    """The command with the demo image pulled, once with each storage driver."""
    shared_rcontain.environment["RCONTAIN_STORAGE_DRIVER"] = driver
    shared_rcontain("pull", "-q", demo)
    return shared_rcontain


@pytest.fixture(scope="module")
def auto_box(launcher: Path, demo: str) -> Iterator[Rcontain]:
    """The command with the demo image pulled, for what has nothing to do with the storage driver."""
    command = Rcontain(launcher)
    command("pull", "-q", demo)
    yield command
    left = command.finish()
    if left:
        pytest.fail("rcontain left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a container, a mount, a process or a temporary file in its box's directories."""
    name = next(name for name in ("box", "auto_box", "rcontain") if name in request.fixturenames)
    command: Rcontain = request.getfixturevalue(name)
    yield
    left = residue(command)
    if left:
        scour(command)
        pytest.fail("rcontain left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def alpine_layer() -> LayerBlob:
    """Alpine's root filesystem as a layer; the test is skipped where it is not at hand."""
    directory = os.environ.get(IMAGES, "")
    found = sorted(Path(directory).glob("alpine-minirootfs-*.tar.gz")) if directory else []
    if not found:
        pytest.skip(f"needs alpine-minirootfs-*.tar.gz in the directory that the variable {IMAGES} names")
    return pack(gzip.decompress(found[-1].read_bytes()))


@pytest.fixture(scope="session")
def alpine(demo_registry: str, alpine_layer: LayerBlob, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The reference of an image made of Alpine's root filesystem."""
    layout = Layout(str(tmp_path_factory.mktemp("alpine")))
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    layout.image("alpine", [alpine_layer], {"Env": [path], "Cmd": ["/bin/sh"]})
    push(layout.path, "alpine", demo_registry, "alpine:latest")
    return f"{demo_registry}/alpine"
