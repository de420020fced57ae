"""The claim to look after a container: <runtime>/containers/<id>, which appears with its lock held."""

from __future__ import annotations

import errno
import os

from ..errors import ContainerError
from . import debris, ending, lock
from .containers import Container


def take_over(container: Container) -> int:
    """The claim that `create` took for a container that is to be run at once, or a new one."""
    held, container.claim = container.claim, None
    return take(container) if held is None else held


def abandon(container: Container) -> None:
    """Lets go of a container that was made to be run at once, and was not: with --rm it goes away again."""
    if container.claim is None:
        return
    held, container.claim = container.claim, None
    try:
        if container.record().remove:
            ending.forget(container, volumes=True)
        else:
            container.forget_live()
    finally:
        os.close(held)


def take(container: Container) -> int:
    """Makes the directory and takes the lock. Returns the descriptor that keeps it. Raises ContainerError."""
    while True:
        try:
            held = lock.hold_leftover(f"{container.live}/lock")
        except FileNotFoundError:
            made = _make(container)
            if made is not None:
                return made
            continue  # somebody was quicker
        if held is None:
            raise ContainerError(f"container {container.id[:12]} is running already")
        return held


def _make(container: Container) -> int | None:
    fresh = debris.fresh(container.settings.live, container.id)
    os.makedirs(fresh, mode=0o700, exist_ok=True)
    held = lock.hold(f"{fresh}/lock")
    assert held is not None, "nobody else knows of the directory"
    try:
        os.rename(fresh, container.live)
    except OSError as error:
        os.close(held)
        debris.discard(fresh)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return None
    return held
