"""Archives that cannot be read in place, because they come through a pipe or are compressed: copied to the disk first.

The copy lies in the store's temporary directory, not in memory and not in /tmp, and goes with its workspace.
"""

from __future__ import annotations

import errno
import os
import stat

import trio

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.compression import decompressor
from rootless.image.workspace import Workspace
from rootless.oci.mediatype import Compression

_CHUNK = 1 << 20
_MAGIC = ((b"\x1f\x8b", Compression.GZIP), (b"\x28\xb5\x2f\xfd", Compression.ZSTD))
_OTHERS = ((b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"))
_RESERVE = 16 << 20  # bytes of the file system that a copy leaves alone


async def plain_file(source: str | int, title: str, space: Workspace) -> str:
    """The path of an archive as an uncompressed file: `source` itself if it is one, else a copy in `space`.

    `source` is a path, or a descriptor to read from. Raises UsageError, ImageError and HostError.
    """
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC) if isinstance(source, str) else os.dup(source)
    except OSError as error:
        raise UsageError(f"cannot open {title}: {error.strerror}") from error
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            raise UsageError(f"{title} is a directory and not an archive")
        first = await _read(fd, title)
        while 0 < len(first) < 6:
            more = await _read(fd, title)
            if not more:
                break
            first += more
        compression = _compression(first, title)
        if compression is Compression.NONE and stat.S_ISREG(kind) and isinstance(source, str):
            return source
        return await _copy(fd, first, compression, title, space)
    finally:
        os.close(fd)


def _compression(first: bytes, title: str) -> Compression:
    if not first:
        raise ImageError(f"{title} is empty")
    for magic, name in _OTHERS:
        if first.startswith(magic):
            raise ImageError(f"{title} is packed with {name}, which is not read here", hint=f"unpack it with {name} -d")
    return next((kind for magic, kind in _MAGIC if first.startswith(magic)), Compression.NONE)


async def _copy(fd: int, chunk: bytes, compression: Compression, title: str, space: Workspace) -> str:
    path = space.file("archive")
    unpacked = decompressor(compression)
    try:
        with open(path, "xb", buffering=0) as out:
            while chunk:
                for piece in unpacked.feed(chunk):
                    _check_space(out.fileno(), len(piece), title)
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[out.write(rest) :]
                chunk = await _read(fd, title)
            unpacked.close()
    except ImageError as error:
        raise ImageError(f"cannot read {title}: {error.message}") from None
    except OSError as error:
        raise HostError(f"cannot copy {title} to {path}: {error.strerror}") from error
    return path


def _check_space(fd: int, count: int, title: str) -> None:
    space = os.fstatvfs(fd)
    if space.f_bavail * space.f_frsize < count + _RESERVE:
        raise HostError(
            f"there is no room to copy {title}: {os.strerror(errno.ENOSPC)}", hint="load it from a plain file instead"
        )


async def _read(fd: int, title: str) -> bytes:
    """The next bytes, while others may work and the command may be cancelled."""
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            await trio.lowlevel.checkpoint()
        else:
            try:
                await trio.lowlevel.wait_readable(fd)
            except PermissionError:  # epoll(7): what is always ready, such as /dev/null
                await trio.lowlevel.checkpoint()
        return os.read(fd, _CHUNK)
    except OSError as error:
        raise HostError(f"cannot read {title}: {error.strerror}") from error
