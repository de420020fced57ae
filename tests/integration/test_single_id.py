"""Containers of a user without subordinate ids: images with many owners, and what is stored of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.nosub,
    pytest.mark.fuse,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]

STAT = "stat -c '%u:%g %a' /home/user/.profile /srv /srv/kept /usr/bin/su-id"


def stored(box: Rcontain, name: str, path: str) -> bytes:
    id = box.text("inspect", "--format", "{{.Id}}", name)
    upper = Path(box.data) / "rcontain" / "containers" / id / "upper"
    return os.getxattr(upper / path, "user.containers.override_stat")


def test_an_image_of_many_owners_is_roots_and_keeps_them(auto_box: Rcontain, demo: str) -> None:
    box = auto_box
    box("run", "-d", "--name", "one", "--network", "none", demo, "sleep", "1000")
    assert box.text("exec", "one", "sh", "-c", STAT).splitlines() == ["0:0 644", "0:0 2775", "0:0 644", "0:0 4755"]
    box("exec", "one", "sh", "-c", "echo more >> /srv/kept; chmod 3777 /srv; mv /usr/bin/su-id /usr/bin/so; mkfifo /f")
    box("stop", "-t", "0", "one")
    box("start", "one")
    after = box.text("exec", "one", "sh", "-c", "cat /srv/kept; stat -c '%u:%g %a' /srv /usr/bin/so; test -p /f")
    assert after.splitlines() == ["kept", "more", "0:0 3777", "0:0 4755"]
    assert stored(box, "one", "srv/kept") == b"1000:50:0644:file"
    assert stored(box, "one", "srv") == b"0:50:3777:dir"
    assert stored(box, "one", "usr/bin/so") == b"0:0:4755:file"
    assert stored(box, "one", "f") == b"0:0:0644:pipe"
    box("rm", "-f", "-t", "0", "one")


def test_a_change_of_owner_fails_or_is_ignored(auto_box: Rcontain, demo: str) -> None:
    script = "touch /f; chown 33 /f 2>/dev/null; echo $?; chown -h root:root /f; echo $?; stat -c %u /f"
    run = ("run", "--rm", "--network", "none")
    assert auto_box.text(*run, demo, "sh", "-c", script).split() == ["1", "0", "0"]
    ignoring = (*run, "--security-opt", "ignore-chown-errors")
    assert auto_box.text(*ignoring, demo, "sh", "-c", script).split() == ["0", "0", "0"]
    kept = auto_box.text(*ignoring, "--userns", "keep-id", demo, "sh", "-c", "chown 0 /tmp; echo $?; stat -c %u /tmp")
    assert kept.split() == ["0", str(os.getuid())]
