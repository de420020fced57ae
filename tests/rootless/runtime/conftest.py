"""A busybox root filesystem for real containers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.userns import in_namespaces
from tests.rootless.runtime.box import Box

APPLETS = (
    "sh ls cat sleep id mount umount true false hostname grep ps tty stty touch mkdir rm stat readlink uname head wc"
    " kill echo env pwd mknod chown"
)

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:Web:/srv/web:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:1000:\nmedia:x:44:web\n"


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[Path]:
    """A directory with Debian's static busybox, an /etc/passwd and an /etc/group."""
    root = tmp_path / "rootfs"
    for directory in ("bin", "etc", "proc", "sys", "dev", "tmp", "srv/web"):
        (root / directory).mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", root / "bin/busybox")
    for applet in APPLETS.split():
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    yield root
    # Files of subordinate ids belong to the container's users; only root of the namespace can remove them.
    in_namespaces(lambda: shutil.rmtree(root))


@pytest.fixture
def box(rootfs: Path) -> Box:
    return Box(rootfs)
