"""rcontain pull, from a registry on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.images import Layout, file, pack, tar
from tests.kit.registry import Answer, Request, fake_registry

from .conftest import CommandLine

PULL = ("--storage-driver", "fuse", "pull")


@pytest.fixture
def layout(tmp_path: Path) -> str:
    made = Layout(str(tmp_path / "layout"))
    made.image("latest", [pack(tar([file("a", b"a")]))], {"Cmd": ["/a"]})
    made.image("other", [pack(tar([file("b", b"b")]))], architecture="riscv64")
    return made.path


def test_pull_prints_the_id_on_stdout_and_the_rest_on_stderr(cli: CommandLine, layout: str) -> None:
    with fake_registry(layout) as registry:
        result = cli(*PULL, f"{registry.address}/x")
        assert result.code == 0, result.err
        (id,) = result.out.split()
        assert f"Pulling {registry.address}/x:latest" in result.err
        quiet = cli(*PULL, "-q", f"{registry.address}/x", f"docker://{registry.address}/y")
        assert (quiet.code, quiet.out, quiet.err) == (0, f"{id}\n{id}\n", "")
    assert cli.lines("images", "-q", "--no-trunc") == [f"sha256:{id}"]
    assert cli.lines("inspect", "-f", "{{index .RepoTags 0}}", id[:12]) == [f"{registry.address}/x:latest"]


def test_all_tags(cli: CommandLine, tmp_path: Path) -> None:
    made = Layout(str(tmp_path / "tags"))
    for number in range(3):
        made.image(f"t{number}", [pack(tar([file("a", b"%d" % number)]))], {"Cmd": ["/a"]})
    body = json.dumps({"name": "x", "tags": ["t0", "t1", "t2", f"sha256-{'0' * 64}.sig"]}).encode()

    def tags(request: Request) -> Answer | None:
        return Answer(200, body, {"Content-Type": "application/json"}) if "/tags/list" in request.path else None

    with fake_registry(made.path, tags) as registry:
        result = cli(*PULL, "-q", "-a", f"{registry.address}/x")
        assert (result.code, len(set(result.out.split()))) == (0, 3), result.err
        assert "is not a repository" in cli(*PULL, "-a", f"{registry.address}/x:t1").err
    assert "is not a repository" in cli(*PULL, "-a", f"oci:{made.path}").err
    assert {f"{registry.address}/x:t{number}" for number in range(3)} == set(
        cli.lines("images", "--format", "{{.Repository}}:{{.Tag}}")
    )


def test_images_in_files(cli: CommandLine, layout: str) -> None:
    (id,) = cli.lines(*PULL, "-q", f"oci:{layout}:latest")
    assert cli.lines("inspect", "-f", "{{index .RepoTags 0}}", id) == ["localhost/latest:latest"]
    assert "say which" in cli(*PULL, f"oci:{layout}").err
    assert "store of Podman" in cli(*PULL, "containers-storage:x").err


def test_no_such_tag(cli: CommandLine, layout: str) -> None:
    with fake_registry(layout) as registry:
        result = cli(*PULL, f"{registry.address}/x:nope")
    assert (result.code, result.out) == (125, "")
    assert "Error: " in result.err
    assert "Traceback" not in result.err
    assert cli.lines("images", "-q") == []


def test_platforms(cli: CommandLine, layout: str) -> None:
    with fake_registry(layout) as registry:
        name = f"{registry.address}/x:other"
        assert cli(*PULL, "--platform", "linux/riscv64", name).code == 0
        assert cli(*PULL, "--arch", "riscv64", name).code == 0
        assert "is not available for linux/s390x" in cli(*PULL, "--platform", "linux/s390x", name).err
        assert cli(*PULL, "--platform", "linux/arm64", "--arch", "arm64", name).code == 125
        assert cli(*PULL, "--platform", "a/b/c/d", name).code == 125


def test_wrong_flags(cli: CommandLine) -> None:
    assert "--creds is not USER:PASSWORD" in cli(*PULL, "--creds", "nobody", "x").err
    assert cli(*PULL, "--tls-verify=perhaps", "x").code == 125
    assert cli(*PULL).code == 125
