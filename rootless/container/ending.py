"""Stopping, killing and removing containers from outside: through the supervisor's control socket."""

from __future__ import annotations

import os
import signal

import trio

from ..errors import ContainerError
from . import control
from .containers import Container
from .control import Message, NotAlive
from .volumes import Volume


async def stop(container: Container, *, number: int, seconds: float | None) -> None:
    """Sends the stop signal, and SIGKILL after `seconds` (None waits for ever). Done when it is cleaned up."""
    try:
        pidfd = await _pidfd(container)
    except NotAlive:
        await control.gone(container)
        return
    try:
        with control.connect(container) as connection:
            control.send(connection, Message(op="stopping"))
            control.receive(connection)
            control.send(connection, Message(op="wait"))
            connection.setblocking(False)
            _send_signal(pidfd, number)
            with trio.move_on_after(float("inf") if seconds is None else seconds) as patience:
                await trio.lowlevel.wait_readable(pidfd)
            if patience.cancelled_caught:
                _send_signal(pidfd, signal.SIGKILL)
            await control.exit_code(connection)
    except (NotAlive, BrokenPipeError, ConnectionResetError):
        pass  # it ended by itself in the meantime
    finally:
        os.close(pidfd)
    await control.gone(container)


async def kill(container: Container, number: int) -> None:
    """Sends a signal to the container's first process. Raises ContainerError unless it is running."""
    try:
        pidfd = await _pidfd(container)
    except NotAlive:
        raise ContainerError(
            f"can only kill running containers. {container.id} is in state {container.state().status}: "
            "container state improper"
        ) from None
    try:
        if number != signal.SIGKILL:
            _send_signal(pidfd, number)
            return
        with control.connect(container) as connection:
            control.send(connection, Message(op="wait"))
            connection.setblocking(False)
            _send_signal(pidfd, number)
            await control.exit_code(connection)
    except (NotAlive, BrokenPipeError, ConnectionResetError):
        pass  # it has just ended
    finally:
        os.close(pidfd)
    await control.gone(container)


async def _pidfd(container: Container) -> int:
    pidfd, *spaces = control.join(container)
    for fd in spaces:
        os.close(fd)
    return pidfd


def _send_signal(pidfd: int, number: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass  # it has just ended


class StillRunning(ContainerError):
    """A living container is only removed by force."""

    exit_code = 2


async def remove(container: Container, *, force: bool, seconds: float | None, volumes: bool) -> None:
    """Removes a container, and with `volumes` the anonymous volumes that were made for it."""
    if container.is_alive():
        status = container.state().status
        if not force:
            raise StillRunning(
                f"cannot remove container {container.id} as it is {status} - running or paused containers cannot be "
                "removed without force: container state improper"
            )
        record = container.record()
        await stop(container, number=record.stop_signal, seconds=seconds)
    forget(container, volumes=volumes)


async def force_removal(container: Container) -> None:
    """Stops and removes it, with its anonymous volumes."""
    await remove(container, force=True, seconds=10, volumes=True)


def forget(container: Container, *, volumes: bool, mount: str | None = None) -> None:
    """Removes the record of a container that is not alive, and its anonymous volumes if asked; see Container.forget."""
    try:
        names = [mount.name for mount in container.record().mounts if mount.type == "volume"] if volumes else []
    except (ContainerError, FileNotFoundError):
        names = []  # no record: no volume was made for it
    container.forget(mount=mount)
    for name in names:
        volume = Volume(container.settings, name)
        if volume.is_anonymous:
            volume.remove()
