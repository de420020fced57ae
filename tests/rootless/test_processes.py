"""What proc(5) says of processes."""

from __future__ import annotations

import os
import subprocess

from rootless.processes import process_state


def test_a_living_process_a_zombie_and_none() -> None:
    mine = process_state(os.getpid())
    assert mine is not None and not mine.ended
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    zombie = process_state(child.pid)
    assert zombie is not None and zombie.ended and zombie.letter == "Z"
    assert zombie.start_time >= mine.start_time
    child.wait()
    assert process_state(child.pid) is None
