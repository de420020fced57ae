"""image prune, system prune, system df."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from rootless.image.store import Store

from .conftest import EXITED, HELLO, NAME, RUNNING, CommandLine


@pytest.fixture
def two(cli: CommandLine) -> CommandLine:
    cli.images()
    Store(cli.settings.data).prepare()
    return cli


def ids(cli: CommandLine) -> dict[str, str]:
    return {image.names[0] if image.names else "": image.id for image in Store(cli.settings.data).images()}


def test_dangling_images(two: CommandLine) -> None:
    hello = ids(two)[HELLO]
    assert two.lines("image", "prune", "-f") == []
    two("untag", HELLO)
    assert two.lines("image", "prune", "-f", "--filter", "label=team") == []
    assert two.lines("image", "prune", "-f") == [hello]
    assert list(ids(two)) == [NAME]
    assert os.listdir(f"{two.settings.data}/tmp") == ["lock"]


def test_all_that_nobody_uses(two: CommandLine) -> None:
    found = ids(two)
    two.container("user", image_id=found[NAME])
    assert two.lines("image", "prune", "-a", "-f", "--filter", "until=2020-01-01T00:00:00Z") == []
    assert two.lines("image", "prune", "-a", "-f") == [found[HELLO]]
    assert list(ids(two)) == [NAME]
    assert two("image", "prune", "--filter", "colour=red", "-f").code == 125


@pytest.mark.parametrize(("answer", "left"), [("y\n", 1), ("n\n", 2), ("", 2)])
def test_it_asks(two: CommandLine, monkeypatch: pytest.MonkeyPatch, answer: str, left: int) -> None:
    two("untag", HELLO)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    result = two("image", "prune")
    assert result.code == 0 and "Are you sure you want to continue? [y/N]" in result.out
    assert len(ids(two)) == left


def test_system_prune(two: CommandLine) -> None:
    found = ids(two)
    stopped = two.container("stopped", EXITED, image_id=found[NAME])
    two.container("alive", RUNNING, alive=True, image_id=found[HELLO])
    Path(stopped.path, "upper/file").write_bytes(b"x" * 10000)
    os.makedirs(f"{two.settings.volumes}/unused/_data")
    lines = two.lines("system", "prune", "-f", "-a", "--volumes")
    assert lines[:-1] == ["Deleted Containers", stopped.id, "Deleted Volumes", "unused", "Deleted Images", found[NAME]]
    assert lines[-1].startswith("Total reclaimed space: ") and not lines[-1].endswith(" 0B")
    assert list(ids(two)) == [HELLO] and os.listdir(two.settings.volumes) == []
    assert two.lines("system", "prune", "-f") == ["Total reclaimed space: 0B"]


def test_df(two: CommandLine) -> None:
    stopped = two.container("stopped", EXITED, image_id=ids(two)[NAME])
    Path(stopped.path, "upper/file").write_bytes(b"x" * 10000)
    heading, *rows = two.lines("system", "df")
    assert heading.split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert [row.split()[:3] for row in rows[:2]] == [["Images", "2", "1"], ["Containers", "1", "0"]]
    images, containers, volumes = two.json("system", "df", "--format", "json")
    assert 0 < images["RawReclaimable"] < images["RawSize"]
    assert containers["RawReclaimable"] == containers["RawSize"] >= 10000
    assert volumes == {
        "Type": "Local Volumes",
        "Total": 0,
        "Active": 0,
        "RawSize": 0,
        "RawReclaimable": 0,
        "TotalCount": 0,
        "Size": "0B",
        "Reclaimable": "0B (0%)",
    }
    text = "\n".join(two.lines("system", "df", "-v"))
    for words in (
        "Images space usage:",
        "SHARED SIZE",
        "Containers space usage:",
        "stopped",
        "Local Volumes space usage:",
    ):
        assert words in text
    assert two("system", "df", "-v", "--format", "json").code == 125
