"""This process's place on the host: the user and mount namespace E that the engine and its sessions live in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from ..runtime import userns
from ..settings import Settings, from_environment
from . import control, lock
from .containers import Container, is_id
from .control import NotAlive

REASON = "RCONTAIN_SINGLE_ID"
"""Set in an engine's environment when there are no subordinate ids; the reason why."""


def enter() -> bool:
    """Enters E: that of a living container if there is one, so that its namespaces can be reached; else a new one.

    Returns False when the user's subordinate ids could not be mapped, which may go better the next time.
    """
    settings = from_environment(os.environ)
    for id in _living(settings):
        try:
            pidfd, user, mount = control.join(Container(settings, id))
        except NotAlive:
            continue
        os.close(pidfd)
        try:
            userns.join(user, mount)
            return True
        finally:
            os.close(user)
            os.close(mount)
    entered = userns.enter()
    if entered.reason is not None:
        os.environ[REASON] = entered.reason
    return not entered.is_degraded


def _living(settings: Settings) -> list[str]:
    try:
        entries = os.listdir(settings.live)
    except FileNotFoundError:
        return []
    return [id for id in filter(is_id, entries) if lock.is_held(f"{settings.live}/{id}/lock")]


def mention_single_id(settings: Settings, environment: Mapping[str, str]) -> None:
    """Says once per boot, on stderr, that there is only one id to give, and why."""
    reason = environment.get(REASON)
    said = f"{settings.runtime}/single-id-mentioned"
    if reason and not os.path.exists(said):
        print(f"Note: containers have one user id only, yours: {reason}.", file=sys.stderr)
        with open(said, "wb"):
            pass
