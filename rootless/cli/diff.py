"""`rcontain diff`: what a container changed, or what an image's last layer did."""

from __future__ import annotations

import os
from collections.abc import Iterable

import click
import msgspec

from fuse.changes import ChangeKind, changes

from ..container.caller import Caller
from ..container.containers import Container, Containers
from ..container.contents import contents
from ..errors import ContainerError, UsageError
from ..image.derive import ensure
from ..image.model import Derive, Image
from ..image.store import ImageNotFound, Store
from ..image.trees import open_trees
from .command import Command
from .session import pass_session

Found = Iterable[tuple[ChangeKind, bytes]]

_FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", metavar="FORM",
    help="json, or one line for each path [default].",
)  # fmt: skip
_LATEST = click.option("-l", "--latest", is_flag=True, help="The container that was made last.")


class Changes(msgspec.Struct, frozen=True):
    """`--format json`, as Podman has it."""

    changed: tuple[str, ...]
    added: tuple[str, ...]
    deleted: tuple[str, ...]


@click.command(
    "diff",
    cls=Command,
    examples=[
        ("rcontain diff web", "What web changed: A is added, C changed, D deleted"),
        ("rcontain diff alpine", "What the last layer of an image changed"),
    ],
)
@_FORMAT
@_LATEST
@click.argument("name", metavar="[CONTAINER|IMAGE]", required=False)
@pass_session
def diff(session: Caller, form: str, latest: bool, name: str | None) -> None:
    """List the files that a container, or the last layer of an image, changed."""
    try:
        container = _container(session, name, latest)
    except ContainerError:
        if name is None:
            raise
        try:
            image = Store(session.settings.data).resolve(name)
        except ImageNotFound:
            raise UsageError(f"{name} is neither a container nor an image") from None
        _of_image(session, image, form)
        return
    _of_container(container, form)


@click.command("diff", cls=Command, examples=[("rcontain container diff web", "What web changed")])
@_FORMAT
@_LATEST
@click.argument("name", metavar="[CONTAINER]", required=False)
@pass_session
def container_diff(session: Caller, form: str, latest: bool, name: str | None) -> None:
    """List the files that a container changed."""
    _of_container(_container(session, name, latest), form)


@click.command("diff", cls=Command, examples=[("rcontain image diff alpine", "What its last layer changed")])
@_FORMAT
@click.argument("name", metavar="IMAGE")
@pass_session
def image_diff(session: Caller, form: str, name: str) -> None:
    """List the files that the last layer of an image changed."""
    _of_image(session, Store(session.settings.data).resolve(name), form)


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


def _of_container(container: Container, form: str) -> None:
    with contents(container, container.record()) as found:
        _show(found.changes(), form)


def _of_image(session: Caller, image: Image, form: str) -> None:
    store = Store(session.settings.data)
    store.prepare()
    session.run(ensure, store, image, Derive.INDEX)
    with open_trees(store, image.layers[::-1]) as trees:
        _show(((change.kind, change.path) for change in changes(trees[0], trees[1:])) if trees else (), form)


def _show(found: Found, form: str) -> None:
    if form != "json":
        for kind, path in found:
            click.echo(f"{kind.value} /{os.fsdecode(path)}")
        return
    by_kind: dict[ChangeKind, list[str]] = {kind: [] for kind in ChangeKind}
    for kind, path in found:
        by_kind[kind].append("/" + path.decode(errors="backslashreplace"))
    document = Changes(*(tuple(by_kind[kind]) for kind in (ChangeKind.CHANGED, ChangeKind.ADDED, ChangeKind.DELETED)))
    click.echo(msgspec.json.encode(document).decode())
