"""How a directory keeps owners, modes and devices: really, in an extended attribute of each file, or in a side file.

- REAL: chown(2), chmod(2), mknod(2). Needs a user namespace with more than one id and a file system that lets us.
- XATTR: `user.containers.override_stat`, as Podman's tools do (override.py). Only regular files and directories carry
  `user.` attributes: devices, fifos and sockets become empty regular files, and a symbolic link that is not ours has a
  record in the side file. (containers/storage and fuse-overlayfs forget the owners of symbolic links.)
- FILE: the side file (ledger.py) for everything.

The real file belongs to us, with a mode that always lets us in and no set-id bits, so the host gains nothing by it. The
overlay mounted without this package shows the files with these owners and modes.
"""

from __future__ import annotations

import errno
import os
import stat
from enum import Enum

from fuse.attributes import Attributes, from_stat
from fuse.ledger import Ledger
from fuse.override import CONTAINERS_XATTR, USER_XATTR, Override, detect, read_override
from fuse.syscalls import birth_ns

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL)

_BEARERS = (stat.S_IFREG, stat.S_IFDIR)
"""What carries `user.` attributes."""

_ANOTHER_ID = 1
"""Mapped wherever more than one id is: the ranges of a user namespace that we make are without gaps from 0."""


class Ownership(Enum):
    AUTO = "auto"
    """What the directory was written with, else what works there."""
    REAL = "real"
    XATTR = "xattr"
    FILE = "file"


class Overrides:
    """The overrides of one directory tree. Paths are those that the xattr calls take, so absolute ones.

    `name` is the attribute, None where there is none to be used; what it says goes before what the side file says.
    """

    def __init__(
        self, ownership: Ownership, name: bytes | None, ledger: Ledger | None = None, *, work_fd: int = -1
    ) -> None:
        self.ownership = ownership
        """How files are kept that are not in the side file: REAL where that is only for what cannot be made here."""
        self._name = name
        self.sets_security_apart = name == CONTAINERS_XATTR
        self._ledger = ledger
        self._work_fd = work_fd
        self._checked: set[int] = set()
        self._vanishing: list[tuple[int, bytes]] = []

    def of(self, path: bytes, status: os.stat_result, *, follow: bool = False) -> Override | None:
        """What a file with the real `status` is said to be. LayerError where that is damaged."""
        if self._name is not None and stat.S_IFMT(status.st_mode) in _BEARERS:
            override = read_override(path, self._name, follow=follow)
            if override is not None:
                return override
        ledger = self._ledger
        if ledger is None:
            return None
        number = status.st_ino
        record = ledger.get(number)
        if record is None:
            return None
        if number not in self._checked:
            if record.birth_ns:
                birth = birth_ns(path, follow=follow)
                if birth and birth != record.birth_ns:
                    return None
            self._checked.add(number)
        return record.override

    def attributes(self, path: bytes, status: os.stat_result, *, follow: bool = False) -> Attributes:
        """What a file with the real `status` shows."""
        override = self.of(path, status, follow=follow)
        real = from_stat(status)
        return real if override is None else override.over(real)

    def mode(self, path: bytes, status: os.stat_result) -> int:
        """The real mode, with the type that is shown. Asks only of what may stand for something else."""
        mode = status.st_mode
        if status.st_size == 0 and stat.S_ISREG(mode):
            override = self.of(path, status)
            if override is not None:
                return override.kind_over(mode) | stat.S_IMODE(mode)
        return mode

    def put(self, path: bytes, kind: int, override: Override, *, follow: bool = False) -> None:
        """Write down what a file of that real type is; in one step, so that it is the old or the new.

        `override` has type bits.
        """
        if self._name is not None and kind in _BEARERS:
            os.setxattr(path, self._name, override.to_bytes(), follow_symlinks=follow)
            return
        self.settle()
        status = os.stat(path, follow_symlinks=follow)
        number = status.st_ino
        ledger = self._ledger
        if self._name is not None and (override.uid, override.gid) == (status.st_uid, status.st_gid):
            if ledger is not None:
                ledger.forget(number)
            return  # a symbolic link that is ours needs no record
        if ledger is None:
            ledger = self._ledger = Ledger(self._work_fd, create=self.ownership.value)
        ledger.put(number, birth_ns(path, follow=follow), override)
        self._checked.add(number)

    def made_really(self, number: int) -> None:
        """A file was just made that needs no override; what was written of its number is about one that is gone."""
        if self._ledger is not None:
            self._ledger.forget(number)

    def vanishing(self, number: int, path: bytes) -> None:
        """A file's last name is about to go. That is written down later, if it did."""
        if self._ledger is not None and self._ledger.get(number) is not None:
            self._vanishing.append((number, path))
            self._checked.discard(number)

    def settle(self) -> None:
        """Write down which files went. One that cannot be written down for lack of space harms nobody."""
        while self._vanishing:
            number, path = self._vanishing.pop()
            try:
                there = os.stat(path, follow_symlinks=False).st_ino == number
            except (FileNotFoundError, NotADirectoryError):
                there = False
            if not there and self._ledger is not None:
                try:
                    self._ledger.drop(number)
                except OSError as error:
                    if error.errno not in _FULL:
                        raise

    def sync(self) -> None:
        """What was put before survives a power failure, as far as it is not in attributes."""
        if self._ledger is not None:
            self._ledger.sync()

    def close(self) -> None:
        if self._ledger is not None:
            self.settle()
            self._ledger.close()


