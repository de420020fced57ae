"""How a pull tells what it does: bars on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import time
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from rootless.oci.digest import Digest

_REDRAW = 0.1
"""Seconds between two drawings of the bars."""


class PullProgress(Protocol):
    """What a pull reports. All methods return at once."""

    def message(self, text: str) -> None:
        """A line for the user."""
        ...

    def start(self, layer: Digest, size: int) -> None:
        """The transfer of a layer of `size` bytes begins."""
        ...

    def advance(self, layer: Digest, count: int) -> None:
        """`count` more bytes have arrived."""
        ...

    def finish(self, layer: Digest, outcome: str) -> None:
        """The layer is in the store; `outcome` is a word such as `done` or `already here`."""
        ...


class Quiet:
    """Reports nothing."""

    def message(self, text: str) -> None:
        return

    def start(self, layer: Digest, size: int) -> None:
        return

    def advance(self, layer: Digest, count: int) -> None:
        return

    def finish(self, layer: Digest, outcome: str) -> None:
        return

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *details: object) -> None:
        return


class Lines(Quiet):
    """One line for each event that matters, for logs and pipes."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def message(self, text: str) -> None:
        self._print(text)

    def finish(self, layer: Digest, outcome: str) -> None:
        self._print(f"Layer {layer.short} {outcome}")

    def __enter__(self) -> Lines:
        return self

    def _print(self, text: str) -> None:
        print(text, file=self._file, flush=True)


class Bars:
    """A bar for each layer, on a terminal. A context manager, which restores the terminal."""

    def __init__(self, file: TextIO) -> None:
        self._progress = Progress(
            TextColumn("Layer {task.fields[name]}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[outcome]}"),
            console=Console(file=file),
            auto_refresh=False,  # it would take a thread, and a pull forks
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[Digest, TaskID] = {}
        self._drawn = 0.0

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, layer: Digest, size: int) -> None:
        if layer not in self._tasks:
            self._tasks[layer] = self._progress.add_task("", total=max(size, 1), name=layer.short, outcome="")

    def advance(self, layer: Digest, count: int) -> None:
        self._progress.advance(self._tasks[layer], count)
        now = time.monotonic()
        if now - self._drawn >= _REDRAW:
            self._drawn = now
            self._progress.refresh()

    def finish(self, layer: Digest, outcome: str) -> None:
        self.start(layer, 1)
        task = self._tasks[layer]
        total = next(one.total for one in self._progress.tasks if one.id == task)
        self._progress.update(task, completed=total, outcome=outcome)
        self._progress.refresh()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()


def progress_for(file: TextIO, *, quiet: bool = False) -> Bars | Lines | Quiet:
    """What suits `file`, usually stderr. Use it as a context manager around `pull`."""
    if quiet:
        return Quiet()
    return Bars(file) if file.isatty() else Lines(file)
