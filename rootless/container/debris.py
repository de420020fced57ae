"""Directories that come and go as a whole, and what is left of them when their maker or remover is killed.

A directory is filled under a name of its own, `.new-<pid>-<id>`, and appears by a rename; it disappears by a rename to
`.old-<pid>-<id>` and is emptied there. So whatever has a proper name is complete, and whatever has such a name while no
process has that pid is debris.
"""

from __future__ import annotations

import os
import re

from ..image.removal import remove_tree

_DEBRIS = re.compile(r"\.(?:new|old)-(\d+)-")


def fresh(directory: str, id: str) -> str:
    """The name under which this process fills what will be `directory`/`id`."""
    return f"{directory}/.new-{os.getpid()}-{id}"


def discard(path: str) -> None:
    """Makes a directory disappear at once, and removes it. Nothing happens where it is not there."""
    directory, _, id = path.rpartition("/")
    gone = f"{directory}/.old-{os.getpid()}-{id}"
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return
    except OSError:  # a full disk, or an earlier attempt's remains under that name: removed where it is
        gone = path
    remove_tree(gone)


def clear(directory: str) -> None:
    """Removes what killed processes left in `directory`."""
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return
    for entry in entries:
        match = _DEBRIS.match(entry)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            remove_tree(f"{directory}/{entry}")
