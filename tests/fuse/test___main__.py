"""fuse-overlayfs's command line."""

from __future__ import annotations

import pytest

from fuse.__main__ import main, parse
from fuse.syscalls import MountFlag


def test_a_mount_as_podman_asks_for_it() -> None:
    words = ["-o", "lowerdir=/l/A:/l/B,upperdir=/c/diff,workdir=/c/work,volatile,nodev,fsync=0", "/c/merged"]
    settings = parse(words)
    assert settings.lowers == ["/l/A", "/l/B"]
    assert (settings.upper, settings.work, settings.mountpoint) == ("/c/diff", "/c/work", "/c/merged")
    assert not settings.durable
    assert settings.flags == MountFlag.NODEV


def test_escapes_quotes_and_maps() -> None:
    settings = parse(
        [
            "-olowerdir=/a\\:b:/c\\,d",
            "-o",
            'context="system_u:object_r:x:s0:c1,c2",uidmapping=:0:1000:1:1:1:99',
            "/m",
            "-f",
        ]
    )
    assert settings.lowers == ["/a:b", "/c,d"]
    assert settings.uids.shown(0) == 1000
    assert settings.uids.stored(1000) == 0
    assert settings.foreground
    assert settings.flags == MountFlag.RDONLY


def test_squash() -> None:
    settings = parse(["-o", "lowerdir=/a,squash_to_uid=5,squash_to_gid=6", "/m"])
    assert (settings.uids.squash, settings.gids.squash) == (5, 6)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["/m"],
        ["-o"],
        ["-o", "lowerdir=/a", "/m", "/n"],
        ["-o", "lowerdir=/a,bogus=1", "/m"],
        ["-o", "lowerdir=/a,upperdir=/u", "/m"],
        ["-o", "lowerdir=/a,uidmapping=1:2", "/m"],
        ["-o", "lowerdir=/a,timeout=x", "/m"],
        ["-o", "lowerdir=/does/not/exist", "/m"],
        ["--bogus", "/m"],
    ],
)
def test_mistakes_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("rcontain-fuse-overlay: ")
    assert error.count("\n") == 1


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert "fuse-overlayfs: version" in capsys.readouterr().out
