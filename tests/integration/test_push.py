"""`push` to real registries, and what other tools read there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_bad_input import complaint
from tests.kit.certificates import Authority
from tests.kit.command import Rcontain
from tests.kit.faultproxy import Fault, fault_proxy
from tests.kit.images import Layout, demo_config, demo_layers, file, pack, push, tar
from tests.kit.registry import registry
from tests.kit.tokenserver import token_server

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry of its own, empty at first."""
    with registry(str(tmp_path_factory.mktemp("target"))) as address:
        yield address


def raw_manifest(image: str, *flags: str) -> bytes:
    return subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", *flags, "--raw", f"docker://{image}"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip


def digest_of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def test_an_image_keeps_its_digest_and_goes_only_once(auto_box: Rcontain, demo: str, target: str) -> None:
    image = f"{target}/team/demo:1"
    first = auto_box("push", "--digestfile", "digest", demo, image)
    assert first.stdout == b"" and first.stderr.count(b" sent\n") == 3
    raw = raw_manifest(image)
    assert raw == raw_manifest(demo) and (auto_box.home / "digest").read_text() == digest_of(raw)
    again = auto_box("push", demo, image)
    assert again.stderr.count(b" already there\n") == 3
    assert auto_box("push", "-q", demo, image).stderr == b""
    auto_box("tag", demo, f"{target}/team/other:2")
    auto_box("push", f"{target}/team/other:2")
    assert raw_manifest(f"{target}/team/other:2") == raw


def test_blobs_of_the_same_registry_are_mounted(auto_box: Rcontain, demo: str, demo_registry: str) -> None:
    with fault_proxy(demo_registry) as proxy:
        image = f"{proxy.address}/through/proxy"
        auto_box("pull", "-q", f"{proxy.address}/demo")
        auto_box("push", "-q", f"{proxy.address}/demo", image)
        assert "PATCH" not in {exchange.method for exchange in proxy.exchanges}
        assert sum("/blobs/" in exchange.path and exchange.method == "PUT" for exchange in proxy.exchanges) == 0
        auto_box("rmi", f"{proxy.address}/demo")
    assert raw_manifest(f"{demo_registry}/through/proxy") == raw_manifest(demo)


def test_formats_and_packings_are_read_by_others(auto_box: Rcontain, demo: str, target: str, tmp_path: Path) -> None:
    wanted = {
        "docker": (["-f", "v2s2"], "docker.image.rootfs.diff.tar.gzip"),
        "zstd": (["--compression-format", "zstd", "--compression-level", "9"], "tar+zstd"),
        "gzip": (["--compression-format", "gzip", "--force-compression"], "tar+gzip"),
    }
    image_id = auto_box.text("inspect", "--format", "{{.Id}}", demo)
    for tag, (flags, kind) in wanted.items():
        image = f"{target}/formats:{tag}"
        auto_box("push", "--digestfile", "digest", *flags, demo, image)
        raw = raw_manifest(image)
        manifest = json.loads(raw)
        assert (auto_box.home / "digest").read_text() == digest_of(raw)
        assert all(layer["mediaType"].endswith(kind) for layer in manifest["layers"])
        assert manifest["config"]["digest"] == f"sha256:{image_id}"
        copy = f"dir:{tmp_path / tag}"
        subprocess.run(
            ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}", copy],
            check=True,
            capture_output=True,
        )
        assert auto_box.text("run", "--rm", "-q", image, "cat", "/etc/motd") == "three layers"


def test_buildah_reads_what_was_pushed(auto_box: Rcontain, demo: str, target: str, tmp_path: Path) -> None:
    auto_box("push", "-q", demo, f"{target}/for/buildah")
    environment = {**os.environ, "HOME": str(tmp_path)}
    common = [
        "buildah",
        "--storage-driver",
        "vfs",
        "--root",
        str(tmp_path / "root"),
        "--runroot",
        str(tmp_path / "run"),
    ]
    pulled = subprocess.run(
        [*common, "pull", "-q", "--tls-verify=false", f"{target}/for/buildah"],
        capture_output=True, env=environment, check=True, timeout=60,
    )  # fmt: skip
    assert pulled.stdout.decode().strip() == auto_box.text("inspect", "--format", "{{.Id}}", demo)
    subprocess.run([*common, "rmi", "-a"], capture_output=True, env=environment, check=True, timeout=60)


