"""`manifest`: lists of images, made here, pushed, and read by others."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_bad_input import complaint
from tests.kit.command import Rcontain
from tests.kit.images import Layout, file, pack, push, tar
from tests.kit.registry import registry

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]

HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
PLATFORMS = {"here": (HERE, ""), "riscv": ("riscv64", ""), "arm": ("arm", "v7")}


@pytest.fixture(scope="module")
def images(demo_registry: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Images for three platforms, and all of them as the list `all`, in a registry."""
    layout = Layout(str(tmp_path_factory.mktemp("platforms")))
    made = []
    for tag, (architecture, variant) in PLATFORMS.items():
        layer = pack(tar([file("platform", tag.encode())]))
        made.append(layout.image(tag, [layer], {"Cmd": ["x"]}, architecture=architecture, variant=variant))
    layout.index("all", made)
    for tag in PLATFORMS:
        push(layout.path, tag, demo_registry, f"platforms:{tag}")
    words = ["skopeo", "copy", "-q", "--all", "--dest-tls-verify=false"]
    places = [f"oci:{layout.path}:all", f"docker://{demo_registry}/platforms:all"]
    subprocess.run([*words, *places], check=True, capture_output=True)
    return {tag: f"{demo_registry}/platforms:{tag}" for tag in (*PLATFORMS, "all")}


def raw_manifest(image: str) -> bytes:
    words = ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{image}"]
    return subprocess.run(words, capture_output=True, check=True).stdout


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def entries(rcontain: Rcontain, name: str) -> list[dict[str, Any]]:
    found = json.loads(rcontain.text("manifest", "inspect", name))
    assert found["schemaVersion"] == 2
    return list(found["manifests"])


def test_a_list_from_nothing_to_a_registry_and_back(
    auto_box: Rcontain, images: dict[str, str], demo_registry: str, tmp_path: Path
) -> None:
    """From the store, from a registry without a copy, and from a file; then pushed with all of them."""
    box = auto_box
    first = box.text("manifest", "create", "all:1")
    assert len(first) == 64 and box("manifest", "exists", "all:1").returncode == 0
    assert "all:1" in complaint(box("manifest", "create", "all:1", check=False))
    assert box.text("manifest", "create", "--amend", "all:1") == first
    box("pull", "-q", images["here"])
    box("manifest", "add", "all:1", images["here"])
    box("manifest", "add", "all:1", f"docker://{images['riscv']}")
    archive = f"oci-archive:{tmp_path}/arm.tar"
    subprocess.run(
        ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{images['arm']}", archive],
        check=True, capture_output=True,
    )  # fmt: skip
    last = box.text("manifest", "add", "--annotation", "from=file", "--os-version", "1", "all:1", archive)
    found = entries(box, "all:1")
    assert [each["platform"]["architecture"] for each in found] == [HERE, "riscv64", "arm"]
    assert found[2]["platform"] == {"architecture": "arm", "os": "linux", "variant": "v7", "os.version": "1"}
    assert found[2]["annotations"] == {"from": "file"} and "annotations" not in found[1]
    assert [each["digest"] for each in found] == [digest_of(raw_manifest(images[tag])) for tag in PLATFORMS]
    assert box.text("images", "-q", "--no-trunc", "all:1").removeprefix("sha256:") == last
    target = f"{demo_registry}/pushed/all:1"
    box("manifest", "push", "-q", "--all", "--digestfile", "digest", "all:1", target)
    raw = raw_manifest(target)
    assert (box.home / "digest").read_text() == digest_of(raw)
    assert json.loads(raw) == json.loads(box.text("manifest", "inspect", "all:1"))
    subprocess.run(
        ["skopeo", "copy", "-q", "--all", "--src-tls-verify=false", f"docker://{target}", f"oci:{tmp_path}/copy:all"],
        check=True, capture_output=True,
    )  # fmt: skip
    copied = json.loads((tmp_path / "copy/index.json").read_text())["manifests"][0]
    assert copied["digest"] == digest_of(raw)
    riscv = box.text("pull", "-q", "--platform", "linux/riscv64", target)
    assert box.text("inspect", "--format", "{{.Architecture}}", riscv) == "riscv64"
    box("manifest", "push", "-q", "--rm", "all:1", f"oci:{tmp_path}/layout:all")
    layout = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    assert [each["digest"] for each in layout] == [digest_of(raw)]
    assert box("manifest", "exists", "all:1", check=False).returncode == 1
    box("image", "exists", images["here"])


