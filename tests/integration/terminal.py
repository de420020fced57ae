"""A terminal with a person at it: a pty whose other side runs a command as a session of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

PATIENCE = 20.0


class Terminal:
    """Runs `words`; what it prints is collected in `seen`. A context manager that ends what still runs."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], cwd: str, *, size: tuple[int, int] = (24, 80)
    ) -> None:
        self.seen = b""
        self._mark = 0
        self.status: int | None = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
                os.execvpe(words[0], list(words), {**environment, "TERM": "xterm"})
            finally:
                os._exit(127)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()
        if not self.ends():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def hang_up(self) -> None:
        """Closes the window: SIGHUP for whoever is there."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def ends(self) -> bool:
        """Whether the command ends within some seconds."""
        deadline = time.monotonic() + PATIENCE / 4
        while self.status is None and time.monotonic() < deadline:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.status = status
            else:
                time.sleep(0.01)
        return self.status is not None

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> bytes:
        """Reads on until `text` comes; returns what came before it, since the last expectation."""
        deadline = time.monotonic() + PATIENCE
        wanted = text.encode()
        while (at := self.seen.find(wanted, self._mark)) < 0:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} does not come; seen: {self.seen[self._mark :]!r}")
        before = self.seen[self._mark : at]
        self._mark = at + len(wanted)
        return before

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def await_foreground(self, accepted: Callable[[int], bool]) -> None:
        """Waits until the process group in the terminal's foreground is an accepted one."""
        deadline = time.monotonic() + PATIENCE
        while not accepted(os.tcgetpgrp(self.fd)):
            assert time.monotonic() < deadline, "the foreground does not change"
            time.sleep(0.005)

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.fd)

    def await_change(self, settings: list[Any]) -> bool:
        """Whether the terminal gets other settings than these within some seconds."""
        deadline = time.monotonic() + PATIENCE
        while self.settings() == settings:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def await_settings(self, wanted: list[Any]) -> bool:
        """Whether the terminal gets these settings within some seconds."""
        deadline = time.monotonic() + PATIENCE
        while self.settings() != wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def wait(self) -> int:
        """The exit code of the command, once it has ended and everything it said is read."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.status = status
        return os.waitstatus_to_exitcode(status)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False  # EIO: nobody has the other side open any more
        self.seen += data
        return bool(data)
