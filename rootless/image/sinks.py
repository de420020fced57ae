"""Where an image is written to in files: a directory, or a tar archive. What is written is verified on the way.

Both are deterministic: the bytes depend on the image and the order of the calls, not on the time or the user.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import BinaryIO, Protocol

from rootless.errors import HostError, ImageError, UsageError
from rootless.image.newfile import new_file
from rootless.oci.documents import Descriptor
from rootless.oci.tar import TarEntry
from rootless.oci.tarfields import BLOCK
from rootless.oci.tarwriter import END, header, padding

Chunks = Callable[[int], AsyncGenerator[bytes, None]]
"""`chunks(start)` gives the bytes of a blob from `start` on."""

_SIZE_LIMIT = 8**11  # bytes that the octal field of a tar header can say


class Sink(Protocol):
    """Files by name. Raises ImageError for blobs that are not what they should be, HostError."""

    def put(self, name: str, data: bytes) -> None:
        """A small file; in an archive each name only once."""

    async def stream(self, name: str, blob: Descriptor, chunks: Chunks) -> bool:
        """A blob; False if it was there already."""


class FolderSink:
    """A directory. Each file appears when it is complete."""

    def __init__(self, path: str) -> None:
        self.path = path

    def put(self, name: str, data: bytes) -> None:
        """A file; one that had the name is replaced."""
        path = self._place(name)
        try:
            with new_file(path) as file:
                file.write(data)
        except OSError as error:
            raise cannot_write(path, error) from error

    async def stream(self, name: str, blob: Descriptor, chunks: Chunks) -> bool:
        """A blob, unless a file of its name and size is there."""
        path = self._place(name)
        if os.path.isfile(path) and os.path.getsize(path) == blob.size:
            return False
        try:
            with new_file(path) as file:
                async with aclosing(verified(blob, chunks)) as pieces:
                    async for piece in pieces:
                        file.write(piece)
        except OSError as error:
            raise cannot_write(path, error) from error
        return True

    def _place(self, name: str) -> str:
        path = os.path.join(self.path, name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        return path


class ArchiveSink:
    """A tar archive that is written to `file`, from its beginning; seekable, since sizes may be known late."""

    def __init__(self, file: BinaryIO, title: str) -> None:
        self._file = file
        self._title = title
        self._names: set[str] = set()

    def put(self, name: str, data: bytes) -> None:
        """A file; nothing happens if it is there already."""
        if name in self._names:
            return
        self._add(name)
        self._write(_header(name, len(data)) + data + padding(len(data)))

    async def stream(self, name: str, blob: Descriptor, chunks: Chunks) -> bool:
        """A blob, unless it is there."""
        if name in self._names:
            return False
        self._add(name)
        self._write(_header(name, blob.size))
        async with aclosing(verified(blob, chunks)) as pieces:
            async for piece in pieces:
                self._write(piece)
        self._write(padding(blob.size))
        return True

    async def unsized(self, pieces: AsyncGenerator[bytes, None]) -> Callable[[str], None]:
        """A file whose size and name are known at its end: call the result with the name.

        One whose name is there already is taken back.
        """
        start = self._file.tell()
        self._write(bytes(BLOCK))
        size = 0
        async with aclosing(pieces):
            async for piece in pieces:
                size += len(piece)
                self._write(piece)
        self._write(padding(size))

        def finish(name: str) -> None:
            self._file.seek(start)
            if name in self._names:
                self._file.truncate()
                return
            self._names.add(name)
            self._write(_header(name, size))
            self._file.seek(0, os.SEEK_END)

        return finish

    def finish(self) -> None:
        """The end of the archive."""
        self._write(END)

    def _add(self, name: str) -> None:
        """Directories have members of their own: without, containers/image would want to give them to root."""
        for position, letter in enumerate(name):
            folder = name[: position + 1]
            if letter == "/" and folder not in self._names:
                self._names.add(folder)
                self._write(header(TarEntry(folder[:-1].encode(), 0o40755, 0, 0, 0, 0, 0, 0, b"", None, (), ())))
        self._names.add(name)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise cannot_write(self._title, error) from error


@asynccontextmanager
async def archive_file(path: str) -> AsyncIterator[ArchiveSink]:
    """An archive at `path`, which appears when the context is left without an error, and replaces what was there."""
    if os.path.isdir(path):
        raise UsageError(f"cannot write the archive {path}: it is a directory")
    try:
        with new_file(path) as file:
            sink = ArchiveSink(file, path)
            yield sink
            sink.finish()
    except OSError as error:
        raise cannot_write(path, error) from error


async def verified(blob: Descriptor, chunks: Chunks) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob; ImageError at the latest after the last if they are not what the descriptor promises."""
    hasher = blob.digest.hasher()
    count = 0
    async with aclosing(chunks(0)) as pieces:
        async for piece in pieces:
            count += len(piece)
            hasher.update(piece)
            yield piece
    if count != blob.size or hasher.hexdigest() != blob.digest.hex:
        raise ImageError(f"blob {blob.digest} is damaged", hint="`rcontain system check --repair` fetches it again")


def cannot_write(path: str, error: OSError) -> HostError:
    """What is said of a failure to write."""
    return HostError(f"cannot write {path}: {error.strerror}")


def _header(name: str, size: int) -> bytes:
    """One block, whatever the size is; a large one in base 256, as GNU tar writes it."""
    entry = TarEntry(name.encode(), 0o100644, 0, 0, min(size, _SIZE_LIMIT - 1), 0, 0, 0, b"", None, (), ())
    block = bytearray(header(entry))
    assert len(block) == BLOCK
    if size >= _SIZE_LIMIT:
        block[124:136] = b"\x80" + size.to_bytes(11, "big")
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
