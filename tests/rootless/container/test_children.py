"""Helper processes of a supervisor."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import trio

from rootless.container.children import fork_child


async def test_helpers_do_not_end_by_sigterm(tmp_path: Path) -> None:
    """systemd sends it to all processes of a unit that stops; the container has to stop first."""
    reading, writing = os.pipe()

    def stay() -> None:
        os.write(writing, b"x")
        signal.pause()

    with trio.fail_after(30):
        child = fork_child("test", stay, keep=(writing,), log=str(tmp_path / "log"))
        os.close(writing)
        await trio.to_thread.run_sync(os.read, reading, 1)
        os.kill(child.pid, signal.SIGTERM)
        assert int(field(child.pid, "ShdPnd"), 16)
        child.kill()
        await child.ended()
        child.reap()
    os.close(reading)


def field(pid: int, name: str) -> str:
    """proc(5), status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
