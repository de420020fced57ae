"""`rcontain tag` and `rcontain untag`."""

from __future__ import annotations

import click

from ..errors import UsageError
from ..image.store import Store
from ..oci.reference import Reference
from .command import Command
from .completion import image_names
from .session import Session, pass_session


@click.command(
    "tag",
    cls=Command,
    examples=[("rcontain tag 8f87b41d0e7b registry.example.org/team/tool:1.2", "A second name, to push it under")],
)
@click.argument("image", metavar="IMAGE")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@pass_session
def tag(session: Session, image: str, names: tuple[str, ...]) -> None:
    """Give an image more names."""
    store = Store(session.settings.data)
    store.prepare()
    found = store.resolve(image)
    for reference in [Reference.parse_given(name) for name in names]:
        store.tag(found, reference)


@click.command("untag", cls=Command, examples=[("rcontain untag alpine", "Take its names away; the image stays")])
@click.argument("image", metavar="IMAGE")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=image_names)
@pass_session
def untag(session: Session, image: str, names: tuple[str, ...]) -> None:
    """Take names away from an image; without NAME, all of them."""
    store = Store(session.settings.data)
    store.prepare()
    found = store.resolve(image)
    wanted = [str(Reference.parse_given(name)) for name in names]
    for name in wanted:
        if name not in found.names:
            raise UsageError(f"{name}: the image {image} has no such name", hint=f"it has {', '.join(found.names)}")
    for name in wanted or found.names:
        store.untag(Reference.parse(name))
