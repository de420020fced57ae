"""What skopeo, umoci, buildah and Podman write we run, and what we write they take: the digests stay the same."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.command import Rcontain
from tests.kit.images import Layout, demo_config, demo_layers, demo_layout, pack

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]

# What is in the image: owners and modes of everything; links, sizes and times of files.
NAMES = "bin home root srv tmp usr etc/passwd etc/group etc/shadow etc/motd"
LOOK = (
    f"cd / && find {NAMES} -exec stat -c '%n %f %u %g' {{}} + | sort; "
    f"find {NAMES} -type f -exec stat -c '%n %h %s %Y' {{}} + | sort"
)


def tool(*words: str | Path, **environment: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def skopeo(source: str, target: str, *flags: str) -> None:
    tool("skopeo", "--insecure-policy", "copy", "--quiet", *flags, source, target)


def facts(place: str) -> tuple[str, str, list[str]]:
    """What skopeo says of a place: the digests of the manifest and of the configuration, and the diffIDs."""
    manifest = tool("skopeo", "inspect", "--format", "{{.Digest}}", place).strip()
    raw = tool("skopeo", "inspect", "--config", "--raw", place)
    config: dict[str, Any] = json.loads(raw)
    return manifest, hashlib.sha256(raw.encode()).hexdigest(), config["rootfs"]["diff_ids"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The demo image with gzip layers, which all tools and formats know."""
    made = Layout(str(tmp_path_factory.mktemp("layout")))
    made.image("demo", [pack(raw, "gzip") for raw in demo_layers()], demo_config())
    return made.path


@pytest.fixture(scope="module")
def expected(auto_box: Rcontain, layout: str) -> tuple[str, str]:
    """The image's id, and what it looks like inside."""
    id = auto_box.text("pull", "-q", f"oci:{layout}:demo")
    return id, auto_box.text("run", "--rm", id, "sh", "-c", LOOK)


@pytest.fixture
def removed(auto_box: Rcontain) -> Iterator[None]:
    """No image at the beginning, so that all of it has to come from where the test says."""
    auto_box("rmi", "-af")
    yield


PLACES = {
    "oci": "oci:{}/a:demo",
    "oci-archive": "oci-archive:{}/a:demo",
    "docker-archive": "docker-archive:{}/a:x/demo:1",
    "dir": "dir:{}/a",
}


@pytest.mark.parametrize("kind", PLACES)
def test_what_skopeo_writes_we_run(
    auto_box: Rcontain, layout: str, expected: tuple[str, str], removed: None, tmp_path: Path, kind: str
) -> None:
    place = PLACES[kind].format(tmp_path)
    skopeo(f"oci:{layout}:demo", place)
    id, look = expected
    assert auto_box.text("run", "--rm", place, "sh", "-c", LOOK) == look
    assert auto_box.text("images", "-q", "--no-trunc") == f"sha256:{id}"
    found = json.loads(auto_box.text("inspect", id))[0]
    if kind != "docker-archive":
        assert found["Digest"] == facts(place)[0]
    if kind != "dir":
        name = "docker.io/x/demo:1" if kind == "docker-archive" else "localhost/demo:latest"
        assert found["RepoTags"] == [name]
        auto_box("rmi", "-af")
        path = str(tmp_path / "a")
        assert auto_box.text("load", "-q", "-i", path) == f"Loaded image: {name}"
        assert auto_box.text("run", "--rm", name, "cat", "/etc/motd") == "three layers"


FORMATS = {"docker-archive": "docker-archive", "oci-archive": "oci-archive", "oci-dir": "oci", "docker-dir": "dir"}


