"""Containers of some of an image's layers, with all storage drivers."""

from __future__ import annotations

import json

import pytest

from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


def test_the_image_as_it_was(box: Rcontain, demo: str) -> None:
    """The demo image's third layer deletes /srv/removed, which the second adds."""
    script = "ls -d /srv/removed /etc/motd 2>/dev/null; true"

    def seen(*flags: str) -> str:
        return box.text("run", "--rm", *flags, demo, "sh", "-c", script)

    assert seen() == "/etc/motd"
    assert seen("--layers", "-1") == seen("--layers", "2") == "/srv/removed"
    assert seen("--layers", "-2") == ""
    done = box("run", "--rm", "--layers", "9", demo, "true", check=False)
    assert done.returncode == 125 and b"--layers 9 is out of range" in done.stderr


def test_a_single_layer(box: Rcontain, demo: str) -> None:
    layers = json.loads(box.text("image", "inspect", demo))[0]["RootFS"]["Layers"]
    bottom = layers[0].removeprefix("sha256:")[:12]
    assert box.text("run", "--rm", "--layer", bottom, demo, "sh", "-c", "echo $0", "sh") == "sh"
    box("create", "--name", "some", "--layer", bottom, demo, "ls", "/etc/shadow")
    assert box("start", "-a", "some").stdout == b"/etc/shadow\n"
    box("rm", "some")
    done = box("run", "--rm", "--layer", layers[-1], demo, "sh", check=False)
    assert done.returncode == 127  # what changes the others has no shell
