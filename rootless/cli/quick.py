"""A command with many flags that is parsed quickly.

click builds its parser anew and converts every flag's default at every call; with fifty flags that is a tenth of the
time that a container takes to start, and touches two megabytes that the engine could go on sharing with its children.
Here the parser and the converted defaults are made once, and only the flags that were given are looked at.
"""

from __future__ import annotations

from typing import Any

import click

from .command import Command, as_click_reads


class QuickCommand(Command):
    """For commands whose flags have constant defaults and no callbacks."""

    _parser: Any = None
    _defaults: dict[str, Any] | None = None

    def prepare(self, *arguments: str) -> None:
        """Makes the parser and the defaults, from a command line of the necessary `arguments` only."""
        self._defaults = None
        context = self.make_context(self.name, list(arguments))
        given = {param.name for param in self.params if isinstance(param, click.Argument)}
        self._defaults = {name: value for name, value in context.params.items() if name not in given}

    def make_parser(self, ctx: click.Context) -> Any:
        if self._parser is None:
            self._parser = super().make_parser(ctx)
        self._parser.ctx = ctx
        return self._parser

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self._defaults is None or ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        parser = self.make_parser(ctx)
        values, remaining, order = parser.parse_args(
            args=as_click_reads(self, args, interspersed=ctx.allow_interspersed_args)
        )
        rest: list[str] = list(remaining)
        positional = [param for param in self.params if isinstance(param, click.Argument)]
        for param in [*dict.fromkeys(param for param in order if param not in positional), *positional]:
            _, rest = param.handle_parse_result(ctx, values, rest)
        for name, value in self._defaults.items():
            ctx.params.setdefault(name, value)
        if rest:
            ctx.fail(f"unexpected arguments: {' '.join(rest)}")
        ctx.args = rest
        return rest
