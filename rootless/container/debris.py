"""Directories that come and go as a whole, and what is left of them when their maker or remover is killed.

A directory is filled under a name of its own, `.new-<pid>-<id>`, and appears by a rename; it disappears by a rename to
`.old-<pid>-<id>` and is emptied there. So whatever has a proper name is complete, and whatever has such a name while no
process has that pid is debris.
"""

from __future__ import annotations

import os
import re

from .. import syscalls
from ..image.removal import remove_tree
from ..processes import process_state
from . import afterwards

_DEBRIS = re.compile(r"\.(?:new|old)-(\d+)-")


def fresh(directory: str, id: str) -> str:
    """The name under which this process fills what will be `directory`/`id`."""
    return f"{directory}/.new-{os.getpid()}-{id}"


def discard(path: str) -> None:
    """Makes a directory disappear at once, and removes it. Nothing happens where it is not there."""
    gone = _hide(path)
    if gone is not None:
        remove_tree(gone)


def discard_afterwards(path: str, *, mount: str | None = None) -> None:
    """As `discard`, with what takes time done afterwards. `mount` is a directory in it that is unmounted then."""
    gone = _hide(path)
    if gone is None:
        return
    if mount is not None:
        afterwards.do(lambda: syscalls.umount(f"{gone}/{mount}", syscalls.UmountFlag.DETACH))
    afterwards.do(lambda: remove_tree(gone))


def _hide(path: str) -> str | None:
    """Gives a directory its name as debris, and returns that; None where there is no such directory."""
    directory, _, id = path.rpartition("/")
    gone = f"{directory}/.old-{os.getpid()}-{id}"
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return None
    except OSError:  # a full disk, or an earlier attempt's remains under that name: removed where it is
        return path
    return gone


def clear(directory: str) -> None:
    """Removes what killed processes left in `directory`."""
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return
    for entry in entries:
        match = _DEBRIS.match(entry)
        if match is None:
            continue
        maker = process_state(int(match[1]))
        if maker is None or maker.ended:
            remove_tree(f"{directory}/{entry}")
