"""`rcontain tags`, and Podman's name for it, `rcontain search --list-tags`."""

from __future__ import annotations

from typing import Any

import click

from ..errors import RegistryError, UsageError
from ..image.access import Access
from ..image.connection import Connection
from ..image.locations import Locations
from ..image.tags import list_tags
from ..oci.reference import Reference, is_bare
from .command import Command
from .format import to_json
from .registryflags import access, registry_flags
from .session import Session, pass_session

_LIMIT = click.option("--limit", metavar="N", type=click.IntRange(1), help="Stop after N tags [default: all].")
_FORMAT = click.option("--format", "format_", metavar="FORMAT", type=click.Choice(["json"]), help="Print as json.")


@click.command(
    "tags",
    cls=Command,
    examples=[
        ("rcontain tags docker.io/library/alpine", "What there is to pull, one on each line"),
        ("rcontain tags --limit 5 --format json quay.io/podman/hello", "The first five, for a program"),
    ],
)
@_LIMIT
@_FORMAT
@registry_flags
@click.argument("repository", metavar="REPOSITORY")
@pass_session
def tags(session: Session, /, limit: int | None, format_: str | None, repository: str, **flags: Any) -> None:
    """List the tags of a repository on its registry, in the registry's order."""
    reference, found = session.run(_ask, repository, access(session, **flags), limit)
    if format_ == "json":
        click.echo(to_json([{"Name": reference.name, "Tags": found}], indent=2))
    elif found:
        click.echo("\n".join(found))


@click.command(
    "search", cls=Command, examples=[("rcontain search --list-tags docker.io/library/alpine", "The same as `tags`")]
)
@click.option("--list-tags", is_flag=True, help="List the tags of a repository.")
@_LIMIT
@_FORMAT
@registry_flags
@click.argument("repository", metavar="REPOSITORY")
@click.pass_context
def search(ctx: click.Context, /, list_tags: bool, **flags: Any) -> None:
    """List the tags of a repository, with --list-tags.

    Registries have no common way of searching for repositories.
    """
    if not list_tags:
        raise UsageError(
            "searching for repositories is not supported: there is no common way to ask registries for it",
            hint="list the tags of one with `rcontain tags REPOSITORY`",
        )
    ctx.invoke(tags, **flags)


async def _ask(text: str, way: Access, limit: int | None) -> tuple[Reference, list[str]]:
    """The tags, from the first of the repositories that `text` may mean which has any."""
    locations = Locations.load(way.environ)
    text = text.removeprefix("docker://")
    if not is_bare(text):
        raise UsageError(f"{text} names one image of a repository", hint="leave out its tag or digest")
    failures: list[RegistryError] = []
    for reference in locations.names(text):
        # Mirrors come first; what is complete comes last.
        location = locations.of(reference)[-1]
        try:
            async with Connection(reference, way, location=location) as connection:
                return reference, await list_tags(connection, limit)
        except RegistryError as error:
            failures.append(error)
    raise failures[-1]
