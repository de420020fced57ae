"""`rcontain help`."""

from __future__ import annotations

import click

from .command import Command


@click.command(
    "help",
    cls=Command,
    examples=[("rcontain help run", ""), ("rcontain help image ls", "")],
)
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the manual of a command."""
    root = ctx.find_root()
    context = root
    for word in words:
        group = context.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"`{context.command_path}` has no command `{word}`", ctx)
        _, command, _ = group.resolve_command(context, [word])
        assert command is not None
        context = click.Context(command, info_name=word, parent=context)
    click.echo(context.get_help())
