"""`rcontain inspect`, `rcontain container inspect` and `rcontain image inspect`."""

from __future__ import annotations

from collections.abc import Callable

import click

from ..container.containers import Containers
from ..errors import ContainerError, RcontainError, UsageError
from ..image.store import ImageNotFound, Store
from .command import Command
from .completion import container_or_image_names
from .container_document import ContainerDocument, describe_container
from .format import render
from .image_document import ImageDocument, describe_image
from .ps import Sizes, written_size
from .session import Session, pass_session

TYPES = ("all", "container", "image")

_FORMAT = click.option("-f", "--format", "format_", default="json", metavar="FORMAT", help="json, or a Go template.")
_SIZE = click.option("-s", "--size", is_flag=True, help="Add how much a container has written.")

Documents = list[ContainerDocument | ImageDocument]


class NoSuchObject(UsageError):
    """Neither a container nor an image has this name."""


def _container(session: Session, name: str, size: bool) -> ContainerDocument:
    container = Containers(session.settings).find(name)
    try:
        record = container.record()
    except FileNotFoundError:
        raise ContainerError(f'no container with name or ID "{name}" found: no such container') from None
    sizes = None
    if size:
        written = written_size(container)
        images = {image.id: image.size for image in Store(session.settings.data).images()}
        sizes = Sizes(images.get(record.image_id, 0) + written, written)
    return describe_container(container, record, container.state(), sizes)


def _image(session: Session, name: str) -> ImageDocument:
    store = Store(session.settings.data)
    return describe_image(store.resolve(name), store)


def _any(session: Session, name: str, size: bool) -> ContainerDocument | ImageDocument:
    try:
        return _container(session, name, size)
    except ContainerError as problem:
        if "no such container" not in problem.message:
            raise
    try:
        return _image(session, name)
    except ImageNotFound:
        raise NoSuchObject(f'no such object: "{name}"') from None


def _show(names: tuple[str, ...], format_: str, find: Callable[[str], ContainerDocument | ImageDocument]) -> int:
    """Shows what there is, then says what there is not."""
    documents: Documents = []
    errors: list[RcontainError] = []
    for name in names:
        try:
            documents.append(find(name))
        except RcontainError as error:
            errors.append(error)
    if documents or format_.strip() == "json":
        click.echo(render(format_, documents), nl=False)
    for problem in errors:
        click.echo(f"Error: {problem}", err=True)
    return 125 if errors else 0


def _required(names: tuple[str, ...], latest: bool, session: Session) -> tuple[str, ...]:
    if latest:
        if names:
            raise UsageError("give either names or --latest")
        every = list(Containers(session.settings))
        if not every:
            raise UsageError("there is no container")
        return (every[-1].id,)
    if not names:
        raise UsageError("specify at least one name or ID to inspect")
    return names


@click.command(
    "inspect",
    cls=Command,
    examples=[
        ("rcontain inspect web", "Everything, as JSON"),
        ("rcontain inspect -f '{{.State.ExitCode}}' web", "One field"),
        ("rcontain inspect -f '{{range .Mounts}}{{.Source}} {{end}}' web", ""),
        ("rcontain inspect --type image -f '{{.Config.Cmd}}' alpine", ""),
    ],
)
@_FORMAT
@click.option("-l", "--latest", is_flag=True, help="The container that was created last.")
@_SIZE
@click.option("-t", "--type", "type_", default="all", metavar="TYPE", help="Look for a container or an image only.")
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=container_or_image_names)
@pass_session
def inspect(session: Session, format_: str, latest: bool, size: bool, type_: str, names: tuple[str, ...]) -> int:
    """Show everything about containers or images."""
    if type_ not in TYPES:
        raise UsageError(f'invalid type "{type_}": must be "container", "image" or "all"')
    names = _required(names, latest, session)
    if type_ == "container" or latest:
        return _show(names, format_, lambda name: _container(session, name, size))
    if type_ == "image":
        return _show(names, format_, lambda name: _image(session, name))
    return _show(names, format_, lambda name: _any(session, name, size))


@click.command("inspect", cls=Command, examples=[("rcontain container inspect -f '{{.State.Status}}' web", "")])
@_FORMAT
@click.option("-l", "--latest", is_flag=True, help="The container that was created last.")
@_SIZE
@click.argument("names", nargs=-1, metavar="CONTAINER...")
@pass_session
def container_inspect(session: Session, format_: str, latest: bool, size: bool, names: tuple[str, ...]) -> int:
    """Show everything about containers."""
    return _show(_required(names, latest, session), format_, lambda name: _container(session, name, size))


@click.command("inspect", cls=Command, examples=[("rcontain image inspect -f '{{.Os}}/{{.Architecture}}' alpine", "")])
@_FORMAT
@click.argument("names", nargs=-1, metavar="IMAGE...")
@pass_session
def image_inspect(session: Session, format_: str, names: tuple[str, ...]) -> int:
    """Show everything about images."""
    return _show(_required(names, False, session), format_, lambda name: _image(session, name))
