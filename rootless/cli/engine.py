"""`rcontain engine`: the warm process behind the commands."""

from __future__ import annotations

import os
import signal
import time

import click

from ..errors import HostError
from .command import Command, LazyGroup, Verb
from .session import Session, pass_session

_ENGINE_TITLE = "rc-engine"


@click.command(
    cls=LazyGroup,
    verbs={"status": Verb("engine", "status"), "stop": Verb("engine", "stop")},
    short_help="Look at or stop the warm process behind the commands",
)
def engine() -> None:
    """The engine is a process of yours that keeps everything loaded, so that containers start quickly. It starts by
    itself with the first command and leaves after ten idle minutes; containers go on without it.
    """


@click.command(cls=Command, examples=[("rcontain engine status", "Whether one runs, since when, and its memory")])
@pass_session
def status(session: Session) -> None:
    """Say whether an engine runs."""
    pid = _engine()
    if pid is None:
        click.echo("No engine is running.")
        return
    started = time.time() - _age(pid)
    click.echo(f"An engine is running: pid {pid}, since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(started))},")
    click.echo(f"{_proportional_kib(pid) / 1024:.0f} MiB of memory that is its own share.")


@click.command(cls=Command, examples=[("rcontain engine stop", "End it; the next command starts a new one")])
@pass_session
def stop(session: Session) -> None:
    """Stop the engine. Containers go on."""
    pid = _engine()
    if pid is None:
        click.echo("No engine is running.")
        return
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except OSError as error:
        raise HostError(f"cannot stop the engine, process {pid}: {error.strerror}") from error
    finally:
        os.close(pidfd)


def _engine() -> int | None:
    """The pid of the engine that forked this session."""
    pid = os.getppid()
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return pid if file.read().strip() == _ENGINE_TITLE else None
    except FileNotFoundError:
        return None


def _age(pid: int) -> float:
    with open(f"/proc/{pid}/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _proportional_kib(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
