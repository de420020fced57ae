"""`rcontain diff`: what a container changed, or what an image's last layer did."""

from __future__ import annotations

import os

import click

from ..container.caller import Caller
from ..container.containers import Container, Containers
from ..container.contents import contents
from ..errors import ContainerError, UsageError
from ..image.store import ImageNotFound, Store
from .command import Command
from .format import to_json
from .imagediff import image_diff
from .session import pass_session

_MEMBERS = {"C": "changed", "A": "added", "D": "deleted"}
_FORMAT = click.option("--format", "format_", type=click.Choice(["json"]), metavar="FORMAT", help="json.")
_LATEST = click.option("-l", "--latest", is_flag=True, help="The container that was made last.")


@click.command(
    "diff",
    cls=Command,
    examples=[
        ("rcontain diff web", "What web changed"),
        ("rcontain diff alpine", "What the top layer of an image changes"),
        ("rcontain diff tool:2 tool:1", "What tool:2 has that tool:1 has not, and the reverse"),
    ],
)
@_FORMAT
@_LATEST
@click.argument("name", metavar="[CONTAINER|IMAGE]", required=False)
@click.argument("other", metavar="[IMAGE]", required=False)
@pass_session
@click.pass_context
def diff(
    ctx: click.Context, session: Caller, format_: str | None, latest: bool, name: str | None, other: str | None
) -> None:
    """Show what a container, or the top layer of an image, changed.

    With two images it is what the first has that the second has not, and the reverse.

    A stands for added, C for changed, D for deleted. What is there for mounts alone is left out.
    """
    if other is None:
        try:
            container = _container(session, name, latest)
        except ContainerError:
            if name is None or not _is_image(session, name):
                raise
        else:
            _show(container, format_)
            return
    ctx.invoke(image_diff, image=name, other=other, format_=format_)


@click.command("diff", cls=Command, examples=[("rcontain container diff web", "What web changed")])
@_FORMAT
@_LATEST
@click.argument("name", metavar="[CONTAINER]", required=False)
@pass_session
def container_diff(session: Caller, format_: str | None, latest: bool, name: str | None) -> None:
    """Show what a container changed.

    A stands for added, C for changed, D for deleted. What is there for mounts alone is left out.
    """
    _show(_container(session, name, latest), format_)


def _container(session: Caller, name: str | None, latest: bool) -> Container:
    containers = Containers(session.settings)
    if (name is None) is not latest:
        raise UsageError("give either a name or --latest")
    if name is not None:
        return containers.find(name)
    found = list(containers)
    if not found:
        raise ContainerError("there is no container")
    return found[-1]


def _is_image(session: Caller, name: str) -> bool:
    try:
        Store(session.settings.data).resolve(name)
    except (ImageNotFound, UsageError):
        return False
    return True


def _show(container: Container, format_: str | None) -> None:
    with contents(container, container.record()) as found:
        changes = [(kind.value, "/" + os.fsdecode(path)) for kind, path in found.changes()]
    if format_ == "json":
        members = {name: [path for kind, path in changes if kind == letter] for letter, name in _MEMBERS.items()}
        click.echo(to_json({name: paths for name, paths in members.items() if paths}, indent=2))
        return
    click.echo("".join(f"{kind} {path}\n" for kind, path in changes), nl=False)
