"""images, rmi, tag, untag, exists."""

from __future__ import annotations

import json
import os

import pytest

from rootless.image.store import Store
from rootless.oci.documents import Document
from rootless.oci.reference import Reference

from .conftest import HELLO, NAME, RUNNING, CommandLine


@pytest.fixture
def two(cli: CommandLine) -> CommandLine:
    cli.images()
    return cli


def image_id(cli: CommandLine, name: str) -> str:
    return Store(cli.settings.data).resolve(name).id


def names(cli: CommandLine, *argv: str) -> list[str]:
    return sorted(cli.lines("images", "--format", "{{.Repository}}:{{.Tag}}", *argv))


def test_an_empty_store(cli: CommandLine) -> None:
    assert cli.lines("images") == ["REPOSITORY  TAG         IMAGE ID    CREATED     SIZE"]
    assert cli.json("images", "--format", "json") == []


def test_the_table(two: CommandLine) -> None:
    heading, *rows = two.lines("image", "ls", "--sort", "repository")
    assert heading.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    hello, demo = rows
    assert hello.split()[:3] == ["docker.io/library/hello", "latest", image_id(two, HELLO)[:12]]
    assert demo.split()[:3] == ["registry.example.org/team/demo", "1", image_id(two, NAME)[:12]]
    assert "ago" in demo
    assert two.lines("images", "-n", "--sort", "repository") == rows
    assert "sha256:" + image_id(two, NAME) in two.lines("images", "--no-trunc", "--sort", "tag")[1]
    digests = two.lines("images", "--digests")
    assert "DIGEST" in digests[0]
    assert "sha256:" in digests[1]


def test_json_has_podmans_names(two: CommandLine) -> None:
    two.container("user", image_id=image_id(two, NAME))
    found = {image["Names"][0]: image for image in two.json("images", "--format", "json")}
    demo = found[NAME]
    assert demo["Id"] == image_id(two, NAME)
    assert demo["Labels"] == {"team": "a"}
    assert (demo["Containers"], found[HELLO]["Containers"]) == (1, 0)
    assert demo["CreatedAt"] == "2024-01-02T03:04:05Z"
    assert {"RepoTags", "RepoDigests", "Size", "VirtualSize", "Digest", "History", "Created"} <= demo.keys()


def test_quiet_prints_each_id_once(two: CommandLine) -> None:
    two("tag", NAME, "other:2")
    assert sorted(two.lines("images", "-q")) == sorted(image_id(two, name)[:12] for name in (NAME, HELLO))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["hello"], [HELLO]),
        (["docker.io/library/hello"], [HELLO]),
        (["registry.example.org/team/demo"], [NAME]),
        (["*example*"], [NAME]),
        (["nothing"], []),
        (["--filter", "reference=*demo*"], [NAME]),
        (["--filter", "label=team=a"], [NAME]),
        (["--filter", "label=team=b"], []),
        (["--filter", "dangling=true"], []),
        (["--filter", "dangling=false"], [HELLO, NAME]),
        (["--filter", "until=1s"], [HELLO, NAME]),
        (["--filter", "until=2023-01-01"], []),
    ],
)
def test_which_images(two: CommandLine, argv: list[str], expected: list[str]) -> None:
    assert names(two, *argv) == expected


@pytest.mark.parametrize("text", ["dangling=maybe", "bogus=1", "until=soon", "before=nothing"])
def test_wrong_filters(two: CommandLine, text: str) -> None:
    result = two("images", "--filter", text)
    assert (result.code, result.out) == (125, "")
    assert result.err.startswith("Error: ")


def test_a_damaged_image_is_told_and_can_be_removed(two: CommandLine) -> None:
    blobs = f"{two.settings.data}/blobs/sha256"
    layer = str(Store(two.settings.data).resolve(NAME).layers[1].blob).removeprefix("sha256:")
    os.unlink(f"{blobs}/{layer}")
    result = two("images", "-q")
    assert result.out.split() == [image_id(two, HELLO)[:12]]
    assert result.err.startswith(f"Warning: image {NAME} is damaged: ")
    assert two("rmi", NAME).code == 0
    assert two("images", "-q").err == ""


def test_rmi(two: CommandLine) -> None:
    id = image_id(two, NAME)
    two("tag", NAME, "other:2")
    assert two.lines("rmi", "other:2") == ["Untagged: localhost/other:2"]
    assert two.lines("image", "rm", NAME) == [f"Untagged: {NAME}", f"Deleted: {id}"]
    result = two("rmi", NAME, "hello")
    assert result.code == 1
    assert result.out.startswith(f"Untagged: {HELLO}\n")
    assert NAME in result.err
    assert two("rmi", "--ignore", NAME).code == 0


def test_rmi_of_an_image_in_use(two: CommandLine) -> None:
    container = two.container("user", image_id=image_id(two, NAME))
    result = two("rmi", NAME)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Error: image used by {container.id}: image is in use by a container; ")
    assert names(two) == [HELLO, NAME]
    two("tag", NAME, "other:2")
    assert two("rmi", NAME).code == 0
    assert two("rmi", "-f", "other:2").code == 0
    assert two.lines("ps", "-aq") == []


def test_rmi_all(two: CommandLine) -> None:
    two("tag", NAME, "other:2")
    assert two("rmi", "-a").code == 0
    assert names(two) == []
    assert two("rmi", "-a").code == 0


def test_rmi_wants_names(cli: CommandLine) -> None:
    assert cli("rmi").code == 125
    assert cli("rmi", "-a", "x").code == 125


def test_tag_and_untag(two: CommandLine) -> None:
    assert two("tag", "hello", "mine", "quay.io/a/b:c").code == 0
    assert names(two) == [HELLO, "localhost/mine:latest", "quay.io/a/b:c", NAME]
    assert two("untag", "hello", "mine").code == 0
    assert names(two) == [HELLO, "quay.io/a/b:c", NAME]
    assert two("untag", "hello").code == 0
    assert names(two) == ["<none>:<none>", NAME]
    assert len(two.lines("images", "-q", "--filter", "dangling=true")) == 1
    assert two("untag", NAME, "other").code == 125
    assert two("tag", "nothing", "x").code == 125
    assert two("tag", NAME, "bad//name").code == 125


def test_exists(two: CommandLine) -> None:
    two.container("web", RUNNING)
    assert two("container", "exists", "web").code == 0
    assert two("container", "exists", "bew") == type(two("version"))(1, "", "")
    assert two("image", "exists", "hello").code == 0
    assert two("image", "exists", "hallo").code == 1


def test_a_list_of_images(two: CommandLine) -> None:
    store = Store(two.settings.data)
    store.prepare()
    kind = "application/vnd.oci.image.index.v1+json"
    entries = [{"mediaType": one.manifest.media_type, "digest": str(one.digest), "size": 0} for one in store.images()]
    raw = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    found = store.add_index(Document(kind, raw), reference=Reference.parse("localhost/all:1"))
    rows = [line.split() for line in two.lines("images", "-n")]
    assert ["localhost/all", "1", found.short_id, "N/A"] in [row[:4] for row in rows]
    document = {image["Id"]: image for image in two.json("images", "--format", "json")}[found.id]
    assert document["IsManifestList"] and document["Names"] == ["localhost/all:1"]
    assert names(two, "--filter", "reference=all") == names(two, "all") == ["localhost/all:1"]
    assert len(names(two, "--filter", "label=team")) == 1
    assert len(two.lines("rmi", "-a")) == 6
    assert two.lines("images", "-q") == []
