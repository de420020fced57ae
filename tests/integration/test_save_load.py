"""`load`, `save`, and transports in `pull` and `run`."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.terminal import Terminal
from tests.integration.test_bad_input import complaint
from tests.kit.command import Rcontain
from tests.kit.images import Layout, demo_config, demo_layers, file, pack, symlink, tar

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
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


def test_through_pipes(box: Rcontain) -> None:
    id = image_id(box)
    for format_ in ("docker-archive", "oci-archive"):
        archive = box("save", "--format", format_, NAME).stdout
        assert archive == box("save", "--format", format_, NAME).stdout
        box("rmi", "-af")
        done = box("load", input=archive)
        assert done.stdout.decode() == f"Loaded image: {NAME}\n"
        assert b"Layer" in done.stderr
        assert image_id(box) == id
        assert box.text("run", "--rm", NAME, "cat", "/etc/motd") == "three layers"


def test_names(box: Rcontain, tmp_path: Path) -> None:
    id = image_id(box)
    box("tag", NAME, "localhost/other:2")
    path = str(tmp_path / "a.tar")
    box("save", "-o", path, "other:2", NAME, id)
    box("rmi", "-af")
    assert box.text("load", "-q", "-i", path).split("\n") == [
        "Loaded image: localhost/other:2", f"Loaded image: {NAME}",
    ]  # fmt: skip
    box("save", "-o", path, id[:12])
    box("rmi", "-af")
    assert box.text("image", "load", "-q", "--input", path) == f"Loaded image: sha256:{id}"
    assert box.text("images", "--format", "{{.Repository}}") == "<none>"


def test_relative_paths_are_the_users(box: Rcontain, tmp_path: Path) -> None:
    box("save", "-o", "a.tar", NAME, cwd=tmp_path)
    assert os.stat(tmp_path / "a.tar").st_mode & 0o777 == 0o644
    box("rmi", "-af")
    box("load", "-i", "a.tar", cwd=tmp_path)
    for place in ("docker-archive:a.tar", f"docker-archive:a.tar:{NAME}", "docker-archive:a.tar:@0"):
        done = box("run", "--rm", "-q", place, "cat", "/etc/motd", cwd=tmp_path)
        assert done.stdout == b"three layers\n"
    box("create", "--name", "made", "docker-archive:a.tar", cwd=tmp_path)
    assert json.loads(box.text("inspect", "made"))[0]["ImageName"] == NAME
    box("rm", "made")


def test_terminals(box: Rcontain) -> None:
    for words in (("save", NAME), ("load",)):
        with Terminal(box.words(*words), box.environment, str(box.home)) as terminal:
            terminal.expect("is a terminal")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("load", "-i", "/nonexistent"), "cannot open /nonexistent"),
        (("load", "-i", "/etc/passwd"), "not a tar archive"),
        (("load", "-i", "/etc"), "neither an image layout nor"),
        (("load",), "is empty"),
        (("save", "nothing"), "no image"),
        (("save", "--format", "oci-dir", NAME), "name it with -o"),
        (("save", "--format", "oci-dir", "-o", "/etc", NAME), "something else is there"),
        (("save", "-o", "/nonexistent/a.tar", NAME), "cannot write /nonexistent/a.tar"),
        (("save", "-o", "/etc", NAME), "is a directory"),
        (("save", "-o", "/dev/full", NAME), "cannot write /dev/full"),
        (("pull", "oci:/nonexistent"), "no directory /nonexistent"),
        (("pull", "docker-archive:/etc/passwd"), "not a tar archive"),
        (("pull", "dir:/etc"), "has no manifest.json"),
        (("run", "containers-storage:demo"), "store of Podman"),
        (("run", "--pull=never", "oci:/etc"), "never"),
        (("pull", "docker-daemon:demo:1"), "Docker's own store"),
        (("run", "--rm", "ostree:/x"), "not known"),
    ],
)
def test_what_is_wrong_is_said(box: Rcontain, words: tuple[str, ...], said: str) -> None:
    assert said in complaint(box(*words, check=False))


def archive(files: dict[str, bytes]) -> bytes:
    return tar([file(name, content) for name, content in files.items()])


def hostile() -> Iterator[tuple[str, bytes, str]]:
    """Archives that are wrong, and what is said of them."""
    good = pack(tar([file("x", b"x")]), "none")
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [good.diff_id]}}
    )
    item = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]}]
    files = {"manifest.json": json.dumps(item).encode(), "c.json": config.encode(), "l.tar": good.raw}
    yield "layer-missing", archive({name: data for name, data in files.items() if name != "l.tar"}), "lacks the layer"
    yield "config-missing", archive({name: data for name, data in files.items() if name != "c.json"}), "has no 'c.json'"
    yield "wrong-layer", archive({**files, "l.tar": tar([file("x", b"y")])}), "arrived with the digest"
    yield "repeated", archive({**files, "c.json": b'{"os":"linux","os":"x"}'}), "twice"
    yield "case", archive({**files, "c.json": config.replace("rootfs", "RootFS").encode()}), "which is not 'rootfs'"
    yield (
        "escape",
        archive({**files, "manifest.json": json.dumps(item).replace("l.tar", "../../etc/passwd").encode()}),
        "leads out",
    )
    yield "no-list", archive({**files, "manifest.json": b"{}"}), "not valid"
    yield "layers", archive({**files, "manifest.json": json.dumps([{**item[0], "Layers": []}]).encode()}), "0 layers"
    yield "link-out", tar([file("c.json", files["c.json"]), symlink("l.tar", "../../../etc/passwd")]), "leads out"
    yield (
        "link",
        tar(
            [
                file("manifest.json", files["manifest.json"]),
                file("c.json", files["c.json"]),
                symlink("l.tar", "/etc/passwd"),
            ]
        ),
        "lacks the layer",
    )
    yield "twice", tar([file("x", b"1"), file("x", b"2")]), "two members"
    yield "cut", archive(files)[:1400], "cut off"
    yield "nothing", archive({"x": b""}), "without images"
    yield "old", archive({"repositories": b"{}", "x/layer.tar": b""}), "without images"
    yield "deep", archive({**files, "manifest.json": b"[" * 100_000}), "nested"
    yield "xz", b"\xfd7zXZ\0" + bytes(100), "packed with xz"
    yield "gzip-cut", pack(archive(files)).packed[:-20], "cut off"
    index = {
        "schemaVersion": 2,
        "manifests": [
            {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": good.diff_id, "size": len(good.raw)}
        ],
    }
    blob = f"blobs/sha256/{good.diff_id[7:]}"
    oci = {"oci-layout": b"{}", "index.json": json.dumps(index).encode(), blob: good.raw}
    yield "oci-manifest", archive(oci), "not JSON"
    yield "oci-size", archive({**oci, blob: good.raw + b"1"}), "bytes, not"
    yield "oci-digest", archive({**oci, blob: b"1" * len(good.raw)}), "has digest"
    yield "oci-repeated", archive({**oci, "index.json": b'{"manifests":[],"manifests":[]}'}), "twice"


@pytest.mark.parametrize(("data", "said"), [pytest.param(data, said, id=name) for name, data, said in hostile()])
def test_hostile_archives(box: Rcontain, data: bytes, said: str) -> None:
    before = box.text("images", "-aq")
    assert said in complaint(box("load", input=data, check=False))
    assert box.text("images", "-aq") == before


def test_a_bomb_does_not_fill_the_memory(box: Rcontain) -> None:
    """Zeros that would unpack to two gigabytes in the archive itself: they are no tar archive after the first block."""
    import gzip

    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as packed:
        info = tarfile.TarInfo("x")
        info.size = 1 << 40
        packed.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(256):
            packed.write(bytes(1 << 20))
    assert "cut off" in complaint(box("load", input=out.getvalue(), check=False))


def test_foreign_layers_are_named(box: Rcontain, tmp_path: Path) -> None:
    made = Layout(str(tmp_path))
    layer = pack(demo_layers()[2])
    layer.media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    made.image("x", [layer])
    assert "only its maker may distribute" in complaint(box("pull", f"oci:{tmp_path}", check=False))
