"""Temporary directories inside the store, which the next command sweeps if their owner was killed.

A workspace is `tmp/<random>/` with a file `lock` that its owner holds locked. Everything that will be renamed into
the store is written in one, on the same file system. `tmp/lock` is held shared while a workspace comes into being and
exclusively while dead ones are swept, so that no sweeper sees one that is not locked yet.

NFS keeps a removed file under a name `.nfs…` in the same directory while anybody has it open. So a workspace is emptied
while it is locked, and its directory removed when the lock's file is closed.
"""

from __future__ import annotations

import errno
import os
import secrets

from rootless.errors import HostError
from rootless.image.lock import FileLock
from rootless.image.removal import remove_tree

_LOCK = "lock"
_STILL_OPEN = ".nfs"


class Workspace:
    """One temporary directory, as a context manager: removed with all it holds on exit."""

    def __init__(self, tmp: str) -> None:
        self._tmp = tmp
        self.path = os.path.join(tmp, secrets.token_hex(8))
        self._lock = FileLock(os.path.join(self.path, _LOCK))

    def __enter__(self) -> Workspace:
        with FileLock(os.path.join(self._tmp, _LOCK), shared=True):
            try:
                os.mkdir(self.path, 0o700)
            except OSError as error:
                raise HostError(f"cannot create {self.path}: {error.strerror}") from error
            self._lock.acquire()
        return self

    def __exit__(self, *details: object) -> None:
        _remove(self.path, self._lock)

    def file(self, name: str) -> str:
        """The path of `name` inside."""
        return os.path.join(self.path, name)


def sweep(tmp: str, *, wait: bool = False) -> int:
    """Remove workspaces and lock files whose owner is gone; returns how many. Never waits for one that is in use.

    With `wait` it does so even while another command sweeps.
    """
    try:
        names = [name for name in os.listdir(tmp) if name != _LOCK and not name.startswith(_STILL_OPEN)]
    except FileNotFoundError:
        return 0
    if not names:
        return 0
    swept = 0
    guard = FileLock(os.path.join(tmp, _LOCK))
    if not guard.acquire(wait=wait):
        return 0
    try:
        for name in names:
            path = os.path.join(tmp, name)
            is_file = name.endswith(".lock")
            if not os.path.lexists(path):
                continue  # its owner has just removed it
            lock = FileLock(path if is_file else os.path.join(path, _LOCK))
            try:
                if lock.acquire(wait=False):
                    _remove(path, lock)
                    swept += 1
            except HostError:
                if os.path.lexists(path):
                    raise
            finally:
                lock.release()
    finally:
        guard.release()
    return swept


def _remove(path: str, lock: FileLock) -> None:
    """Remove a workspace, or a lock's own file, and release the lock. A directory in which another has a file open
    stays for the next sweep. Raises HostError.
    """
    try:
        if path == lock.path:
            lock.unlink()
            return
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.name != _LOCK and not entry.name.startswith(_STILL_OPEN)]
        for name in names:
            remove_tree(os.path.join(path, name))
        lock.unlink()
        lock.release()
        os.rmdir(path)
    except FileNotFoundError:
        return  # another sweeps: between our last two steps it may
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
            raise HostError(f"cannot remove {path}: {error.strerror}") from error
    finally:
        lock.release()
