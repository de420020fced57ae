"""What the README promises first: contrib/quickstart on a fresh account, the way a new user runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit.command import CHECKOUT, Rcontain

pytestmark = [pytest.mark.userns, pytest.mark.fuse, pytest.mark.tun, pytest.mark.registry, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_a_new_user_gets_a_running_container(rcontain: Rcontain) -> None:
    """Twice, since it may be run again at any time."""
    environment = {**rcontain.environment, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for _ in range(2):
        done = subprocess.run(
            [CHECKOUT / "contrib/quickstart"], env=environment, cwd=rcontain.home, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Hello from a rootless container." in done.stdout
        assert "uid=0(root) gid=0(root)" in done.stdout
        assert "1 packets received" in done.stdout
        assert "/etc/outdated: No such file or directory" in done.stdout
        assert f" 0 {os.getuid()} 1" in " ".join(done.stdout.split())
        assert "<h1>It works in a container.</h1>" in done.stdout
    installed = Path(rcontain.home, ".local/bin/rcontain")
    done = subprocess.run([installed, "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "run" in done.stdout
    subprocess.run([installed, "engine", "stop"], env=environment, check=True, capture_output=True)
