"""The blobs of an image layout: content by digest, verified before anyone can see it.

`blobs/<algorithm>/<hex>` (OCI image-spec, `image-layout.md`). A blob is written in a workspace, hashed while it is
written, synced, and renamed only if its size and digest are those that were promised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from rootless.errors import HostError, ImageError
from rootless.image import partial
from rootless.image.workspace import Workspace
from rootless.oci.digest import Digest

_READ = 1 << 20


class Blobs:
    """The directory `blobs` of a layout."""

    def __init__(self, path: str, tmp: str) -> None:
        self._path = path
        self._tmp = tmp

    def path(self, digest: Digest) -> str:
        """Where the blob is, or would be."""
        return f"{self._path}/{digest.algorithm}/{digest.hex}"

    def size(self, digest: Digest) -> int | None:
        """Its size in bytes; None if it is not there."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return None

    def has(self, digest: Digest, size: int) -> bool:
        """Whether the blob is there at its full size; its content was verified when it was written."""
        return self.size(digest) == size

    def is_sound(self, digest: Digest) -> bool:
        """Whether the stored bytes still have their digest. Reads all of them."""
        hasher = digest.hasher()
        path = self.path(digest)
        try:
            with open(path, "rb") as file:
                while chunk := file.read(1 << 20):
                    hasher.update(chunk)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error
        return hasher.hexdigest() == digest.hex

    def all(self) -> list[Digest]:
        """Every blob there is; files that are none are left out."""
        found = []
        for algorithm in os.listdir(self._path):
            for name in os.listdir(os.path.join(self._path, algorithm)):
                try:
                    found.append(Digest.parse(f"{algorithm}:{name}"))
                except ImageError:
                    continue
        return found

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob, verified. Raises ImageError if it is missing, larger than `limit` bytes, or damaged."""
        path = self.path(digest)
        try:
            with open(path, "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise ImageError(f"blob {digest} is missing from the store", hint="pull the image again") from None
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from error
        if len(data) > limit:
            raise ImageError(f"blob {digest} is larger than a document may be ({limit} bytes)")
        digest.verify(data, f"the stored blob {path}")
        return data

    def put(self, data: bytes, digest: Digest) -> None:
        """Store a small blob. Raises ImageError if `data` is not what `digest` names."""
        if self.has(digest, len(data)) and self.is_sound(digest):
            return
        with Workspace(self._tmp) as space, self.writer(space, digest, len(data)) as writer:
            writer.write(data)
            writer.commit()

    def writer(self, space: Workspace, digest: Digest, size: int) -> BlobWriter:
        """A writer for a blob of `size` bytes; nothing is there before its `commit`."""
        temporary = space.file("blob")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _cannot_write(self.path(digest), error) from error
        return BlobWriter(fd, temporary, self.path(digest), digest, size)

    def resuming(self, space: Workspace, digest: Digest, size: int) -> BlobWriter:
        """A writer that keeps what it has if it is left without `commit`, and begins with what an earlier one kept.

        `replay` must come first.
        """
        taken = partial.take(os.path.dirname(self._path), digest)
        if taken is None:
            return self.writer(space, digest, size)
        return BlobWriter(*taken, self.path(digest), digest, size, kept=True)

    def remove(self, digest: Digest) -> int:
        """Remove a blob; returns the bytes it had."""
        size = self.size(digest)
        if size is None:
            return 0
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise HostError(f"cannot remove {self.path(digest)}: {error.strerror}") from error
        return size


class BlobWriter:
    """Takes a blob's bytes in order. `commit` makes it appear; leaving the context without it leaves nothing, or with
    `kept` what is there for the next one.

    Raises ImageError as soon as more than `size` bytes arrive, and in `commit` for too few or the wrong ones;
    HostError where the disk is full or fails.
    """

    def __init__(self, fd: int, temporary: str, path: str, digest: Digest, size: int, *, kept: bool = False) -> None:
        self._fd = fd
        self._temporary = temporary
        self._path = path
        self._digest = digest
        self._size = size
        self._kept = kept
        self._hasher = digest.hasher()
        self.written = 0

    def replay(self) -> Iterator[bytes]:
        """What an earlier writer kept, hashed: the blob's first bytes. More than there may be is dropped."""
        try:
            if not self._kept:
                return
            if os.fstat(self._fd).st_size > self._size:
                os.ftruncate(self._fd, 0)
            while chunk := os.read(self._fd, _READ):
                self.written += len(chunk)
                self._hasher.update(chunk)
                yield chunk
        except OSError as error:
            raise _cannot_write(self._temporary, error) from error

    def discard(self) -> None:
        """Keep nothing: what is there is wrong, or in the way."""
        self._kept = False

    def write(self, chunk: bytes | memoryview) -> None:
        """Hash and keep the next bytes."""
        self.written += len(chunk)
        if self.written > self._size:
            raise ImageError(f"blob {self._digest} is longer than the {self._size} bytes that were promised")
        self._hasher.update(chunk)
        try:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise _cannot_write(self._path, error) from error

    def verify(self) -> None:
        """Raise ImageError unless size and digest are right."""
        if self.written != self._size:
            raise ImageError(f"blob {self._digest} has {self.written} bytes; {self._size} were promised")
        found = self._hasher.hexdigest()
        if found != self._digest.hex:
            raise ImageError(f"blob {self._digest} arrived with the digest {self._digest.algorithm}:{found}")

    def commit(self) -> None:
        """Verify, sync and rename."""
        self.verify()
        try:
            os.fchmod(self._fd, 0o644)
            os.fsync(self._fd)
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            os.rename(self._temporary, self._path)
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        self._kept = True

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *details: object) -> None:
        try:
            if not self._kept:
                os.unlink(self._temporary)
        except FileNotFoundError:
            return  # its directory is gone already
        finally:
            os.close(self._fd)


def _cannot_write(path: str, error: OSError) -> HostError:
    return HostError(f"cannot write {path}: {error.strerror}", hint="free some space, for example with `rcontain rmi`")
