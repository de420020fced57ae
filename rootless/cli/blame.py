"""`rcontain image blame`: which layers a file came from."""

from __future__ import annotations

import os
import stat

import click
import msgspec

from ..errors import UsageError, shortened
from ..image.derive import ensure
from ..image.differences import blame as layers_of_path
from ..image.differences import resolve
from ..image.model import Derive
from ..image.steps import layer_steps
from ..image.store import Store
from ..image.trees import open_trees
from . import times
from .command import Command
from .format import View, render
from .session import Session, pass_session

_WORDS = {"A": "added", "C": "changed", "D": "deleted"}
_TABLE = r"table {{.Layer}}\t{{.ID}}\t{{.Change}}\t{{.Size}}\t{{.CreatedBy}}"
TITLES = {"ID": "LAYER ID", "CreatedBy": "CREATED BY"}


class BlameLine(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """A layer in `image blame --format json`. `layer` counts from the bottom, from 1; `size` is of a regular file."""

    path: str
    layer: int
    id: str = msgspec.field(name="ID")
    blob: str
    change: str
    size: int | None
    created: str
    created_by: str


@click.command(
    "blame",
    cls=Command,
    examples=[
        ("rcontain image blame alpine /etc/passwd", "The layers that added, changed or deleted it, the latest first"),
        ("rcontain run --layers 2 alpine cat /etc/passwd", "The file as the second layer left it"),
    ],
)
@click.option("--format", "format_", metavar="FORMAT", help="json, a Go template, or `table` and a template.")
@click.option("--no-trunc", is_flag=True, help="Show digests and commands in full.")
@click.argument("image", metavar="IMAGE")
@click.argument("path", metavar="PATH")
@pass_session
def blame(session: Session, format_: str | None, no_trunc: bool, image: str, path: str) -> None:
    """Show which layers of an image a file came from."""
    store = Store(session.settings.data)
    store.prepare()
    found = store.resolve(image)
    session.run(ensure, store, found, Derive.INDEX)
    made = {step.depth: step for step in layer_steps(found)}
    views: list[View] = []
    with open_trees(store, found.layers[::-1]) as trees:
        real = resolve(trees, os.fsencode(path))
        for position, change in layers_of_path(trees, real):
            depth = len(trees) - position
            step, place = made[depth], change.after
            assert step.layer is not None
            is_file = place is not None and stat.S_ISREG(place.mode)
            line = BlameLine(
                path="/" + os.fsdecode(real),
                layer=depth,
                id=str(step.layer.diff_id),
                blob=str(step.layer.blob),
                change=_WORDS[change.kind.value],
                size=place.layer.attributes(place.ref).size if place is not None and is_file else None,
                created=step.line.created or "",
                created_by=step.line.created_by,
            )
            short = {"ID": line.id if no_trunc else step.layer.diff_id.hex[:12]}
            command = " ".join(line.created_by.split())
            short["CreatedBy"] = command if no_trunc else shortened(command, 60)
            short["Size"] = "" if line.size is None else times.human_size(line.size, space="")
            views.append(View(line, short))
    if not views:
        raise UsageError(f"no layer of {image} has {path}")
    click.echo(render(format_, views, default=_TABLE, titles=TITLES), nl=False)
