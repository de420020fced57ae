"""Who asked for a container to be run: what a supervisor needs of the client's session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from ..settings import Settings

T = TypeVar("T")

NO_DIRECTORY = "/(deleted working directory)"
"""`Caller.cwd` where the client's directory has been deleted: relative paths lead nowhere."""


class Caller(Protocol):
    """Descriptors 0, 1 and 2 are the client's. The three callbacks are called while `run` runs."""

    settings: Settings
    on_signal: Callable[[int], None] | None
    """A signal that the client got; without a callback it cancels `run`."""
    on_window: Callable[[], None] | None
    """The size of the client's terminal has changed."""
    on_hangup: Callable[[], None] | None
    """The client has gone; without a callback that cancels `run`."""

    @property
    def umask(self) -> int:
        """The client's; for files that the user asked for."""
        ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    @property
    def cwd(self) -> str: ...

    def is_terminal(self, fd: int) -> bool: ...

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """trio.run. Raises KeyboardInterrupt when it was cancelled by the client."""
        ...

    def detach(self, code: int) -> None:
        """Lets the client go with this exit code; its streams are closed here."""
        ...

    def forget_client(self) -> None:
        """The client is not, or no longer, ours to answer; its streams are closed here."""
        ...

    def use_terminal(self) -> None:
        """The terminal's settings will be changed; the client restores them."""
        ...

    def window_size(self, fd: int = 0) -> tuple[int, int]:
        """Rows and columns."""
        ...
