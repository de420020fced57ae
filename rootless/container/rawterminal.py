"""The client's terminal in raw mode, so that every key goes to the container.

The client restores its terminal when it leaves. A client that was killed cannot: then we do, unless a shell was quicker
and has set the terminal up for itself.
"""

from __future__ import annotations

import termios
import tty
from typing import Any


class RawTerminal:
    """Does not own `fd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None
        self._raw: list[Any] | None = None

    def enter(self, *, signals: bool = False) -> None:
        """With `signals`, Ctrl-C and its like still send signals."""
        self._saved = termios.tcgetattr(self._fd)
        tty.setraw(self._fd, termios.TCSADRAIN)
        if signals:
            settings = termios.tcgetattr(self._fd)
            settings[tty.LFLAG] |= termios.ISIG
            termios.tcsetattr(self._fd, termios.TCSADRAIN, settings)
        self._raw = termios.tcgetattr(self._fd)

    def leave(self) -> None:
        """Restores what was there, if the terminal is still as `enter` left it."""
        if self._saved is None:
            return
        try:
            if termios.tcgetattr(self._fd) == self._raw:
                termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
        except termios.error:
            return  # the terminal itself has gone
