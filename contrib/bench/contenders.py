"""The file systems that contrib/bench/fs compares, and how each is mounted: as root of a user namespace."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from material import Stack

from fuse.frames import FrameCache
from fuse.layers import Layer
from fuse.layers.archive import ArchiveLayer
from fuse.layers.directory import DirectoryLayer
from fuse.server import MountOptions, serve
from fuse.syscalls import MNT_DETACH, MountFlag, mount, umount

PATIENCE = 30.0
"""Seconds that a server has for its first answer."""


class Mounted:
    """A mount that answers."""

    def __init__(self, base: str, pid: int, seconds: float) -> None:
        self.path = f"{base}/merged"
        self.pid = pid
        """The server's process; 0 where there is none."""
        self.seconds = seconds
        """From the decision to mount to the first answer."""

    def memory(self) -> int:
        """Resident bytes of the server, proc_pid_status(5) VmRSS."""
        with open(f"/proc/{self.pid}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))


class Contender(Protocol):
    name: str
    title: str

    def start(self, stack: Stack, base: str) -> int:
        """Mount at base/merged over base/upper; the server's process id, 0 for none."""


class Ours:
    """rcontain's overlay. The server is forked from a process that has it imported, as the engine does it."""

    def __init__(self, name: str, title: str, *, archives: bool = True, options: MountOptions | None = None) -> None:
        self.name = name
        self.title = title
        self._archives = archives
        self._options = options

    def start(self, stack: Stack, base: str) -> int:
        return self._serve(stack, f"{base}/merged", f"{base}/upper", f"{base}/work")

    def _serve(self, stack: Stack, target: str, upper: str | None, work: str | None) -> int:
        cache = FrameCache()
        layers: list[Layer] = (
            [ArchiveLayer(index, frames, "frames", cache=cache) for index, frames in stack.archives]
            if self._archives
            else [DirectoryLayer(path) for path in stack.trees]
        )
        ready, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(ready)
                status = not serve(
                    target,
                    layers,
                    upper,
                    work,
                    options=self._options,
                    ready_fd=writing,
                    cache=cache,
                )
            except BaseException:  # noqa: BLE001  shown, then told by the status
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        for layer in layers:
            layer.close()
        with os.fdopen(ready, "rb") as pipe:
            answer = pipe.read()
        if answer != b"1":
            raise SystemExit(f"bench: {self.name}: {answer.decode().strip() or 'the server died'}")
        return pid


class Packed(Ours):
    """The kernel's overlayfs over rcontain's, which serves the layers alone, read-only."""

    def __init__(self, name: str, title: str) -> None:
        super().__init__(name, title, options=MountOptions(flags=MountFlag.RDONLY, beneath=True, acls=True))

    def start(self, stack: Stack, base: str) -> int:
        os.makedirs(f"{base}/layers", exist_ok=True)
        pid = self._serve(stack, f"{base}/layers", None, None)
        options = f"lowerdir={base}/layers,upperdir={base}/upper,workdir={base}/work,userxattr,xino=on"
        mount(b"overlay", f"{base}/merged".encode(), b"overlay", MountFlag(0), options.encode())
        umount(f"{base}/layers".encode(), MNT_DETACH)
        return pid


class FuseOverlayfs:
    """fuse-overlayfs(1) over the extracted trees."""

    name = "fuse-overlayfs"

    def __init__(self, command: list[str]) -> None:
        self._command = command
        output = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        self.title = next(line for line in output.splitlines() if "overlay" in line).replace(": version", "")

    def start(self, stack: Stack, base: str) -> int:
        options = f"lowerdir={':'.join(stack.trees)},upperdir={base}/upper,workdir={base}/work"
        before = os.stat(f"{base}/merged").st_dev
        with open(f"{base}/log", "wb") as log:
            process = subprocess.Popen(
                [*self._command, "-f", "-o", options, f"{base}/merged"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while os.stat(f"{base}/merged").st_dev == before:
            if process.poll() is not None or time.monotonic() > deadline:
                with open(f"{base}/log", errors="replace") as reason:
                    raise SystemExit(f"bench: fuse-overlayfs did not mount: {reason.read().strip()}")
            time.sleep(0.0002)
        process.returncode = 0  # it is waited for by its number
        return process.pid


class KernelOverlay:
    """The kernel's overlayfs over the extracted trees."""

    name = "overlay"
    title = "kernel overlay"

    def start(self, stack: Stack, base: str) -> int:
        options = f"lowerdir={':'.join(stack.trees)},upperdir={base}/upper,workdir={base}/work,userxattr"
        mount(b"overlay", f"{base}/merged".encode(), b"overlay", MountFlag(0), options.encode())
        return 0


@contextmanager
def mounted(contender: Contender, stack: Stack, base: str) -> Iterator[Mounted]:
    """Mount, and unmount in the end; base/upper keeps what it has."""
    for name in ("upper", "work", "merged"):
        os.makedirs(f"{base}/{name}", exist_ok=True)
    started = time.perf_counter()
    pid = contender.start(stack, base)
    try:
        os.stat(f"{base}/merged/.")
        yield Mounted(base, pid, time.perf_counter() - started)
    finally:
        _stop(f"{base}/merged", pid)


def _stop(path: str, pid: int) -> None:
    """What is still open in it, after a failure, ends with its server; a server that died has taken its mount along."""
    try:
        umount(os.fsencode(path))
    except OSError as error:
        if error.errno != errno.EINVAL:
            umount(os.fsencode(path), MNT_DETACH)
        if pid:
            os.kill(pid, signal.SIGTERM)
    if pid:
        os.waitpid(pid, 0)


def clear(base: str) -> None:
    shutil.rmtree(base, ignore_errors=False)
