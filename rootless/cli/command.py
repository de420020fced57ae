"""What our commands add to click's: examples in the help, verbs loaded when used and sorted by purpose, Podman's words."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click


class Command(click.Command):
    """A verb. `examples` are command lines, each with what it does: ("rcontain ps -a", "All containers")."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)


def write_examples(formatter: click.HelpFormatter, examples: Iterable[tuple[str, str]]) -> None:
    examples = tuple(examples)
    if not examples:
        return
    with formatter.section("Examples"):
        for line, meaning in examples:
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
            if meaning:
                formatter.write(f"{'':>{formatter.current_indent}}    {meaning}\n")


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb is: `module` below rootless.cli, the click command in it, and the heading it stands under in the help."""

    module: str
    attribute: str
    section: str = "Commands"
    hidden: bool = False

    def load(self) -> click.Command:
        """Imports the verb's module, unless that has been done."""
        command = getattr(importlib.import_module(f".{self.module}", __package__), self.attribute)
        assert isinstance(command, click.Command), f"{self.module}.{self.attribute} is not a click command"
        return command


class UnknownCommand(click.UsageError):
    """No verb of that name; `near` are the verbs that it may be a slip of."""

    def __init__(self, name: str, near: Sequence[str], ctx: click.Context) -> None:
        super().__init__(f"unrecognized command `{ctx.command_path} {name}`", ctx)
        self.near = tuple(near)


class LazyGroup(click.Group):
    """A group whose verbs are imported when they are used. `verbs` is in the order in which the help shows them."""

    def __init__(
        self,
        *args: Any,
        verbs: Mapping[str, Verb] | None = None,
        examples: Sequence[tuple[str, str]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = dict(verbs or {})
        self.examples = tuple(examples)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self.verbs.get(cmd_name)
        return verb.load() if verb else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            if name.startswith("-"):
                raise click.NoSuchOption(name, ctx=ctx)
            raise UnknownCommand(name, difflib.get_close_matches(name, self.verbs, n=3), ctx)
        # The name as typed, not the command's own: `rcontain image ls` is the command `images`.
        return name if command else None, command, args[1:]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        width = max(map(len, self.verbs), default=0)
        for name, verb in self.verbs.items():
            if verb.hidden:
                continue
            command = verb.load()
            short = command.get_short_help_str(limit=formatter.width - width - 6)
            sections.setdefault(verb.section, []).append((f"{name:<{width}}", short))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Verbs before flags: a newcomer looks for what can be done.
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)


def load_all(group: LazyGroup) -> None:
    """Imports every verb of the group and of the groups in it."""
    for verb in group.verbs.values():
        command = verb.load()
        if isinstance(command, LazyGroup):
            load_all(command)
