"""What a command found out, written to a file as well: --iidfile, --digestfile."""

from __future__ import annotations

import os

from ..errors import HostError


def write_result(cwd: str, path: str | None, text: str) -> None:
    """Write `text` and nothing else to `path`, which begins in `cwd`; nothing without a path. Raises HostError."""
    if not path:
        return
    try:
        with open(os.path.join(cwd, path), "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
