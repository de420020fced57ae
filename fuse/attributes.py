"""What stat(2) says about a file, without its number."""

from __future__ import annotations

import os
from typing import NamedTuple


class Attributes(NamedTuple):
    """Ids are those that the file's layer stores; times are in nanoseconds, `blocks` in units of 512 bytes."""

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def from_stat(status: os.stat_result) -> Attributes:
    return Attributes(
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        status.st_size,
        status.st_blocks,
        status.st_atime_ns,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
