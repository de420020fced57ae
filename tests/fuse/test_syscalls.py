"""System calls, for real."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fuse.syscalls import birth_ns, file_system_type

_TMPFS = 0x01021994  # statfs(2)


def test_the_birth_of_a_file(tmp_path: Path) -> None:
    before = time.time_ns()
    path = tmp_path / "file"
    path.write_text("")
    born = birth_ns(os.fsencode(path))
    assert before - 1_000_000_000 < born <= time.time_ns()
    path.write_text("more")
    os.utime(path, (1, 1))
    assert birth_ns(os.fsencode(path)) == born
    link = tmp_path / "link"
    link.symlink_to(path)
    assert birth_ns(os.fsencode(link)) != born == birth_ns(os.fsencode(link), follow=True)
    assert birth_ns(b"/proc/self/stat") == 0
    with pytest.raises(FileNotFoundError):
        birth_ns(os.fsencode(tmp_path / "none"))


def test_the_type_of_a_file_system(tmp_path: Path) -> None:
    fd = os.open("/dev/shm", os.O_PATH)
    try:
        assert file_system_type(fd) == _TMPFS
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file_system_type(fd)
