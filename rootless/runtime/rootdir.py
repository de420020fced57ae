"""A root filesystem's directory, through which every path that an image or a user names inside it is opened.

Links are resolved as the container would see them (openat2(2), RESOLVE_IN_ROOT), so no name leads out of the root.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from types import TracebackType
from typing import Final

from rootless.syscalls import Resolve, openat2

_RESOLVE: Final = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS
_MAX_LINKS: Final = 40


class RootDir:
    """Owns a descriptor of the root directory; closes it on `close` or at the end of a `with` block."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def at(cls, path: str | bytes) -> RootDir:
        """Open the directory `path`, a name of this process's own filesystem."""
        return cls(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def __enter__(self) -> RootDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RootDir(fd={self.fd})"

    def close(self) -> None:
        """Close the descriptor, once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, path: str | bytes, flags: int = os.O_PATH, mode: int = 0) -> int:
        """Open an existing path (or, with O_CREAT, one whose directory exists). The caller owns the descriptor."""
        return openat2(self.fd, path if path not in ("", b"") else ".", flags, mode=mode, resolve=_RESOLVE)

    def find(self, path: str | bytes) -> int | None:
        """An O_PATH descriptor of `path`, or None where nothing has that name."""
        try:
            return self.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: str | bytes, limit: int) -> bytes | None:
        """The content of a regular file, or None where there is none; at most `limit` bytes.

        Raises OSError(EFBIG) for a larger one, OSError(EINVAL) for what is not a regular file.
        """
        try:
            fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", os.fsdecode(path))
            content = file.read(limit + 1)
        if len(content) > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fsdecode(path))
        return content

    def directory(self, path: str, mode: int = 0o755) -> int:
        """An O_PATH descriptor of the directory `path`, made with its parents where missing."""
        try:
            return self.open(path, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return self._make(path, mode, is_directory=True)

    def file(self, path: str, mode: int = 0o644) -> int:
        """An O_PATH descriptor of the file `path`, made empty where missing, with its parents."""
        try:
            return self.open(path)
        except FileNotFoundError:
            return self._make(path, mode, is_directory=False)

    def _make(self, path: str, mode: int, *, is_directory: bool) -> int:
        """Make `path` component by component; a dangling link is followed as it would be inside the root."""
        rest = [part for part in path.split("/") if part and part != "."][::-1]
        done: list[str] = []
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                del done[-1:]
                continue
            here = "/".join([*done, part])
            want_directory = bool(rest) or is_directory
            entry = self._entry(here)
            if entry is None:
                self._create("/".join(done), part, mode if not rest else 0o755, want_directory)
            elif stat.S_ISLNK(os.fstat(entry).st_mode):
                links += 1
                target = os.readlink("", dir_fd=entry)
                os.close(entry)
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    done.clear()
                rest.extend([step for step in target.split("/") if step and step != "."][::-1])
                continue
            else:
                os.close(entry)
            done.append(part)
        return self.open("/".join(done), os.O_PATH | (os.O_DIRECTORY if is_directory else 0))

    def _entry(self, path: str) -> int | None:
        try:
            return self.open(path, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None

    def _create(self, parent: str, name: str, mode: int, is_directory: bool) -> None:
        fd = self.open(parent, os.O_PATH | os.O_DIRECTORY)
        try:
            if is_directory:
                os.mkdir(name, mode, dir_fd=fd)
            else:
                os.close(
                    os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=fd)
                )
        except FileExistsError:
            pass  # another process was first; the final open decides
        finally:
            os.close(fd)


def normalize(path: str) -> str:
    """An absolute path in a container without "." and "..", as text; for comparing, never for opening."""
    return posixpath.normpath("/" + path.lstrip("/"))
