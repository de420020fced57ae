"""`rcontain image tree`: an image's layers, and what each adds, changes and deletes."""

from __future__ import annotations

import click
import msgspec

from ..errors import shortened
from ..image.derive import ensure
from ..image.differences import summarize
from ..image.model import Derive, Image
from ..image.steps import layer_steps, requiring, tops
from ..image.store import Store
from ..image.trees import content_size, open_trees
from . import times
from .command import Command
from .format import render
from .session import Session, pass_session

_WIDTH = 60


class LayerLine(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """A layer in `image tree --format json`. Sizes are bytes, `size` unpacked; paths are counted."""

    id: str = msgspec.field(name="ID")
    blob: str
    media_type: str
    size: int
    packed_size: int
    added: int
    changed: int
    deleted: int
    created: str
    created_by: str
    top_layer_of: tuple[str, ...]


@click.command(
    "tree",
    cls=Command,
    examples=[
        ("rcontain image tree alpine", "+ counts what a layer adds, ~ what it changes, - what it deletes"),
        ("rcontain image tree --whatrequires alpine", "The images that are made from it"),
    ],
)
@click.option("--format", "format_", metavar="FORMAT", help="json, or a Go template.")
@click.option("--no-trunc", is_flag=True, help="Show digests and commands in full.")
@click.option("--whatrequires", is_flag=True, help="Show the images that are made of this one's layers and more.")
@click.argument("image", metavar="IMAGE")
@pass_session
def tree(session: Session, format_: str | None, no_trunc: bool, whatrequires: bool, image: str) -> None:
    """Show the layers of an image, and what each adds, changes and deletes."""
    store = Store(session.settings.data)
    store.prepare()
    found = store.resolve(image)
    if whatrequires:
        children = requiring(store.images(), found)
        lines = [f"ID: {one.id if no_trunc else one.short_id} {_tags(one)} Size: {_size(one.size)}" for one in children]
        click.echo(_head(found, no_trunc) + "Images that require it\n" + _branches(lines), nl=False)
        return
    session.run(ensure, store, found, Derive.INDEX)
    layers = _layers(store, found)
    if format_ is not None:
        click.echo(render(format_, layers), nl=False)
        return
    width = max((len(_size(layer.size)) for layer in layers), default=0)
    lines = []
    for layer in layers:
        command = " ".join(layer.created_by.split())
        if not no_trunc:
            command = shortened(command, _WIDTH)
        id = layer.id if no_trunc else layer.id.partition(":")[2][:12]
        words = [f"ID: {id} Size: {_size(layer.size):>{width}}", f"+{layer.added} ~{layer.changed} -{layer.deleted}"]
        words += [f"Top Layer of: [{', '.join(layer.top_layer_of)}]"] if layer.top_layer_of else []
        lines.append("  ".join([*words, command]).rstrip())
    click.echo(_head(found, no_trunc) + "Image Layers\n" + _branches(lines), nl=False)


def _layers(store: Store, image: Image) -> list[LayerLine]:
    images = store.images()
    found = []
    with open_trees(store, image.layers[::-1]) as trees:
        for step in layer_steps(image):
            layer = step.layer
            assert layer is not None
            summary = summarize(trees[len(trees) - step.depth :])
            found.append(
                LayerLine(
                    id=str(layer.diff_id),
                    blob=str(layer.blob),
                    media_type=layer.media_type,
                    size=content_size(store, layer),
                    packed_size=layer.size,
                    added=summary.added,
                    changed=summary.changed,
                    deleted=summary.deleted,
                    created=step.line.created or "",
                    created_by=step.line.created_by,
                    top_layer_of=tuple(name for one in tops(images, image, step.depth) for name in one.names),
                )
            )
    return found


def _head(image: Image, no_trunc: bool) -> str:
    id = image.id if no_trunc else image.short_id
    return f"Image ID: {id}\nTags:     [{' '.join(image.names)}]\nSize:     {_size(image.size)}\n"


def _tags(image: Image) -> str:
    return f"Tags: [{' '.join(image.names)}]"


def _size(size: int) -> str:
    return times.human_size(size, space="")


def _branches(lines: list[str]) -> str:
    last = len(lines) - 1
    return "".join(f"{'└──' if number == last else '├──'} {line}\n" for number, line in enumerate(lines))
