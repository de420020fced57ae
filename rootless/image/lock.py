"""Advisory locks on files, which the kernel releases when their holder is gone (flock(2))."""

from __future__ import annotations

import errno
import fcntl
import os

from rootless.errors import HostError

# flock(2) over NFS becomes a byte-range lock; Lustre mounted without -o flock has neither.
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})


class FileLock:
    """An exclusive or shared lock on a path, as a context manager. Blocks until it is granted.

    The file is created where it is missing. A holder may `unlink` it: whoever waited for the old file notices and
    locks the new one. Raises HostError where the file cannot be made or the file system has no locks.
    """

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self.path = path
        self._how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._fd = -1

    def acquire(self, *, wait: bool = True) -> bool:
        """Take the lock; with `wait=False`, returns False where another has it."""
        while True:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise HostError(f"cannot open the lock file {self.path}: {error.strerror}") from error
            try:
                fcntl.flock(fd, self._how | (0 if wait else fcntl.LOCK_NB))
                if self._is_current(fd):
                    self._fd = fd
                    return True
            except BlockingIOError:
                os.close(fd)
                return False
            except OSError as error:
                os.close(fd)
                hint = (
                    "mount it with locks, or set XDG_DATA_HOME to another disk" if error.errno in _UNSUPPORTED else None
                )
                raise HostError(f"cannot lock {self.path}: {error.strerror}", hint=hint) from error
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def unlink(self) -> None:
        """Remove the file while holding the lock."""
        os.unlink(self.path)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *details: object) -> None:
        self.release()
