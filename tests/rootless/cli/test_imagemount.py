"""image mount and unmount, with a process that stands for the server: what is printed, counted, refused, removed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.errors import HostError
from rootless.image.store import Store
from tests.kit import imageserver

from .conftest import HELLO, NAME, CommandLine, FakeSession


class Outside:
    """What the client would do. `asked` are the words of each time; `fails` is the reason why it cannot."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.servers: list[subprocess.Popen[bytes]] = []
        self.fails = ""

    def __call__(self, *words: str) -> str:
        self.asked.append(words)
        if self.fails:
            raise HostError(self.fails)
        if words[0] != "--unmount":
            self.servers.append(imageserver.start(words[1]))
        return ""


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    found = Outside()
    monkeypatch.setattr(FakeSession, "outside", lambda session, *words: found(*words), raising=False)
    yield found
    for server in found.servers:
        imageserver.kill(server)


@pytest.fixture
def two(cli: CommandLine, outside: Outside) -> CommandLine:
    cli.images()
    Store(cli.settings.data).prepare()
    return cli


def id_of(cli: CommandLine, name: str) -> str:
    return Store(cli.settings.data).resolve(name).id


def directories(cli: CommandLine) -> list[str]:
    """Of images below the runtime directory."""
    return [entry.name for entry in Path(cli.settings.runtime).glob("mounts/*/*") if entry.name != "lock"]


def test_a_life(two: CommandLine, outside: Outside) -> None:
    id = id_of(two, NAME)
    (point,) = two.lines("image", "mount", NAME)
    assert point.startswith(two.settings.runtime) and point.endswith(f"/{id}/rootfs") and os.path.isdir(point)
    ((mountpoint, state, *layers),) = outside.asked
    assert (mountpoint, state) == (point, os.path.dirname(point))
    assert layers[::3] == ["frames", "frames"] and all(map(os.path.exists, layers[1::3] + layers[2::3]))
    image = Store(two.settings.data).resolve(NAME)
    assert [image.layers[-1].diff_id.hex in path for path in layers[1::3]] == [True, False], "topmost first"
    assert two.lines("image", "mount")[1:] == [f"{id[:12]}  {NAME}  {point}"]
    assert two.json("image", "mount", "--format", "json") == [
        {"id": id, "Names": [NAME], "Repositories": [NAME], "mountpoint": point}
    ]
    assert two.lines("image", "unmount", NAME) == [id]
    assert directories(two) == [] and two.json("image", "mount", "--format", "json") == []


def test_who_mounts_twice_unmounts_twice(two: CommandLine, outside: Outside) -> None:
    id = id_of(two, HELLO)
    points = two.lines("image", "mount", "hello") + two.lines("image", "mount", id)
    assert len(set(points)) == 1 and len(outside.asked) == 1
    assert two.lines("image", "umount", "hello") == [id]
    assert directories(two) == [id]
    two("untag", HELLO)
    assert two.lines("image", "umount", "hello") == [id], "by the name that it had"
    assert directories(two) == []
    for _ in range(3):
        two.lines("image", "mount", id)
    assert two.lines("image", "unmount", "-f", id[:5]) == [id]
    assert directories(two) == []


def test_all(two: CommandLine) -> None:
    ids = {id_of(two, HELLO), id_of(two, NAME)}
    table = two.lines("image", "mount", "-a")
    assert table[0].split() == ["IMAGE", "ID", "NAME", "MOUNT", "POINT"] and len(table) == 3
    assert set(two.lines("image", "mount", "--format", "{{.Id}}")) == ids
    assert len(two.lines("image", "mount", HELLO, NAME, "--format", "{{.Path}}")) == 2
    assert set(two.lines("image", "unmount", "-a", "-f")) == ids
    assert two.lines("image", "unmount", "-a") == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["mount", "-a", "hello"], "when using the --all switch"),
        (["unmount", "-a", "hello"], "when using the --all switch"),
        (["unmount"], "image name or ID must be specified"),
        (["mount", "nothing"], "nothing"),
        (["unmount", "nothing"], "nothing"),
        (["unmount", "hello"], "image hello is not mounted"),
    ],
)
def test_mistakes(two: CommandLine, words: list[str], reason: str) -> None:
    result = two("image", *words)
    assert result.code == 125 and reason in result.err and result.err.count("\n") == 1
    assert directories(two) == []


def test_the_others_are_mounted(two: CommandLine) -> None:
    result = two("image", "mount", "nothing", HELLO)
    assert result.code == 125 and result.err.count("\n") == 1 and id_of(two, HELLO)[:12] in result.out
    assert two("image", "unmount", "-a").code == 0


def test_it_cannot_be_mounted(two: CommandLine, outside: Outside) -> None:
    outside.fails = "cannot mount: fusermount3, which is not installed"
    result = two("image", "mount", HELLO)
    assert result.code == 125 and "apt install fuse3" in result.err and result.err.count("\n") == 1
    assert directories(two) == []


def test_an_interrupt_leaves_nothing(two: CommandLine, outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(session: FakeSession, *words: str) -> str:
        outside(*words)
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeSession, "outside", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        assert two("image", "mount", HELLO).code
    assert outside.servers[0].wait() and directories(two) == []


def test_a_killed_server_is_noticed_once(two: CommandLine, outside: Outside) -> None:
    (point,) = two.lines("image", "mount", HELLO)
    imageserver.kill(outside.servers[0])
    result = two("image", "mount")
    assert result.code == 0 and len(result.out.splitlines()) == 1
    assert result.err == f"Warning: the server of image {HELLO} at {point} was killed; the mount is gone\n"
    assert outside.asked[-1] == ("--unmount", point)
    assert two.lines("image", "mount", HELLO) == [point], "it is mounted anew"
    two("image", "unmount", "-a")


def test_a_command_that_was_killed(two: CommandLine, outside: Outside) -> None:
    """It could not say any more that the image is mounted."""
    (point,) = two.lines("image", "mount", HELLO)
    os.unlink(f"{os.path.dirname(point)}/mount.json")
    assert two.json("image", "mount", "--format", "json") == []
    assert two.lines("image", "mount", HELLO) == [point]
    assert outside.servers[0].wait() and len(outside.servers) == 2
    os.unlink(f"{os.path.dirname(point)}/mount.json")
    assert two.lines("image", "unmount", "-a") == [id_of(two, HELLO)]
    assert directories(two) == []


def test_a_mounted_image_stays(two: CommandLine) -> None:
    id = id_of(two, NAME)
    (point,) = two.lines("image", "mount", NAME)
    result = two("rmi", NAME)
    assert result.code == 2 and f"image {id[:12]} is mounted at {point}" in result.err
    hello = id_of(two, HELLO)
    assert two.lines("image", "prune", "-a", "-f") == [hello]
    assert id_of(two, NAME) == id
    assert two("rmi", "-f", NAME).code == 0
    assert directories(two) == [] and two("image", "exists", NAME).code == 1