def test_lists_of_registries(auto_box: Rcontain, images: dict[str, str], tmp_path: Path) -> None:
    """One of them or all; into another registry, where there is nothing to mount."""
    box = auto_box
    box("manifest", "create", "mine", f"docker://{images['all']}")
    assert [each["platform"]["architecture"] for each in entries(box, "mine")] == [HERE]
    box("manifest", "create", "--all", "--annotation", "k=v", "yours", f"docker://{images['all']}")
    assert len(entries(box, "yours")) == 3
    assert box.text("manifest", "inspect", f"docker://{images['all']}")
    with registry(str(tmp_path)) as address:
        box("manifest", "push", "-q", "yours", f"{address}/yours")
        assert [each["digest"] for each in json.loads(raw_manifest(f"{address}/yours"))["manifests"]] == [
            digest_of(raw_manifest(images[tag])) for tag in PLATFORMS
        ]
        box("manifest", "push", "-q", "-f", "v2s2", "yours", f"{address}/yours:docker")
        docker = json.loads(raw_manifest(f"{address}/yours:docker"))
        assert docker["mediaType"].endswith("docker.distribution.manifest.list.v2+json")
        assert all(each["mediaType"].endswith("distribution.manifest.v2+json") for each in docker["manifests"])
        subprocess.run(
            ["skopeo", "copy", "-q", "--all", "--src-tls-verify=false", f"docker://{address}/yours:docker",
             f"dir:{tmp_path}/docker"],
            check=True, capture_output=True,
        )  # fmt: skip
        said = complaint(box("manifest", "push", "-q", "--all=false", "yours", f"{address}/alone", check=False))
        assert address in said
        box("push", "-q", "yours", f"{address}/whole")
        assert len(json.loads(raw_manifest(f"{address}/whole"))["manifests"]) == 3
    box("manifest", "rm", "mine", "yours")


def test_annotate_and_remove(auto_box: Rcontain, images: dict[str, str]) -> None:
    box = auto_box
    box("manifest", "create", "--all", "changed", f"docker://{images['all']}")
    found = entries(box, "changed")
    digest = found[1]["digest"]
    box("manifest", "annotate", "--arch", "s390x", "--os-features", "f", "--annotation", "a=b", "changed", digest)
    box("manifest", "annotate", "--index", "--annotation", "of=list", "changed")
    document = json.loads(box.text("manifest", "inspect", "changed"))
    assert document["annotations"] == {"of": "list"}
    platform = {"architecture": "s390x", "os": "linux", "os.features": ["f"]}
    assert document["manifests"][1]["platform"] == platform and document["manifests"][1]["annotations"] == {"a": "b"}
    box("manifest", "remove", "changed", digest)
    assert [each["digest"] for each in entries(box, "changed")] == [found[0]["digest"], found[2]["digest"]]
    assert "has no image" in complaint(box("manifest", "remove", "changed", digest, check=False))
    assert box.text("images", "-q").count("\n") < 20, "old versions of the list are gone"
    assert box.text("manifest", "rm", "changed").startswith("Untagged: localhost/changed:latest\nDeleted: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "nothing", "HERE"], "nothing"),
        (["create", "HERE"], "taken|belongs"),
        (["create", "x", "--annotation", "novalue"], "NAME=VALUE"),
        (["inspect", "oci:x"], "registries"),
        (["rm", "nothing"], "nothing"),
        (["push", "nothing"], "nothing"),
        (["annotate", "nothing"], "digest|nothing"),
    ],
)
def test_one_sentence(auto_box: Rcontain, images: dict[str, str], arguments: list[str], said: str) -> None:
    auto_box("pull", "-q", images["here"])
    words = [images["here"] if word == "HERE" else word for word in arguments]
    text = complaint(auto_box("manifest", *words, check=False))
    assert any(word in text for word in said.split("|"))
