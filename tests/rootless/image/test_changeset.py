"""Layers from upper directories: entries, whiteouts, and what is left out."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from fuse.layers import Layer
from fuse.layers.directory import DirectoryLayer
from rootless.image.changed import Changed, Owners, without_namespace
from rootless.image.changeset import TreeArchive, mount_points
from rootless.oci.tar import TarEntry
from tests.rootless.oci.test_tar import parse

ME = Owners([(0, os.getuid(), 1)], [(7, os.getgid(), 1)])


def trees(tmp_path: Path) -> tuple[Path, Path]:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for folder in (lower, upper, tmp_path / "work"):
        folder.mkdir()
    return lower, upper


def opened(tmp_path: Path) -> tuple[Changed, list[Layer]]:
    upper = Changed(str(tmp_path / "upper"), str(tmp_path / "work"), ME)
    return upper, [DirectoryLayer(str(tmp_path / "lower"))]


def packed(tmp_path: Path, left_out: frozenset[bytes] = frozenset()) -> dict[str, TarEntry]:
    parts: list[bytes] = []
    archive = TreeArchive(parts.append)
    upper, lowers = opened(tmp_path)
    archive.add_changes(upper, lowers, left_out=left_out)
    archive.finish()
    for tree in (upper, *lowers):
        tree.close()
    return {entry.path.decode(): entry for entry, _ in parse(b"".join(parts))}


def test_whiteouts_and_opaque_directories(tmp_path: Path) -> None:
    lower, upper = trees(tmp_path)
    (lower / "gone").write_text("x")
    (lower / "again" / "inner").mkdir(parents=True)
    (lower / "again" / "old").write_text("x")
    (upper / ".wh.gone").touch()
    (upper / ".wh.never").touch()
    (upper / "again").mkdir()
    (upper / "again" / ".wh..wh..opq").touch()
    (upper / "again" / "inner").mkdir()
    (upper / "again" / "inner" / "new").write_text("x")
    found = packed(tmp_path)
    assert sorted(found) == ["", ".wh.gone", "again", "again/.wh..wh..opq", "again/inner", "again/inner/new"]
    assert (found["again"].uid, found["again"].gid) == (0, 7)  # the image's ids, not ours


def test_hard_links_and_sockets(tmp_path: Path) -> None:
    _, upper = trees(tmp_path)
    (upper / "one").write_text("x")
    os.link(upper / "one", upper / "two")
    os.mkfifo(upper / "fifo")
    os.mknod(upper / "socket", 0o140644)
    found = packed(tmp_path)
    assert found["two"].hardlink == b"one"
    assert sorted(found) == ["", "fifo", "one", "two"]


def test_places_for_mounts(tmp_path: Path) -> None:
    lower, upper = trees(tmp_path)
    for folder in (lower / "etc", upper / "etc", upper / "made" / "data", upper / "kept" / "data", upper / "own"):
        folder.mkdir(parents=True)
    (upper / "etc" / "hosts").touch()
    (upper / "kept" / "file").write_text("x")
    (upper / "own" / "hosts").write_text("x")
    changed, lowers = opened(tmp_path)
    found = mount_points(changed, lowers, ["/etc/hosts", "/made/data", "/kept/data", "/own/hosts", "/proc"])
    assert found == {b"made", b"made/data", b"kept/data", b"etc/hosts"}  # /etc has another owner in the layer
    for tree in (changed, *lowers):
        tree.close()
    assert {"kept", "kept/file", "own", "own/hosts"} <= packed(tmp_path, found).keys()
    assert not {"made", "made/data", "kept/data", "etc/hosts"} & packed(tmp_path, found).keys()


def test_capabilities_lose_their_namespace() -> None:
    second = struct.pack("<5I", 0x02000001, 0x2000, 0, 0, 0)
    assert without_namespace(struct.pack("<6I", 0x03000001, 0x2000, 0, 0, 0, 1000)) == second
    assert without_namespace(second) == second
    assert without_namespace(b"short") == b"short"
