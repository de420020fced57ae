"""Small files that somebody wrote by hand: registries, credentials, policies and keys."""

from __future__ import annotations

from rootless.errors import UsageError

SYSTEM = "/etc/containers"
"""Where the machine's own are."""

FILE_MAX = 1 << 20
"""Bytes of one file."""


def read(path: str, what: str) -> bytes | None:
    """The bytes of a file, None if there is none; `what` messages call it. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            raw = file.read(FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"cannot read {what} {path}: {error.strerror}") from error
    if len(raw) > FILE_MAX:
        raise UsageError(f"{what} {path} is larger than {FILE_MAX} bytes")
    return raw
