"""`rcontain image diff`."""

from __future__ import annotations

import os

import click

from ..image.derive import ensure
from ..image.differences import differences, layer_changes
from ..image.model import Derive
from ..image.store import Store
from ..image.trees import open_trees
from .command import Command
from .format import to_json
from .session import Session, pass_session

_MEMBERS = {"C": "changed", "A": "added", "D": "deleted"}


@click.command(
    "diff",
    cls=Command,
    examples=[
        ("rcontain image diff alpine", "What its top layer changes"),
        ("rcontain image diff tool:2 tool:1", "What tool:2 has that tool:1 has not, and the reverse"),
    ],
)
@click.option("--format", "format_", type=click.Choice(["json"]), metavar="FORMAT", help="json.")
@click.argument("image", metavar="IMAGE")
@click.argument("other", metavar="[IMAGE]", required=False)
@pass_session
def image_diff(session: Session, format_: str | None, image: str, other: str | None) -> None:
    """Show what an image's top layer changes, or it changes of another image.

    A stands for added, C for changed, D for deleted.
    """
    store = Store(session.settings.data)
    store.prepare()
    found = store.resolve(image)
    base = store.resolve(other) if other else None
    for one in [found] if base is None else [found, base]:
        session.run(ensure, store, one, Derive.INDEX)
    own = len(found.layers)
    with open_trees(store, (*found.layers[::-1], *(base.layers[::-1] if base else ()))) as trees:
        if base is None:
            changes = [(one.kind.value, "/" + os.fsdecode(one.path)) for one in layer_changes(trees)] if trees else []
        else:
            pairs = differences(trees[:own], trees[own:])
            changes = [(one.kind.value, "/" + os.fsdecode(one.path)) for one in pairs]
    if format_ == "json":
        members = {name: [path for kind, path in changes if kind == letter] for letter, name in _MEMBERS.items()}
        click.echo(to_json({name: paths for name, paths in members.items() if paths}, indent=2))
        return
    click.echo("".join(f"{kind} {path}\n" for kind, path in changes), nl=False)