def test_layers_that_are_not_packed_get_packed(auto_box: Rcontain, target: str, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    layout.image("plain", [pack(layer, "none") for layer in demo_layers()], demo_config())
    push(layout.path, "plain", target, "plain:origin")
    auto_box("pull", "-q", f"{target}/plain:origin")
    auto_box("push", "-q", f"{target}/plain:origin", f"{target}/plain:packed")
    manifest = json.loads(raw_manifest(f"{target}/plain:packed"))
    assert all(layer["mediaType"].endswith("tar+gzip") for layer in manifest["layers"])
    assert auto_box.text("run", "--rm", "-q", f"{target}/plain:packed", "cat", "/etc/motd") == "three layers"


def test_passwords_tokens_and_certificates(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    with token_server(str(tmp_path)) as tokens, registry(str(tmp_path), tokens=tokens) as address:
        tokens.users["ann"] = "secret"
        said = complaint(auto_box("push", "-q", "--retry", "0", demo, f"{address}/ann/x", check=False))
        assert address in said
        auto_box("push", "-q", "--creds", "ann:secret", demo, f"{address}/ann/x")
        assert raw_manifest(f"{address}/ann/x", "--creds", "ann:secret") == raw_manifest(demo)
    authority = Authority(str(tmp_path / "authority"))
    (tmp_path / "htpasswd").write_bytes(subprocess.check_output(["htpasswd", "-nbB", "ann", "secret"]))
    certificate = authority.issue("server")
    (tmp_path / "tls").mkdir()
    with registry(str(tmp_path / "tls"), htpasswd=str(tmp_path / "htpasswd"), certificate=certificate) as address:
        (tmp_path / "trust").mkdir()
        (tmp_path / "trust" / "ca.crt").write_bytes(Path(authority.path).read_bytes())
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {address: {"auth": "YW5uOnNlY3JldA=="}}}))
        flags = ("--cert-dir", str(tmp_path / "trust"), "--tls-verify=true", "--retry", "0")
        said = complaint(auto_box("push", "-q", *flags, demo, f"{address}/x", check=False))
        assert "log in" in said
        auto_box("push", "-q", *flags, "--authfile", str(tmp_path / "auth.json"), demo, f"{address}/x")
        assert raw_manifest(f"{address}/x", "--creds", "ann:secret") == raw_manifest(demo)


def test_a_push_on_a_bad_line(auto_box: Rcontain, demo: str, target: str) -> None:
    with fault_proxy(target) as proxy:
        proxy.reset(
            Fault("/blobs/", "HEAD", status=503), Fault("/blobs/uploads/", "POST", cut=0, reset=True),
            Fault("/blobs/uploads/", "PUT", uploaded=1000, times=2), Fault("/manifests/", "PUT", status=500),
        )  # fmt: skip
        auto_box("push", "-q", "--retry-delay", "10ms", demo, f"{proxy.address}/bad/line")
    assert raw_manifest(f"{target}/bad/line") == raw_manifest(demo)


def test_a_damaged_layer_never_leaves(box: Rcontain, target: str, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    layout.image("x", [pack(tar([file("x", os.urandom(100_000))]))], {"Cmd": ["x"]})
    push(layout.path, "x", target, "damaged/origin:x")
    box("pull", "-q", f"{target}/damaged/origin:x")
    layer = json.loads(raw_manifest(f"{target}/damaged/origin:x"))["layers"][0]["digest"].removeprefix("sha256:")
    [path] = box.data.glob(f"**/blobs/sha256/{layer}")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = complaint(
        box("push", f"{target}/damaged/origin:x", f"{target.replace('127.0.0.1', 'localhost')}/to", check=False)
    )
    assert "damaged" in said
    listing = subprocess.run(
        ["skopeo", "list-tags", "--tls-verify=false", f"docker://{target}/to"], capture_output=True, check=False
    )
    assert listing.returncode != 0


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive", "dir"])
def test_places_in_files(auto_box: Rcontain, demo: str, transport: str, tmp_path: Path) -> None:
    place = f"{transport}:{tmp_path}/place" + ("" if transport == "dir" else ":example.org/demo:1")
    auto_box("push", "-q", "--digestfile", "digest", demo, place)
    inspected = subprocess.run(
        ["skopeo", "inspect", "--config", "--raw", place], capture_output=True, check=True
    ).stdout
    assert digest_of(inspected) == f"sha256:{auto_box.text('inspect', '--format', '{{.Id}}', demo)}"
    if transport.startswith("oci"):
        assert (auto_box.home / "digest").read_text() == digest_of(raw_manifest(demo))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-image"], "no image"),
        (["DEMO", "BLOCKED/x"], "blocked"),
        (["-f", "v2s2", "--compression-format", "zstd", "DEMO"], "v2s2"),
        (["--compression-format", "gzip", "--compression-level", "12", "DEMO"], "levels"),
        (["--force-compression", "DEMO"], "--compression-format"),
        (["-f", "v2s2", "DEMO", "oci:layout"], "OCI"),
        (["--compression-format", "gzip", "DEMO", "docker-archive:x.tar"], "not packed"),
        (["DEMO", "containers-storage:x"], "containers-storage"),
        (["DEMO", "127.0.0.1:9/x"], "127.0.0.1:9"),
        (["--digestfile", "/nowhere/x", "DEMO", "TARGET/x"], "/nowhere/x"),
    ],
)
def test_one_sentence(auto_box: Rcontain, demo: str, target: str, arguments: list[str], said: str) -> None:
    directory = auto_box.home / ".config/containers"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "registries.conf").write_text('[[registry]]\nlocation = "blocked.example"\nblocked = true\n')
    words = {"DEMO": demo, "BLOCKED/x": "blocked.example/x", "TARGET/x": f"{target}/x"}
    try:
        done = auto_box("push", *(words.get(word, word) for word in arguments), check=False)
    finally:
        (directory / "registries.conf").unlink()
    assert said in complaint(done)
