"""What a command knows of the person who typed it.

A command runs in a process of its own, forked from an engine that was started by some earlier command, so the process's
environment and directory may be another one's. Commands therefore ask the session, which carries what the client sent.
Descriptors 0, 1 and 2 are the client's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import click

from ..settings import Settings

T = TypeVar("T")


class Session(Protocol):
    """`settings` is replaced once, before the command runs, when global flags such as --root change it."""

    settings: Settings

    @property
    def environment(self) -> Mapping[str, str]: ...

    @property
    def cwd(self) -> str:
        """The client's directory, absolute; what relative paths of the command line start from."""
        ...

    def is_terminal(self, fd: int) -> bool:
        """Whether the client's descriptor 0, 1 or 2 is a terminal."""
        ...

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """`trio.run`, cancelled when the client is interrupted or goes away. Raises KeyboardInterrupt then."""
        ...


pass_session = click.pass_obj
"""Hands the session to a command as its first argument (annotate it as Session)."""
