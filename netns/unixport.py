"""Ports published as sockets of AF_UNIX: names in the host's file system.

The permissions of the name decide who may connect: it is made for its owner only. A name that is left over, because
whoever listened was killed, is taken over; one where somebody answers is not.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import TypeVar

_LONGEST = 107  # bytes of a path, less the zero at its end (unix(7))
_MODE = 0o600

Identity = tuple[int, int]
Result = TypeVar("Result")


def listen(path: str, backlog: int) -> tuple[socket.socket, Identity]:
    """A non-blocking socket that listens at `path`, and what tells its name from another's. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(sock.fileno(), _MODE)  # which the name will have
        try:
            _by_short_name(path, sock.bind)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_left_over(path):
                raise
            os.unlink(path)
            _by_short_name(path, sock.bind)
        sock.listen(backlog)
        found = os.lstat(path)
    except BaseException:
        sock.close()
        raise
    return sock, (found.st_dev, found.st_ino)


def remove(path: str, identity: Identity) -> None:
    """Remove the name, unless it is somebody else's by now or gone."""
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == identity:
            os.unlink(path)
    except OSError:
        return  # its directory is gone, or no longer ours


def _is_left_over(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            _by_short_name(path, probe.connect)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # it is busy, or for others
    return False


def _by_short_name(path: str, use: Callable[[str], Result]) -> Result:
    """Call `use` with `path`, or where that is too long for an address with another way to the same file."""
    if len(os.fsencode(path)) <= _LONGEST:
        return use(path)
    folder, name = os.path.split(path)
    descriptor = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{descriptor}/{name}"
        if len(os.fsencode(short)) > _LONGEST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        return use(short)
    finally:
        os.close(descriptor)
