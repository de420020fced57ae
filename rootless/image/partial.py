"""What an interrupted transfer has left of a blob: kept, so that the next one goes on from there.

`partial/<algorithm>-<hex>` in the store. Whoever transfers the blob holds the file locked; nothing in it is trusted
before the digest of the whole is right. What nobody comes back for goes after a day, or when space is short.
"""

from __future__ import annotations

import fcntl
import os
import time

from rootless.errors import HostError
from rootless.oci.digest import Digest

_KEPT = 24 * 3600.0  # seconds


def directory(store: str) -> str:
    """Where a store keeps them."""
    return os.path.join(store, "partial")


def take(store: str, digest: Digest) -> tuple[int, str] | None:
    """The partial file of a blob, opened for reading and writing and locked, and its path; made if there is none.

    None if another process is transferring the blob. Raises HostError.
    """
    path = os.path.join(directory(store), f"{digest.algorithm}-{digest.hex}")
    try:
        os.makedirs(directory(store), 0o700, exist_ok=True)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd, path
            except BlockingIOError:
                os.close(fd)
                return None
            except FileNotFoundError:
                pass  # swept between the two: make a new one
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def sweep(store: str, *, age: float = _KEPT) -> int:
    """Remove those that nobody transfers and that are older than `age` seconds. Returns the bytes freed."""
    freed = 0
    try:
        names = os.listdir(directory(store))
    except FileNotFoundError:
        return 0
    for name in names:
        path = os.path.join(directory(store), name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # taken or swept this moment
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            if time.time() - status.st_mtime >= age:
                os.unlink(path)
                freed += status.st_size
        except (BlockingIOError, FileNotFoundError):
            continue
        finally:
            os.close(fd)
    return freed
