"""`rcontain container exists` and `rcontain image exists`: an exit code for scripts."""

from __future__ import annotations

import click

from ..container.containers import Containers
from ..errors import ContainerError
from ..image.store import ImageNotFound, Store
from .command import Command
from .session import Session, pass_session


@click.command(
    "exists", cls=Command, examples=[("rcontain container exists web || rcontain run -d --name web nginx", "")]
)
@click.argument("name", metavar="CONTAINER")
@pass_session
def container_exists(session: Session, name: str) -> int:
    """Exit with 0 if the container exists, else with 1."""
    try:
        Containers(session.settings).find(name)
    except ContainerError:
        return 1
    return 0


@click.command("exists", cls=Command, examples=[("rcontain image exists alpine || rcontain pull alpine", "")])
@click.argument("name", metavar="IMAGE")
@pass_session
def image_exists(session: Session, name: str) -> int:
    """Exit with 0 if the image is in the store, else with 1."""
    try:
        Store(session.settings.data).resolve(name)
    except ImageNotFound:
        return 1
    return 0
