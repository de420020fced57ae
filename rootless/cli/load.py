"""`rcontain load`."""

from __future__ import annotations

import os
import sys

import click

from ..errors import UsageError
from ..image.places import recognized
from ..image.policy import Policy
from ..image.progress import progress_for
from ..image.pull import take
from ..image.store import Store
from .command import Command
from .pull import derived
from .session import Session, pass_session


@click.command(
    "load",
    cls=Command,
    examples=[
        ("rcontain load -i alpine.tar", "What `docker save`, `podman save` or `rcontain save` has written"),
        ("rcontain load <images.tar.zst", "From stdin, also packed"),
        ("rcontain load -i layout/", "All images of an OCI image layout"),
    ],
)
@click.option("-i", "--input", "source", metavar="FILE", help="Read this file or directory [default: stdin].")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what was loaded.")
@pass_session
def load(session: Session, /, source: str | None, quiet: bool) -> None:
    """Load images from a Docker archive or an OCI image layout.

    An archive may be packed with gzip or zstd. Images are stored under the names that they have in it.
    """
    if source is None and session.is_terminal(0):
        raise UsageError("stdin is a terminal", hint="name a file with -i, or lead one in with <")
    place: str | int = 0 if source is None else os.path.normpath(os.path.join(session.cwd, source))
    store = Store(session.settings.data)
    store.prepare()
    session.run(_load, session, store, place, quiet)


async def _load(session: Session, store: Store, place: str | int, quiet: bool) -> None:
    policy = Policy.load(session.environment)
    derive = derived(session)
    async with recognized(store, place) as offers:
        if not offers:
            raise UsageError(f"{'stdin' if place == 0 else place} holds no image")
        for offer in offers:
            with progress_for(sys.stderr, quiet=quiet) as progress:
                image = await take(
                    store, offer.source, policy=policy, names=offer.names, progress=progress, derive=derive
                )
            for name in [str(name) for name in offer.names] or [f"sha256:{image.id}"]:
                click.echo(f"Loaded image: {name}")
