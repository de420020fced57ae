"""Temporary directories inside the store, which the next command sweeps if their owner was killed.

A workspace is `tmp/<random>/` with a file `lock` that its owner holds locked. Everything that will be renamed into
the store is written in one, on the same file system. `tmp/lock` is held shared while a workspace comes into being and
exclusively while dead ones are swept, so that no sweeper sees one that is not locked yet.
"""

from __future__ import annotations

import os
import secrets

from rootless.errors import HostError
from rootless.image.lock import FileLock
from rootless.image.removal import remove_tree

_LOCK = "lock"


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
        try:
            remove_tree(self.path)
        finally:
            self._lock.release()

    def file(self, name: str) -> str:
        """The path of `name` inside."""
        return os.path.join(self.path, name)


def sweep(tmp: str, *, wait: bool = False) -> int:
    """Remove workspaces and lock files whose owner is gone; returns how many. Never waits for one that is in use.

    With `wait` it does so even while another command sweeps.
    """
    try:
        names = [name for name in os.listdir(tmp) if name != _LOCK]
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
                    remove_tree(path)
                    swept += 1
            except HostError:
                if os.path.lexists(path):
                    raise
            finally:
                lock.release()
    finally:
        guard.release()
    return swept
