"""Pseudo-terminals of a container's own devpts, pty(7) and ioctl_tty(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import Final

from rootless.oci.runtime import Box
from rootless.runtime.rootdir import RootDir

_TIOCSPTLCK: Final = 0x40045431
_TIOCGPTPEER: Final = 0x5441
_TIOCSCTTY: Final = 0x540E
_TIOCSWINSZ: Final = 0x5414
_PTMX: Final = os.makedev(5, 2)


def open_pair(root: RootDir, ptmx: str) -> tuple[int, int]:
    """(master, slave) descriptors of a new terminal. The slave comes from the master, never from a path.

    Raises OSError(ENODEV) where something else than ptmx is in its place.
    """
    master = root.open(ptmx, os.O_RDWR | os.O_NOCTTY)
    found = os.fstat(master)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _PTMX:
        os.close(master)
        raise OSError(errno.ENODEV, "it is not a pseudo-terminal multiplexer", ptmx)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    return master, fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def resize(fd: int, rows: int, columns: int) -> None:
    """Set the size of the terminal that `fd`, a master or a slave, belongs to; it signals SIGWINCH."""
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def take_over(slave: int, size: Box | None) -> None:
    """Make `slave` the controlling terminal of this new session and its standard input, output and error."""
    if size is not None and size.height > 0 and size.width > 0:
        resize(slave, size.height, size.width)
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)
