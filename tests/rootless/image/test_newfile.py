"""Files that are replaced in one step."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rootless.image.newfile import new_file


@pytest.mark.parametrize("sync", [False, True])
def test_it_has_its_name_when_it_is_complete(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with new_file(str(path), 0o600, sync=sync) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_nothing_is_left_of_what_fails(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), new_file(str(path)) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_a_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(IsADirectoryError), new_file(str(tmp_path / "d")):
        pass
    with pytest.raises(FileNotFoundError), new_file(str(tmp_path / "none" / "f")):
        pass
    assert os.listdir(tmp_path) == ["d"]
