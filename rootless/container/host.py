"""This process's place on the host: the user and mount namespace E that the engine and its sessions live in."""

from __future__ import annotations

import os

from ..runtime import userns
from ..settings import Settings, from_environment
from . import control, lock
from .containers import Container
from .control import NotAlive

REASON = "RCONTAIN_SINGLE_ID"
"""Set in an engine's environment when there are no subordinate ids; the reason why."""


def enter() -> None:
    """Enters E: that of a living container if there is one, so that its namespaces can be reached; else a new one."""
    settings = from_environment(os.environ)
    for id in _living(settings):
        try:
            pidfd, user, mount = control.join(Container(settings, id))
        except NotAlive:
            continue
        os.close(pidfd)
        try:
            userns.join(user, mount)
            return
        finally:
            os.close(user)
            os.close(mount)
    entered = userns.enter()
    if entered.reason is not None:
        os.environ[REASON] = entered.reason


def _living(settings: Settings) -> list[str]:
    try:
        entries = os.listdir(settings.live)
    except FileNotFoundError:
        return []
    return [id for id in entries if lock.is_held(f"{settings.live}/{id}/lock")]
