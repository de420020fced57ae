"""Podman and Buildah at the other end: what they write we run, and what we write they take."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.command import Rcontain
from tests.kit.images import Layout, demo_config, demo_layers, pack

pytestmark = [
    pytest.mark.podman,
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
]
NAME = "example.org/team/demo:1"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = Layout(str(tmp_path_factory.mktemp("layout")))
    made.image("demo", [pack(raw, "gzip") for raw in demo_layers()], demo_config())
    return made.path


@pytest.fixture
def box(auto_box: Rcontain, layout: str) -> Rcontain:
    """The image under one name, and nothing else."""
    auto_box("rmi", "-af")
    auto_box("tag", auto_box.text("pull", "-q", f"oci:{layout}"), NAME)
    auto_box("untag", NAME, "localhost/demo:latest")
    return auto_box


def image_id(box: Rcontain, name: str = NAME) -> str:
    return str(json.loads(box.text("inspect", name))[0]["Id"])


class Other:
    """Debian's Podman and Buildah with a store of their own."""

    def __init__(self, folder: Path) -> None:
        (folder / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver="vfs"\ngraphroot="{folder}/store"\nrunroot="{folder}/run"\n'
        )
        (folder / "runtime").mkdir(mode=0o700)
        (folder / ".config/containers").mkdir(parents=True)
        (folder / "policy.json").rename(folder / ".config/containers/policy.json")
        self._folder = folder
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": f"{folder}/runtime",
            "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
            "BUILDAH_ISOLATION": "chroot",
        }
        self._environment.pop("XDG_CONFIG_HOME", None)

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, env=self._environment, timeout=120
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def other(auto_box: Rcontain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other]:
    folder = tmp_path_factory.mktemp("other")
    command = Other(folder)
    yield command
    command("podman", "unshare", "rm", "-rf", f"{folder}/store", f"{folder}/run")
    command("podman", "system", "migrate")  # which ends the process that keeps the user namespace


@pytest.mark.parametrize("format_", ["docker-archive", "oci-archive", "oci-dir", "docker-dir"])
def test_podman(box: Rcontain, other: Other, tmp_path: Path, format_: str) -> None:
    id = image_id(box)
    path = tmp_path / "ours"
    box("save", "-q", "--format", format_, "-o", str(path), NAME)
    said = other("podman", "load", "-q", "-i", path)
    if format_.endswith("-dir"):  # which Podman names after its path
        other("podman", "tag", id, NAME)
    else:
        assert said == f"Loaded image: {NAME}"
    assert other("podman", "inspect", "--format", "{{.Id}}", NAME) == id
    other("podman", "save", "-q", "--format", format_, "-o", tmp_path / "theirs", NAME)
    other("podman", "rmi", "-f", id)
    box("rmi", "-af")
    loaded = box.text("load", "-q", "-i", str(tmp_path / "theirs")).removeprefix("Loaded image: ")
    assert loaded == (f"sha256:{image_id(box, loaded.removeprefix('sha256:'))}" if format_ == "docker-dir" else NAME)
    assert box.text("run", "--rm", loaded.removeprefix("sha256:"), "cat", "/etc/motd") == "three layers"
    found = json.loads(box.text("inspect", loaded.removeprefix("sha256:")))[0]
    if format_ != "docker-dir":
        assert found["Id"] == id
    assert len(found["RootFS"]["Layers"]) == 3


def test_buildah(box: Rcontain, other: Other, tmp_path: Path) -> None:
    """An image that buildah makes out of ours, in each of the formats that it pushes to."""
    box("save", "--format", "oci-archive", "-o", str(tmp_path / "ours.tar"), NAME)
    working = other("buildah", "from", f"oci-archive:{tmp_path}/ours.tar")
    other("buildah", "config", "--cmd", "cat /srv/built", working)
    other("buildah", "copy", working, "/etc/hostname", "/srv/built")
    other("buildah", "commit", "-q", "--rm", working, "localhost/built:1")
    id = other("podman", "inspect", "--format", "{{.Id}}", "localhost/built:1")
    for transport in ("oci", "oci-archive", "docker-archive", "dir"):
        place = f"{transport}:{tmp_path}/{transport}" + (":localhost/built:1" if transport == "docker-archive" else "")
        other("buildah", "push", "-q", "localhost/built:1", place)
        box("rmi", "-af")
        done = box.text("run", "--rm", place)
        assert done == Path("/etc/hostname").read_text().strip()
        if transport != "docker-archive":
            assert box.text("images", "-q", "--no-trunc") == f"sha256:{id}"
