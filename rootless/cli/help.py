"""`rcontain help`."""

from __future__ import annotations

import click

from .command import Command, LazyGroup, Named
from .manual import manual


@click.command(
    "help",
    cls=Command,
    examples=[
        ("rcontain help run", ""),
        ("rcontain help image ls", ""),
        ("rcontain help --all | less", "The whole manual, as Markdown"),
    ],
)
@click.option("--all", "all_", is_flag=True, help="Show the manual of all commands.")
@click.argument("words", nargs=-1, metavar="[COMMAND]...", type=Named("VERB"))
@click.pass_context
def help_(ctx: click.Context, all_: bool, words: tuple[str, ...]) -> None:
    """Show the manual of a command."""
    root = ctx.find_root()
    if all_:
        assert isinstance(root.command, LazyGroup)
        click.echo(manual(root.command), nl=False)
        return
    context = root
    for word in words:
        group = context.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"`{context.command_path}` has no command `{word}`", ctx)
        _, command, _ = group.resolve_command(context, [word])
        assert command is not None
        context = click.Context(command, info_name=word, parent=context)
    click.echo(context.get_help())
