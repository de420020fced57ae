from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse.changes import ChangeKind, changes
from fuse.layers import Layer
from fuse.layers.archive import ArchiveLayer
from fuse.layers.directory import DirectoryLayer
from fuse.tree import Tree
from fuse.upper import UpperDirectory
from tests.fuse.archives import archive, directory, regular
from tests.fuse.model import Folder, Model
from tests.fuse.test_tree import ME, Overlay, layers, outcome
from tests.fuse.test_tree import changes as steps


def found(folder: Path, lower: Layer) -> list[str]:
    upper = DirectoryLayer(str(folder / "upper"))
    listed = [f"{change.kind.value} {change.path.decode()}" for change in changes(upper, [lower])]
    upper.close()
    lower.close()
    return listed


def test_added_changed_and_deleted(tmp_path: Path) -> None:
    entries = [
        directory("d", **ME),
        (regular("d/a", **ME), b"a"),
        (regular("d/b", **ME), b"b"),
        directory("e", **ME),
        (regular("e/f", **ME), b"f"),
        regular("g", **ME),
    ]
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    tree = Tree(
        [archive(str(tmp_path), "low", entries)], UpperDirectory(str(tmp_path / "upper"), str(tmp_path / "work"))
    )
    assert found(tmp_path, archive(str(tmp_path), "low", entries)) == []
    d = tree.directory(tree.lookup(tree.root, b"d").number)
    tree.unlink(d, b"a")
    tree.chmod(tree.lookup(d, b"b"), 0o600)
    tree.release(tree.create(d, b"new", 0o644, **ME))
    e = tree.directory(tree.lookup(tree.root, b"e").number)
    tree.unlink(e, b"f")
    tree.rmdir(tree.root, b"e")
    tree.unlink(tree.root, b"g")
    tree.mkdir(tree.root, b"g", 0o755, **ME)
    tree.close()
    assert found(tmp_path, archive(str(tmp_path), "low", entries)) == ["C d", "D d/a", "C d/b", "A d/new", "D e", "C g"]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(specs=layers, steps=st.lists(steps, max_size=8))
def test_names_that_come_and_go_are_in_it(specs: list[dict[bytes, object]], steps: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory(prefix="rc-changes-") as folder:
        overlay = Overlay(folder, specs, archives=False)
        before = {path for path, _ in Model(specs).walk()}
        for what, *arguments in steps:
            outcome(getattr(overlay, str(what)), *arguments)
        after = {path for path, _ in overlay.walk()}
        folders = {path for path, thing in Model(specs).walk() if isinstance(thing, Folder)}
        overlay.tree.close()
        lowers = [DirectoryLayer(f"{folder}/layer{number}") for number in range(len(specs))]
        upper = DirectoryLayer(folder + "/upper")
        listed = list(changes(upper, lowers))
        for layer in (upper, *lowers):
            layer.close()
        assert len({change.path for change in listed}) == len(listed)
        added = {change.path for change in listed if change.kind is ChangeKind.ADDED}
        deleted = {change.path for change in listed if change.kind is ChangeKind.DELETED}
        assert added == after - before
        for path in before - after:
            parents = [path[:at] for at in range(len(path)) if path[at : at + 1] == b"/"]
            replaced = any(
                one in folders and os.path.lexists(os.path.join(folder.encode(), b"upper", one)) for one in parents
            )
            assert path in deleted or any(one in deleted for one in parents) or replaced
        assert deleted <= before - after


def test_lower_directories_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [item for at in range(50) for item in (directory(f"d{at}", **ME), (regular(f"d{at}/f", **ME), b"x"))]
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    low = archive(str(tmp_path), "low", entries)
    tree = Tree([low], UpperDirectory(str(tmp_path / "upper"), str(tmp_path / "work")))
    for at in (3, 5):
        tree.release(tree.create(tree.directory(tree.lookup(tree.root, b"d%d" % at).number), b"new", 0o644, **ME))
    tree.unlink(tree.directory(tree.lookup(tree.root, b"d4").number), b"f")
    tree.close()

    def never(self: ArchiveLayer, _directory: int) -> NoReturn:
        raise AssertionError(f"{self} was listed")

    monkeypatch.setattr(ArchiveLayer, "entries", never)
    listed = found(tmp_path, archive(str(tmp_path), "low", entries))
    assert listed == ["C d3", "A d3/new", "C d4", "D d4/f", "C d5", "A d5/new"]
