"""-v, --mount, --tmpfs: what they mean, and what they may not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.cli.mounts import parse_mount, parse_tmpfs, parse_volume
from rootless.errors import UsageError


def test_a_path_is_a_bind_mount(tmp_path: Path) -> None:
    request = parse_volume(f"{tmp_path}:/inside", "/")
    assert (request.type, request.source, request.destination) == ("bind", str(tmp_path), "/inside")
    assert request.options == () and not request.chown


@pytest.mark.parametrize("source", [".", "./", "./sub/..", "sub/.."])
def test_relative_paths_start_from_the_callers_directory(tmp_path: Path, source: str) -> None:
    (tmp_path / "sub").mkdir()
    assert parse_volume(f"{source}:/x", str(tmp_path)).source == str(tmp_path)


def test_a_dangling_link_is_a_source(tmp_path: Path) -> None:
    """Whether it leads somewhere is seen at the start."""
    (tmp_path / "link").symlink_to("nowhere")
    assert parse_volume(f"{tmp_path}/link:/x", "/").source == f"{tmp_path}/link"


def test_a_name_is_a_volume() -> None:
    named, anonymous = parse_volume("data:/x", "/"), parse_volume("/x", "/")
    assert (named.type, named.source, named.copy) == ("volume", "data", True)
    assert (anonymous.type, anonymous.source, anonymous.destination) == ("volume", "", "/x")
    assert not parse_volume("data:/x:nocopy", "/").copy


def test_options(tmp_path: Path) -> None:
    request = parse_volume(f"{tmp_path}:/x:ro,Z,U,rshared,noexec", "/")
    assert request.options == ("ro", "rshared", "noexec") and request.chown


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":/x",
        "a:",
        "/tmp:/x:ro:more",
        "/tmp:x",
        "/tmp:/",
        "/tmp:/.",
        "/tmp:/x:nonsense",
        "a b:/x",
        "-a:/x",
        "/nosuch/dir:/x",
    ],
)
def test_malformed_volumes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_volume(text, "/")


def test_mount_spelled_out(tmp_path: Path) -> None:
    for words in (
        "src={0},dst=/x,ro",
        "source={0},destination=/x,readonly",
        "source={0},target=/x,ro=true",
        "src={0},dst=/x,rw=false",
    ):
        request = parse_mount("type=bind," + words.format(tmp_path), "/")
        assert (request.type, request.source, request.destination, request.options) == (
            "bind",
            str(tmp_path),
            "/x",
            ("ro",),
        )
    request = parse_mount(f"type=bind,src={tmp_path},dst=/x,ro=false,bind-propagation=rshared", "/")
    assert request.options == ("rshared",)


def test_mount_of_a_name_in_the_callers_directory(tmp_path: Path) -> None:
    (tmp_path / "name").touch()
    assert parse_mount("type=bind,src=name,dst=/x", str(tmp_path)).source == str(tmp_path / "name")


def test_mount_of_volumes_and_tmpfs() -> None:
    assert parse_mount("dst=/x", "/").type == "volume"
    assert parse_mount("type=volume,src=data,dst=/x,volume-nocopy", "/").copy is False
    request = parse_mount("type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=1770,noexec", "/")
    assert request.type == "tmpfs" and {"size=1m", "mode=1770", "noexec", "nosuid", "nodev"} <= set(request.options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type=bind",
        "type=bind,src=/tmp",
        "type=bind,dst=/x",
        "type=tmpfs",
        "type=nonsense,dst=/x",
        "type=bind,src=/tmp,dst=/x,a=b",
        "type=tmpfs,dst=x",
        "type=tmpfs,dst=/x,tmpfs-mode=rwx",
        "type=volume,src=a b,dst=/x",
    ],
)
def test_malformed_mounts(text: str) -> None:
    with pytest.raises(UsageError):
        parse_mount(text, "/")


def test_tmpfs() -> None:
    assert {"nosuid", "nodev"} <= set(parse_tmpfs("/x").options)
    assert {"size=64m", "mode=755"} <= set(parse_tmpfs("/x:size=64m,mode=755").options)
    assert "size=50%" in parse_tmpfs("/x:size=50%").options


@pytest.mark.parametrize(
    "text",
    ["", "x", "/", "/x:nonsense", "/x:size=lots", "/x:mode=9", "/x:uid=root", "/x:size", "/x:ro=1", "/x:size=1m,"],
)
def test_malformed_tmpfs(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tmpfs(text)
