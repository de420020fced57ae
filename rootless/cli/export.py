"""`rcontain export`: all files of a container as an archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click

from ..container.caller import Caller
from ..errors import HostError, UsageError
from ..image.newfile import new_file
from .command import Command
from .session import pass_session

_GATHER = 256 << 10  # bytes that are written together


@click.command(
    "export",
    cls=Command,
    examples=[
        ("rcontain export -o web.tar web", "All files of web, whether it runs or not"),
        ("rcontain export web | tar -C rootfs -x", "Unpacked at once"),
    ],
)
@click.option("-o", "--output", metavar="FILE", help="Write to FILE [default: stdout].")
@click.argument("name", metavar="CONTAINER")
@pass_session
def export(session: Caller, output: str | None, name: str) -> None:
    """Write all files of a container, but for its mounts, as a tar archive."""
    from ..container.containers import Containers
    from ..container.contents import contents

    container = Containers(session.settings).find(name)
    if output is None and session.is_terminal(1):
        raise UsageError("stdout is a terminal", hint="name a file with -o, or lead it elsewhere with >")
    with contents(container, container.record()) as found, _writer(session, output) as writer:
        notes = found.write_everything(writer.write)
        writer.flush()
    for note in notes:
        click.echo(note, err=True)


class _Writer:
    """Gathers what is written to a descriptor. Raises HostError, BrokenPipeError."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._held: list[bytes] = []
        self._count = 0

    def write(self, data: bytes) -> None:
        self._held.append(data)
        self._count += len(data)
        if self._count >= _GATHER:
            self.flush()

    def flush(self) -> None:
        rest = memoryview(b"".join(self._held))
        self._held.clear()
        self._count = 0
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise HostError(f"cannot write {self._name}: {error.strerror}") from error


@contextmanager
def _writer(session: Caller, output: str | None) -> Iterator[_Writer]:
    """To stdout; to a device or a pipe; or to a new file, which has its name when it is complete."""
    if output is None:
        yield _Writer(1, "to stdout")
        return
    path = os.path.normpath(os.path.join(session.cwd, output))
    try:
        special = not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        special = False
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
    with ExitStack() as stack:
        try:
            made = open(path, "wb", buffering=0) if special else new_file(path, 0o666 & ~session.umask)  # noqa: SIM115
            file = stack.enter_context(made)
        except OSError as error:
            raise HostError(f"cannot write {path}: {error.strerror}") from error
        yield _Writer(file.fileno(), path)
