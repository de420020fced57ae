"""`python -m fuse.layermount MOUNTPOINT STATE KIND INDEX DATA [KIND INDEX DATA...]`: layers of an image, read-only, for
the one user who calls it, topmost first.

Whoever the layers name as owner, the files show as the caller's, with the modes that they have; set-id bits and device
nodes do nothing. It returns once the mount answers, and two processes stay: one serves, the other waits (attendant.py).
They end when the mount goes away, or take it away when told to end.

STATE is a directory. The file `server` in it holds the pid of the one that waits, and has its lock (fcntl(2), F_SETLK)
for as long as it lives. At the end of a mount that was taken away the directory is cleared, with the mount point if
that is in it; after the death of a server it stays, so that somebody can be told.

`python -m fuse.layermount --unmount MOUNTPOINT` takes a mount away whose server is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import sys

from fuse.attendant import (
    await_ready,
    clear_after,
    have_standard_descriptors,
    is_dead,
    let_go,
    start_server,
)
from fuse.mounting import unmount

SERVER = "server"
_USAGE = "usage: python -m fuse.layermount MOUNTPOINT STATE KIND INDEX DATA [KIND INDEX DATA...]"


def main(arguments: list[str] | None = None) -> int:
    """Mount, and return once the mount answers. 0, or 1 with a line on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    have_standard_descriptors()
    if len(words) == 2 and words[0] == "--unmount":
        return _take_away(words[1])
    if len(words) < 5 or len(words) % 3 != 2 or any(kind not in ("plain", "frames") for kind in words[2::3]):
        return _fail(_USAGE)
    mountpoint, state = os.path.realpath(words[0]), os.path.realpath(words[1])
    layers = [(words[at], words[at + 1], words[at + 2]) for at in range(2, len(words), 3)]
    readable, writable = os.pipe()
    if os.fork() == 0:
        os.setsid()
        let_go()
        try:
            _attend(mountpoint, state, layers, readable, writable)
        finally:
            os._exit(0)
    os.close(writable)
    reason = await_ready(readable)
    return 0 if reason is None else _fail(reason)


def _take_away(mountpoint: str) -> int:
    if is_dead(mountpoint):
        unmount(mountpoint)
        if is_dead(mountpoint):
            return _fail(f"cannot take the mount at {mountpoint} away: fusermount3 -u -z {mountpoint} fails")
    return 0


def _attend(mountpoint: str, state: str, layers: list[tuple[str, str, str]], readable: int, writable: int) -> None:
    """Starts the server, stays until it has ended, and clears away."""
    lock = os.open(f"{state}/{SERVER}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.write(writable, f"another process serves {mountpoint}\n".encode(errors="replace"))
        return
    os.ftruncate(lock, 0)
    os.write(lock, b"%d\n" % os.getpid())
    pid = start_server(lambda: _serve(mountpoint, layers, writable), readable)
    os.close(readable)
    os.close(writable)
    _watch(mountpoint, pid)
    _, status = os.waitpid(pid, 0)
    if clear_after(mountpoint, status) is None:
        _clear(state, mountpoint)


def _watch(mountpoint: str, server: int) -> None:
    """Waits for the end of the server; ends it when the mount has gone from here.

    The kernel tells a server only once the last copy of its mount is gone, and there are copies in every mount
    namespace that was made meanwhile, such as a container's.
    """
    seen = False
    with open("/proc/self/mountinfo", "rb") as mounts:
        # proc(5): a change of the mounts is an exceptional condition of this file.
        poll = select.poll()
        poll.register(mounts, select.POLLPRI)
        process = os.pidfd_open(server)
        poll.register(process, select.POLLIN)
        try:
            while True:
                there = is_mounted(mountpoint, mounts.read())
                if seen and not there:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(server, signal.SIGTERM)
                    return
                seen = seen or there
                if any(fd == process for fd, _ in poll.poll()):
                    return
                mounts.seek(0)
        finally:
            os.close(process)


def is_mounted(mountpoint: str, mountinfo: bytes) -> bool:
    """Whether proc_pid_mountinfo(5) lists something mounted there; the fifth field, with octal numbers for blanks."""
    name = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % found[0][0], os.fsencode(mountpoint))
    return any(line.split(b" ", 5)[4:5] == [name] for line in mountinfo.splitlines())


def _clear(state: str, mountpoint: str) -> None:
    if os.path.dirname(mountpoint) == state:
        with contextlib.suppress(OSError):  # something else is mounted there by now
            os.rmdir(mountpoint)
    for name in os.listdir(state):
        if os.path.join(state, name) != mountpoint and name != SERVER:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{state}/{name}")
    os.unlink(f"{state}/{SERVER}")  # the last one: whoever finds its lock held knows that somebody is here
    with contextlib.suppress(OSError):  # somebody has begun with the next mount
        os.rmdir(state)


def _serve(mountpoint: str, layers: list[tuple[str, str, str]], ready_fd: int) -> bool:
    # Not at the top: the process that waits would carry all of it.
    from fuse.errors import LayerError
    from fuse.frames import FrameCache
    from fuse.ids import IdMap, Owners
    from fuse.layers.archive import ArchiveLayer
    from fuse.server import MountOptions, serve
    from fuse.syscalls import MountFlag

    cache = FrameCache()
    try:
        opened = [
            ArchiveLayer(index, data, "frames" if kind == "frames" else "plain", cache=cache)
            for kind, index, data in layers
        ]
    except (OSError, LayerError) as error:
        os.write(ready_fd, f"cannot open a layer: {' '.join(str(error).split())}\n".encode(errors="replace"))
        return False
    return serve(
        mountpoint,
        opened,
        None,
        None,
        options=MountOptions(
            fsname="rcontain-image",
            flags=MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV,
            allow_other=False,
        ),
        ready_fd=ready_fd,
        cache=cache,
        layer_owners=Owners(IdMap(squash=os.getuid()), IdMap(squash=os.getgid())),
    )


def _fail(reason: str) -> int:
    print(" ".join(reason.split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
