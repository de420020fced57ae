"""`rcontain logs`."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack

import click

from ..container.containers import Container, Containers
from ..container.logs import Line, LogReader, Source, follow
from ..errors import UsageError
from . import times
from .command import Command
from .session import Session, pass_session

_BUFFER = 1 << 16
_COLORS = (b"\x1b[36m", b"\x1b[33m", b"\x1b[32m", b"\x1b[35m", b"\x1b[34m", b"\x1b[31m")
_PLAIN = b"\x1b[0m"


class _Output:
    """Puts lines onto stdout and stderr as they were printed, few writes for many lines."""

    def __init__(self, prefixes: list[bytes], suffix: bytes, *, timestamps: bool) -> None:
        self._prefixes = prefixes
        self._suffix = suffix
        self._timestamps = timestamps
        self._fd = 1
        self._pending = bytearray()
        self._continues: set[tuple[int, bytes]] = set()

    def write(self, number: int, line: Line) -> None:
        fd = 2 if line.stream == b"stderr" else 1
        if fd != self._fd or len(self._pending) > _BUFFER:
            self.flush()
            self._fd = fd
        key = (number, line.stream)
        if key not in self._continues:
            self._pending += self._prefixes[number]
            if self._timestamps:
                self._pending += line.stamp.replace(b"+00:00", b"Z") + b" "
        if line.partial:
            self._continues.add(key)
        else:
            self._continues.discard(key)
        self._pending += line.data
        if self._suffix and not line.partial:
            self._pending += self._suffix

    def flush(self) -> None:
        view = memoryview(bytes(self._pending))
        self._pending.clear()
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # somebody else has made the client's pipe or terminal non-blocking
                select.select([], [self._fd], [])


@click.command(
    "logs",
    cls=Command,
    examples=[
        ("rcontain logs web", "Everything that is kept"),
        ("rcontain logs -f --tail 20 web", "The last lines, and what comes"),
        ("rcontain logs --since 10m -t web", "Of the last ten minutes, with times"),
    ],
)
@click.option("--color", is_flag=True, help="Give each container's lines a colour of their own.")
@click.option("-f", "--follow", "follow_", is_flag=True, help="Go on until the container ends.")
@click.option("-l", "--latest", is_flag=True, help="Of the container that was created last.")
@click.option("-n", "--names", is_flag=True, help="Put the container's name before each line.")
@click.option("--since", metavar="TIME", help="Only what came after: 10m, 2026-01-31T12:00:00Z, seconds since 1970.")
@click.option("--tail", type=int, default=-1, metavar="N", help="Only the last N lines.")
@click.option("-t", "--timestamps", is_flag=True, help="Put the time before each line.")
@click.option("--until", metavar="TIME", help="Only what came before.")
@click.argument("containers", nargs=-1, metavar="CONTAINER...")
@pass_session
def logs(
    session: Session,
    color: bool,
    follow_: bool,
    latest: bool,
    names: bool,
    since: str | None,
    tail: int,
    timestamps: bool,
    until: str | None,
    containers: tuple[str, ...],
) -> None:
    """Show what containers have printed.

    What they printed on stderr goes to stderr. The newest 128 MiB or more of each container's log are kept.
    """
    chosen = _chosen(Containers(session.settings), containers, latest)
    now_ns = time.time_ns()
    since_ns = times.parse_moment(since, now_ns, "--since") if since else None
    until_ns = times.parse_moment(until, now_ns, "--until") if until else None
    many = len(chosen) > 1
    prefixes = []
    for number, container in enumerate(chosen):
        name = container.record().name if names else container.id[:12] if many else ""
        paint = _COLORS[number % len(_COLORS)] if color else b""
        prefixes.append(paint + (f"{name} ".encode() if name else b""))
    output = _Output(prefixes, _PLAIN if color else b"", timestamps=timestamps)
    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                LogReader(container.log_path, tail=None if tail < 0 else tail, since_ns=since_ns, until_ns=until_ns)
            )
            for container in chosen
        ]
        for number, line in _lines(chosen, readers, output, follow_, until_ns):
            output.write(number, line)
        output.flush()


def _lines(
    chosen: list[Container], readers: list[LogReader], output: _Output, follow_: bool, until_ns: int | None
) -> Iterator[tuple[int, Line]]:
    if not follow_:
        for number, reader in enumerate(readers):
            for line in reader.available():
                yield number, line
        return

    def wait(seconds: float) -> None:
        output.flush()
        time.sleep(seconds)

    def alive(container: Container) -> bool:
        return container.is_alive() and (until_ns is None or time.time_ns() < until_ns)

    sources = [
        Source(reader, lambda container=container: alive(container))  # type: ignore[misc]
        for container, reader in zip(chosen, readers, strict=True)
    ]
    yield from follow(sources, wait=wait)


def _chosen(containers: Containers, names: tuple[str, ...], latest: bool) -> list[Container]:
    if latest:
        if names:
            raise UsageError("give either names or --latest")
        every = list(containers)
        if not every:
            raise UsageError("there is no container")
        return every[-1:]
    if not names:
        raise UsageError("specify at least one container name or ID to log")
    return [containers.find(name) for name in names]
