"""Files of configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.errors import UsageError
from rootless.image.conffile import FILE_MAX, read


def test_a_file_and_none(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * FILE_MAX)
    assert read(str(tmp_path / "f"), "it") == b"x" * FILE_MAX
    assert read(str(tmp_path / "none"), "it") is None and read(str(tmp_path / "f" / "none"), "it") is None


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (FILE_MAX + 1))
    with pytest.raises(UsageError, match=r"the key .* is larger than 1048576 bytes"):
        read(str(tmp_path / "f"), "the key")
    with pytest.raises(UsageError, match=r"cannot read the key .*: Is a directory"):
        read(str(tmp_path), "the key")
