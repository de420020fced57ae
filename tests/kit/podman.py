"""Podman as a judge: it gets the directories of a command of ours, and leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def podman(
    *arguments: str, environment: Mapping[str, str], input: bytes = b"", program: str = "podman"
) -> subprocess.CompletedProcess[bytes]:
    """Run `podman ARGUMENTS` in an environment with an XDG_RUNTIME_DIR of its own, and end its pause process."""
    done = subprocess.run([program, *arguments], input=input, capture_output=True, env=dict(environment), timeout=120)
    pause = Path(environment["XDG_RUNTIME_DIR"]) / "libpod/tmp/pause.pid"
    with suppress(FileNotFoundError, ProcessLookupError):
        pid = int(pause.read_text())
        pause.unlink()
        os.kill(pid, signal.SIGKILL)
    return done