def real_mode(mode: int) -> int:
    """The permissions of the real file: those of the override, but always ours to use and without special bits."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        return 0o700 | mode & 0o777
    return 0o600 | mode & 0o777 if kind == stat.S_IFREG else 0o600


def written_with(path: bytes, work_fd: int) -> Overrides | None:
    """What a directory was written with; to read it, also while a mount writes it. None is real ownership."""
    name = detect(path)
    try:
        ledger = Ledger(work_fd, writable=False)
    except FileNotFoundError:
        ledger = None
    if name is not None:
        return Overrides(Ownership.XATTR, name, ledger)
    return None if ledger is None else Overrides(_ownership_of(ledger), None, ledger)


def write_with(
    path: bytes, work_fd: int, wanted: Ownership, *, scratch: bytes, name: bytes = CONTAINERS_XATTR
) -> Overrides | None:
    """What to write a directory with; None is real ownership.

    `path` is the directory, `scratch` a name in the work directory: of an empty file of ours to try things on, which
    the caller removes, or a free one. What the directory was written with before decides; of a fresh one, what its file
    system and our ids let us do. The choice is marked by an override of the directory itself, or by the side file.
    OSError where `wanted` is not possible.
    """
    try:
        ledger = Ledger(work_fd)
    except FileNotFoundError:
        ledger = None
    if wanted is Ownership.AUTO:
        found = detect(path)
        if found is not None:
            return Overrides(Ownership.XATTR, found, ledger, work_fd=work_fd)
        wanted = _probe(work_fd, scratch, name) if ledger is None else _ownership_of(ledger)
    if wanted is Ownership.REAL:
        return Overrides(wanted, None, ledger, work_fd=work_fd) if ledger is not None else None
    if wanted is Ownership.FILE:
        if ledger is None:
            ledger = Ledger(work_fd, create=wanted.value)
        return Overrides(wanted, None, ledger, work_fd=work_fd)
    if name == CONTAINERS_XATTR and detect(path) == USER_XATTR:
        name = USER_XATTR  # an old directory goes on as it began
    made = Overrides(wanted, name, ledger, work_fd=work_fd)
    if read_override(path, name, follow=True) is None:
        status = os.stat(path)
        made.put(path, stat.S_IFDIR, Override(status.st_uid, status.st_gid, status.st_mode), follow=True)
    return made


def stand_ins(work_fd: int) -> Overrides:
    """For a directory of real ownership: overrides of the few files that cannot be made really."""
    return Overrides(Ownership.REAL, None, work_fd=work_fd)


def _ownership_of(ledger: Ledger) -> Ownership:
    """A side file of symbolic links whose upper directory has lost its attributes is as good as one of everything."""
    return Ownership.REAL if ledger.kind == Ownership.REAL.value else Ownership.FILE


def _probe(work_fd: int, scratch: bytes, name: bytes) -> Ownership:
    """Two or five system calls, on the file that is there or on one that it makes."""
    try:
        real = _can_chown(work_fd, scratch)
    except FileNotFoundError:
        os.mknod(scratch, stat.S_IFREG | 0o600, dir_fd=work_fd)
        real = _can_chown(work_fd, scratch)
    else:
        if not real:  # a device, which carries no `user.` attribute
            os.unlink(scratch, dir_fd=work_fd)
            os.mknod(scratch, stat.S_IFREG | 0o600, dir_fd=work_fd)
    if real:
        return Ownership.REAL
    try:
        os.setxattr(b"/proc/self/fd/%d/%s" % (work_fd, scratch), name, b"0:0:0600:file", follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return Ownership.FILE
    return Ownership.XATTR


def _can_chown(work_fd: int, scratch: bytes) -> bool:
    try:
        os.chown(scratch, _ANOTHER_ID, _ANOTHER_ID, dir_fd=work_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    # Some network file systems say yes and squash the ids.
    status = os.stat(scratch, dir_fd=work_fd, follow_symlinks=False)
    return (status.st_uid, status.st_gid) == (_ANOTHER_ID, _ANOTHER_ID)
