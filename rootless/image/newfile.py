"""A file that is replaced in one step: it has its name when it is complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def new_file(path: str, mode: int = 0o666, *, sync: bool = False) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` when the context is left without an error, and disappears otherwise.

    It is made beside `path`, with `mode` less the umask. `sync`: it is on the disk before it has its name. Raises
    OSError.
    """
    temporary = f"{path}.{secrets.token_hex(4)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):  # somebody else's cleaning
            os.unlink(temporary)
        raise
