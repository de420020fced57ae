"""Random operations on a mount and on a plain directory, which have to agree, also when the server is killed.

An operation is a generator of single system calls; both trees take each call in turn. What it did is kept as a list of
calls that can be read, and played again with the same seed.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from fuse.syscalls import RenameFlag, renameat2

GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
"""What calls fail with when the server has died; EIO where they have to write data first."""

NAMES = ("a", "b", "c", "long" * 5, "\N{SNOWMAN}")
PAGE = 4096

Steps = Iterator[None]
Snapshot = dict[str, tuple[object, ...]]


class ServerGone(Exception):
    """The call that was under way did happen, or it did not."""


def create(root: str, path: str, content: bytes, mode: int) -> Steps:
    fd = os.open(f"{root}/{path}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        yield
        os.write(fd, content)
        yield
    finally:
        close(fd)


def write(root: str, path: str, flags: int, offset: int, content: bytes) -> Steps:
    fd = os.open(f"{root}/{path}", os.O_WRONLY | os.O_NONBLOCK | flags)
    try:
        yield
        if flags & os.O_APPEND:
            os.write(fd, content)
        else:
            os.pwrite(fd, content, offset)
        yield
    finally:
        close(fd)


def map_shared(root: str, path: str, offset: int, content: bytes) -> Steps:
    fd = os.open(f"{root}/{path}", os.O_RDWR | os.O_NONBLOCK)
    try:
        yield
        length = os.fstat(fd).st_size
        if content and offset + len(content) <= length:
            with mmap.mmap(fd, length) as mapped:
                mapped[offset : offset + len(content)] = content
        yield
    finally:
        close(fd)


def close(fd: int) -> None:
    with suppress(OSError):  # the server may be gone
        os.close(fd)


def single(call: Callable[..., object]) -> Callable[..., Steps]:
    """An operation that is one call on paths relative to the root."""

    def steps(root: str, *arguments: object) -> Steps:
        call(root, *arguments)
        yield

    steps.__name__ = call.__name__
    return steps


@single
def truncate(root: str, path: str, size: int) -> None:
    os.truncate(f"{root}/{path}", size)


@single
def mkdir(root: str, path: str, mode: int) -> None:
    os.mkdir(f"{root}/{path}", mode)


@single
def symlink(root: str, path: str, target: str) -> None:
    os.symlink(target, f"{root}/{path}")


@single
def fifo(root: str, path: str) -> None:
    os.mkfifo(f"{root}/{path}", 0o640)


@single
def link(root: str, path: str, new: str) -> None:
    os.link(f"{root}/{path}", f"{root}/{new}", follow_symlinks=False)


@single
def unlink(root: str, path: str) -> None:
    os.unlink(f"{root}/{path}")


@single
def rmdir(root: str, path: str) -> None:
    os.rmdir(f"{root}/{path}")


@single
def rename(root: str, old: str, new: str, flags: int) -> None:
    renameat2(f"{root}/{old}".encode(), f"{root}/{new}".encode(), RenameFlag(flags))


@single
def chmod(root: str, path: str, mode: int) -> None:
    os.chmod(f"{root}/{path}", mode)


@single
def chown(root: str, path: str, uid: int, gid: int) -> None:
    os.chown(f"{root}/{path}", uid, gid, follow_symlinks=False)


@single
def utime(root: str, path: str, ns: int) -> None:
    os.utime(f"{root}/{path}", ns=(ns, ns), follow_symlinks=False)


@single
def set_xattr(root: str, path: str, name: str, value: bytes) -> None:
    os.setxattr(f"{root}/{path}", name, value, follow_symlinks=False)


@single
def remove_xattr(root: str, path: str, name: str) -> None:
    os.removexattr(f"{root}/{path}", name, follow_symlinks=False)


WRITERS = (create, write, map_shared, truncate)


class Player:
    """`mount` and `plain` hold the same tree. `held` are files that are kept open, in both."""

    def __init__(self, mount: str, plain: str, seed: int) -> None:
        self.mount = mount
        self.plain = plain
        self.random = random.Random(seed)
        self.log: list[str] = []
        self.held: list[tuple[int, int]] = []
        self.mappings = True  # touching memory that a dead server has to fill is SIGBUS
        self.pending: Iterator[object] | None = None  # what was under way when the server died
        self.touched: str | None = None  # the file of `plain` whose data it changes
        self.versions: dict[int, list[bytes]] = {}  # what a file of `plain` held since it was last synced, by inode

    # One operation.

    def turn(self) -> None:
        """Do something; ServerGone if the mount is dead, with the call not done in `plain` yet: see `catch_up`."""
        if self.random.random() < 0.2:
            self.turn_held()
            return
        operation, arguments = self.choose()
        if operation is map_shared and not self.mappings:
            return
        self.play(operation, *arguments)

    def play(self, operation: Callable[..., Steps], *arguments: object) -> None:
        self.log.append(f"{operation.__name__}{arguments!r}")
        ours, theirs = operation(self.mount, *arguments), operation(self.plain, *arguments)
        touched = f"{self.plain}/{arguments[0]}" if operation in WRITERS else None
        if touched:
            self.remember(touched)
        while True:
            found = self.step(ours)
            if found in GONE:
                self.log.append("the server was gone")
                self.pending, self.touched = theirs, touched
                raise ServerGone
            expected = self.step(theirs)
            if touched:
                self.remember(touched)
            assert found == expected, f"{name(found)}, not {name(expected)}"
            if found is None or found:
                return

    @staticmethod
    def step(steps: Iterator[object]) -> int | None:
        """0 after a call, None at the end, or the errno."""
        try:
            next(steps)
        except StopIteration:
            return None
        except OSError as error:
            return error.errno or -1
        return 0

    def catch_up(self) -> None:
        """Do in `plain` what was under way when the server died."""
        if self.pending is not None:
            self.step(self.pending)
            if self.touched:
                self.remember(self.touched)

    def choose(self) -> tuple[Callable[..., Steps], tuple[object, ...]]:
        rand = self.random
        path, other = self.path(), self.path()
        content = rand.randbytes(rand.choice((0, 1, 30, 5000)))
        choices: list[tuple[Callable[..., Steps], tuple[object, ...]]] = [
            (create, (path, content, rand.choice((0o644, 0o600, 0o755)))),
            (create, (path, content, 0o664)),
            (write, (path, rand.choice((0, 0, os.O_TRUNC, os.O_APPEND)), rand.choice((0, 7, 9000)), content)),
            (write, (path, 0, rand.choice((100_000, 1 << 20)), content[:30])),  # leaves a hole
            (map_shared, (path, rand.choice((0, 1000)), content[:10])),
            (truncate, (path, rand.choice((0, 3, 4096, 20_000)))),
            (mkdir, (path, rand.choice((0o755, 0o700, 0o1777)))),
            (mkdir, (path, 0o755)),
            (symlink, (path, rand.choice(("a", "nowhere", "t" * 4000)))),
            (fifo, (path,)),
            (link, (path, other)),
            (unlink, (path,)),
            (unlink, (path,)),
            (rmdir, (path,)),
            (rename, (path, other, 0)),
            (rename, (path, other, rand.choice((0, 1, 2, 2)))),
            (chmod, (path, rand.choice((0o600, 0o4711, 0o2755, 0o755)))),
            (chown, (path, rand.choice((0, 1, 7)), rand.choice((-1, 0, 5)))),
            (utime, (path, rand.randrange(1, 1 << 60))),
            (set_xattr, (path, rand.choice(("user.one", "user.overlay.opaque")), content[:20])),
            (remove_xattr, (path, "user.one")),
        ]
        return rand.choice(choices)

    def path(self) -> str:
        """A path that often is there: a step at a time into what `plain` has."""
        here = ""
        for _ in range(self.random.choice((1, 2, 2, 3, 3, 4))):
            inside = f"{self.plain}/{here}" if here else self.plain
            there = sorted(os.listdir(inside)) if os.path.isdir(inside) and not os.path.islink(inside) else []
            part = self.random.choice(there) if there and self.random.random() < 0.7 else self.random.choice(NAMES)
            here = f"{here}/{part}" if here else part
        return here

    # Files that stay open.

    def turn_held(self) -> None:
        rand = self.random
        if len(self.held) < 4 and rand.random() < 0.5:
            path = self.path()
            self.log.append(f"hold({path!r})")
            descriptors = []
            for root in (self.mount, self.plain):
                try:
                    descriptors.append(os.open(f"{root}/{path}", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK))
                except OSError as error:
                    if error.errno in GONE:
                        raise ServerGone from None
                    descriptors.append(-(error.errno or 1))
            assert (descriptors[0] < 0) == (descriptors[1] < 0), descriptors
            if descriptors[1] >= 0 and not stat.S_ISREG(os.fstat(descriptors[1]).st_mode):
                for fd in descriptors:
                    close(fd)
            elif descriptors[1] >= 0:
                self.held.append((descriptors[0], descriptors[1]))
            return
        if not self.held:
            return
        pair = rand.choice(self.held)
        content, offset = rand.randbytes(50), rand.choice((0, 10, 5000))
        calls: list[tuple[str, Callable[[int], object]]] = [
            ("pwrite", lambda fd: os.pwrite(fd, content, offset)),
            ("pread", lambda fd: os.pread(fd, 10_000, 0)),
            ("fchmod", lambda fd: os.fchmod(fd, 0o640)),
            ("ftruncate", lambda fd: os.ftruncate(fd, offset)),
            ("fstat", lambda fd: facts(os.fstat(fd))),
            ("fsync", os.fsync),
            ("close", os.close),
        ]
        what, call = rand.choice(calls)
        self.log.append(f"{what} held {self.held.index(pair)} {offset}")
        self.remember_open(pair[1])
        results: list[object] = []
        for fd in pair:
            try:
                results.append(call(fd))
            except OSError as error:
                if error.errno in GONE:
                    if what == "fchmod":
                        self.pending = map(call, pair[1:])
                    elif what in ("pwrite", "ftruncate"):  # it is one of the versions
                        call(pair[1])
                        self.remember_open(pair[1])
                    raise ServerGone from None
                results.append(error)
        if what == "close":
            self.held.remove(pair)
        else:
            self.remember_open(pair[1])
            if what == "fsync":
                self.synced(pair[1])
        assert repr(results[0]) == repr(results[1]), results

    def let_go(self) -> None:
        for pair in self.held:
            for fd in pair:
                close(fd)
        self.held.clear()

    # What a file may hold after a kill.

    def remember(self, path: str) -> None:
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                self.remember_open(fd)
            finally:
                os.close(fd)

    def remember_open(self, fd: int) -> None:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            content = os.pread(fd, status.st_size, 0)
            known = self.versions.setdefault(status.st_ino, [])
            if not known or known[-1] != content:
                known.append(content)

    def synced(self, fd: int) -> None:
        self.versions.pop(os.fstat(fd).st_ino, None)

    def sync(self) -> None:
        """Everything written so far is in the upper directory."""
        self.log.append("sync()")
        os.sync()
        self.versions.clear()

    # Comparing.

    def compare(self) -> None:
        """Both trees are equal."""
        found, expected = snapshot(self.mount), snapshot(self.plain)
        assert found == expected, difference(found, expected)
        for path, fact in expected.items():
            if fact[0] == stat.S_IFREG:
                assert read(f"{self.mount}/{path}") == read(f"{self.plain}/{path}"), f"content of {path!r}"

    def compare_after_kill(self) -> None:
        """The trees are equal but for data that was not synced; `plain` takes that over.

        The call under way may have happened or not; of a write that clears set-id bits, one part may.
        """
        found = snapshot(self.mount, sizes=False)
        self.take_over_set_id(found)
        expected = snapshot(self.plain, sizes=False)
        if found != expected:
            self.catch_up()
            self.take_over_set_id(found)
            after = snapshot(self.plain, sizes=False)
            assert found == after, difference(found, expected) + " nor " + difference(found, after)
        elif self.touched is not None and os.path.lexists(self.touched):
            self.catch_up()  # its data may be there
            self.take_over_set_id(found)
            assert snapshot(self.plain, sizes=False) == found
        for path, fact in found.items():
            if fact[0] == stat.S_IFREG:
                self.take_over(path)
        self.versions.clear()

    def take_over_set_id(self, found: Snapshot) -> None:
        for path, fact in found.items():
            plain = f"{self.plain}/{path}"
            if fact[0] == stat.S_IFREG and os.path.lexists(plain):
                status, mode = os.lstat(plain), int(str(fact[1]))
                if status.st_ino in self.versions and (stat.S_IMODE(status.st_mode) ^ mode) & ~0o6000 == 0:
                    os.chmod(plain, mode)

    def take_over(self, path: str) -> None:
        content, plain = read(f"{self.mount}/{path}"), f"{self.plain}/{path}"
        current = read(plain)
        if content == current:
            return
        versions = self.versions.get(os.stat(plain).st_ino, [])
        sizes = {len(version) for version in versions}
        torn = len(content) % PAGE == 0 and min(sizes) < len(content) < max(sizes)  # in the middle of a write
        assert len(content) in sizes or torn, f"size of {path!r}: {len(content)}"
        for at in range(0, len(content), PAGE):
            page = content[at : at + PAGE]
            assert any(page == version[at : at + len(page)].ljust(len(page), b"\0") for version in versions), (
                f"page {at // PAGE} of {path!r} is none that was ever written"
            )
        mode = stat.S_IMODE(os.stat(plain).st_mode)
        with open(plain, "r+b") as file:
            file.truncate(0)
            file.write(content)
        os.chmod(plain, mode)  # writing has cleared set-id bits


def snapshot(root: str, *, sizes: bool = True) -> Snapshot:
    """Every path with what stat(2) and the attributes say, and the first name of the same file."""
    found: Snapshot = {}
    firsts: dict[int, str] = {}
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{folder}/{entry.name}" if folder else entry.name
                status = entry.stat(follow_symlinks=False)
                assert entry.inode() == status.st_ino, path
                kind = stat.S_IFMT(status.st_mode)
                found[path] = (
                    *facts(status, sizes=sizes),
                    os.readlink(entry.path) if kind == stat.S_IFLNK else None,
                    tuple(
                        (name, os.getxattr(entry.path, name, follow_symlinks=False))
                        for name in sorted(os.listxattr(entry.path, follow_symlinks=False))
                        if name.startswith("user.")
                    ),
                    firsts.setdefault(status.st_ino, path),
                )
                if kind == stat.S_IFDIR:
                    todo.append(path)
    return found


def facts(status: os.stat_result, *, sizes: bool = True) -> tuple[object, ...]:
    kind = stat.S_IFMT(status.st_mode)
    return (
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_nlink if kind != stat.S_IFDIR else None,
        status.st_size if kind != stat.S_IFDIR and (sizes or kind != stat.S_IFREG) else None,
        status.st_rdev,
    )


def difference(found: Snapshot, expected: Snapshot) -> str:
    lines = [
        f"{path!r}: {found.get(path)} instead of {expected.get(path)}"
        for path in sorted(found.keys() | expected.keys())
        if found.get(path) != expected.get(path)
    ]
    return "; ".join(lines)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def name(number: int | None) -> str:
    return "success" if not number else errno.errorcode.get(number, str(number))
