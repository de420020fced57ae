"""A process that looks after the mount of an image, as far as anybody can see who only looks."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

_PROGRAM = """
import fcntl, os, signal, sys
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = open(sys.argv[1] + "/server", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
print("here", flush=True)
while True:
    signal.pause()
"""


def start(path: str, *, deaf: bool = False) -> subprocess.Popen[bytes]:
    """The process, once it has the lock of a mount's directory. It ends at SIGTERM, unless it is `deaf`."""
    words = [sys.executable, "-I", "-S", "-c", _PROGRAM, path, "deaf" if deaf else ""]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """End it without a chance to clear anything away, if it is still there."""
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextlib.contextmanager
def started(path: str, *, deaf: bool = False) -> Iterator[int]:
    """Its pid, for a while."""
    process = start(path, deaf=deaf)
    try:
        yield process.pid
    finally:
        kill(process)