@pytest.mark.parametrize("format_", FORMATS)
def test_what_we_save_skopeo_takes(
    auto_box: Rcontain, layout: str, expected: tuple[str, str], tmp_path: Path, format_: str
) -> None:
    id, _ = expected
    auto_box("pull", "-q", f"oci:{layout}:demo")
    path = tmp_path / "out"
    auto_box("save", "-q", "--format", format_, "-o", str(path), "localhost/demo")
    place = f"{FORMATS[format_]}:{path}"
    original = facts(f"oci:{layout}:demo")
    manifest, config, diff_ids = facts(place)
    assert (config, diff_ids) == (id, original[2])
    if format_.startswith("oci"):
        assert manifest == original[0]
    for number, target in enumerate(PLACES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        there = target.format(folder)
        skopeo(place, there)
        # skopeo writes the configuration anew when it makes an OCI image of Docker's.
        kept = format_.startswith("oci") or not target.startswith("oci")
        assert facts(there)[1:] == (id if kept else facts(there)[1], original[2])


@pytest.mark.parametrize("kind", PLACES)
def test_what_we_push_to_files_skopeo_takes(
    auto_box: Rcontain, layout: str, expected: tuple[str, str], tmp_path: Path, kind: str
) -> None:
    id, _ = expected
    auto_box("pull", "-q", f"oci:{layout}:demo")
    place = PLACES[kind].format(tmp_path)
    auto_box("push", "-q", "localhost/demo", place)
    manifest, config, diff_ids = facts(place)
    assert (config, diff_ids) == (id, facts(f"oci:{layout}:demo")[2])
    if kind != "docker-archive":
        assert manifest == facts(f"oci:{layout}:demo")[0]
    assert auto_box.text("run", "--rm", "-q", place, "cat", "/etc/motd") == "three layers"


def test_docker_schema_2_both_ways(auto_box: Rcontain, layout: str, removed: None, tmp_path: Path) -> None:
    skopeo(f"oci:{layout}:demo", f"dir:{tmp_path}/a", "--format", "v2s2")
    id = auto_box.text("pull", "-q", f"dir:{tmp_path}/a")
    auto_box("save", "--format", "docker-dir", "-o", str(tmp_path / "b"), id)
    assert facts(f"dir:{tmp_path}/b") == facts(f"dir:{tmp_path}/a")
    said = auto_box("save", "--format", "oci-dir", "-o", str(tmp_path / "c"), id).stderr.decode()
    assert "manifest of the other format" in said
    assert facts(f"oci:{tmp_path}/c")[1:] == facts(f"dir:{tmp_path}/a")[1:]


def test_zstd_and_plain_layers_keep_their_manifest(auto_box: Rcontain, removed: None, tmp_path: Path) -> None:
    made = demo_layout(str(tmp_path / "mixed"))
    id = auto_box.text("pull", "-q", f"oci:{made.path}:demo")
    for format_ in ("oci-dir", "oci-archive"):
        auto_box("save", "--format", format_, "-o", str(tmp_path / format_), "localhost/demo")
        place = f"{FORMATS[format_]}:{tmp_path / format_}"
        assert facts(place)[:2] == (facts(f"oci:{made.path}:demo")[0], id)


def test_umoci(auto_box: Rcontain, layout: str, expected: tuple[str, str], removed: None, tmp_path: Path) -> None:
    """umoci adds a layer to what we saved, and we run that; and it unpacks what we saved."""
    ours = tmp_path / "ours"
    id = auto_box.text("pull", "-q", f"oci:{layout}:demo")
    auto_box("tag", id, "example.org/demo:1")
    auto_box("save", "--format", "oci-dir", "-o", str(ours), "example.org/demo:1")
    name = "example.org/demo:1"
    assert tool("umoci", "ls", "--layout", ours).split() == [name]
    # umoci wants tags without slashes.
    skopeo(f"oci:{ours}:{name}", f"oci:{tmp_path}/work:base")
    (tmp_path / "hello").write_text("from umoci\n")
    image = f"{tmp_path}/work:base"
    tool("umoci", "insert", "--rootless", "--image", image, "--tag", "more", tmp_path / "hello", "/srv/hello")
    tool("umoci", "config", "--image", f"{tmp_path}/work:more", "--config.cmd", "cat", "--config.cmd", "/srv/hello")
    assert auto_box.text("run", "--rm", f"oci:{tmp_path}/work:more") == "from umoci"
    tool("umoci", "unpack", "--rootless", "--image", image, tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/motd").read_text() == "three layers\n"


def test_several_platforms(auto_box: Rcontain, removed: None, tmp_path: Path) -> None:
    made = Layout(str(tmp_path / "layout"))
    here = made.image(None, [pack(raw, "gzip") for raw in demo_layers()], demo_config())
    there = made.image(None, [pack(demo_layers()[0])], demo_config(), architecture="arm64", variant="v8")
    made.index("both", [there, here])
    skopeo(f"oci:{made.path}:both", f"dir:{tmp_path}/all", "--all")
    for place in (f"oci:{made.path}:both", f"oci:{made.path}", f"dir:{tmp_path}/all"):
        assert auto_box.text("run", "--rm", place, "cat", "/etc/motd") == "three layers"
        other = auto_box.text("pull", "-q", "--platform", "linux/arm64", place)
        assert json.loads(auto_box.text("inspect", other))[0]["Architecture"] == "arm64"
        auto_box("rmi", "-af")
