"""The lock that says a container lives.

An open file description lock (fcntl(2), F_OFD_SETLK): it goes away with the last descriptor of the supervisor, however
that dies, and F_OFD_GETLK asks about it without taking it, so a question never disturbs a start.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = struct.Struct("hhqqi4x")
_WRITE_LOCK = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def hold(path: str) -> int | None:
    """Takes the lock and returns the descriptor that keeps it, or None when somebody else holds it.

    The file appears with the lock already on it, so a file whose lock nobody holds was left by a holder that died.
    """
    while True:
        try:
            return hold_leftover(path)
        except FileNotFoundError:
            fd = _make(path)
            if fd is not None:
                return fd


def hold_leftover(path: str) -> int | None:
    """As `hold`, for a file that is there. Raises FileNotFoundError when it is not, or goes away meanwhile."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WRITE_LOCK)
        if os.stat(path).st_ino == os.fstat(fd).st_ino:
            return fd
    except (BlockingIOError, PermissionError):
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _make(path: str) -> int | None:
    """A new file with its lock held, or None when another one came first."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WRITE_LOCK)
        os.link(temporary, path)
    except FileExistsError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.unlink(temporary)
    return fd


def is_held(path: str) -> bool:
    """Whether somebody holds the lock now. A missing file is a lock that nobody holds."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WRITE_LOCK)
    finally:
        os.close(fd)
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK
