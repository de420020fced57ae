"""What our commands add to click's: examples in the help, verbs loaded when used, and sorted by purpose."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


COMPLETED: dict[str, Completer | None] = dict.fromkeys(
    ("CONTAINER", "IMAGE", "FILE", "SOURCE", "NETWORK", "CAPABILITY", "SIGNAL", "MODE", "VERB", "FOLDER", "RULE")
)
"""What completes an argument or a flag whose metavar begins with this word. Filled by completion.py."""


class Named(click.types.StringParamType):
    """A string that the shell can complete."""

    def __init__(self, what: str) -> None:
        self.what = what

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        complete = COMPLETED[self.what]
        return complete(ctx, param, incomplete) if complete else []


class Command(click.Command):
    """A verb. `examples` are command lines, each with what it does: ("rcontain ps -a", "All containers").

    The metavar of an argument or a flag says how it is completed (COMPLETED).
    """

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        for param in self.params:
            word = re.match(r"\[?([A-Z]+)", param.metavar or "")
            if word and word[1] in COMPLETED and type(param.type) is type(click.STRING):
                param.type = Named(word[1])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, as_click_reads(self, args, interspersed=ctx.allow_interspersed_args))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        write_examples(formatter, self.examples)


_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
_BOOLEANS = tuple(f"={word}" for word in (*_TRUE, *_FALSE))


def as_click_reads(command: click.Command, args: Sequence[str], *, interspersed: bool) -> list[str]:
    """Go's way of writing flags as click's: `--rm=true` and `-d=false` become the flag, or nothing; `-v=/a:/b` becomes
    `-v /a:/b`. Other words stay as they are.

    Only words in the place of a flag are looked at: not values, and nothing after `--` or, unless flags may be
    `interspersed`, after the first argument.
    """
    if not any(word.endswith(_BOOLEANS) or word[2:3] == "=" for word in args):
        return list(args)
    options = {name: param for param in command.params if isinstance(param, click.Option) for name in param.opts}
    out: list[str] = []
    rest = iter(args)
    for word in rest:
        if word == "--" or (not interspersed and not word.startswith("-")):
            return [*out, word, *rest]
        name, equals, value = word.partition("=")
        flags = [name] if name.startswith("--") else [f"-{letter}" for letter in name[1:]]
        if equals and value in (*_TRUE, *_FALSE) and flags and all(_is_flag(options.get(flag)) for flag in flags):
            # In a cluster of short flags the value is the last one's.
            if value in _TRUE:
                out.extend(flags)
            else:  # it takes back an earlier one, such as an alias has
                out = [flag for flag in (*out, *flags[:-1]) if flag != flags[-1]]
                out += options[flags[-1]].secondary_opts[:1]
            continue
        if equals and len(name) == 2 and name in options and not _is_flag(options[name]):
            out += [name, value]
            continue
        out.append(word)
        if not equals and _takes_next_word(word, options):
            out.extend([value for value in [next(rest, None)] if value is not None])
    return out


def _is_flag(option: click.Option | None) -> bool:
    return option is not None and option.is_flag


def _takes_next_word(word: str, options: Mapping[str, click.Option]) -> bool:
    """Whether the value of the last flag in `word` (--name, or short ones in a cluster) is the word after it."""
    if word.startswith("--") or len(word) < 2 or word[0] != "-":
        option = options.get(word)
        return option is not None and not option.is_flag and not option.count
    for position, letter in enumerate(word[1:], 2):
        option = options.get(f"-{letter}")
        if option is None:
            return False
        if not option.is_flag and not option.count:
            return position == len(word)
    return False


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
    """Where a verb is: `module` below rootless.cli, the click command in it, and its heading in the help.

    The engine imports all verbs ahead but those with `preload=False`: what is rare shall not cost memory for ever.
    """

    module: str
    attribute: str
    section: str = "Commands"
    hidden: bool = False
    preload: bool = True

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
        self._parser: Any = None
        self.examples = tuple(examples)

    def make_parser(self, ctx: click.Context) -> Any:
        """Made once: every command line passes through here, and sessions share what the engine has made."""
        if self._parser is None:
            self._parser = super().make_parser(ctx)
        self._parser.ctx = ctx
        return self._parser

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self.verbs.get(cmd_name)
        return verb.load() if verb else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not self.invoke_without_command and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

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
            short = command.get_short_help_str(limit=formatter.width - width - 6).removesuffix(".")
            sections.setdefault(verb.section, []).append((f"{name:<{width}}", short))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Verbs before flags: a newcomer looks for what can be done.
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)


def load_all(group: LazyGroup) -> None:
    """Imports the verbs of the group and of the groups in it that are to be ready."""
    for verb in (verb for verb in group.verbs.values() if verb.preload):
        command = verb.load()
        if isinstance(command, LazyGroup):
            load_all(command)
