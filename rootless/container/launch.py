"""The three ways to run a container: in front of the user, behind them, or away from them altogether."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import trio

from ..errors import ContainerError, HostError, RcontainError
from . import afterwards, children
from .caller import Caller
from .containers import Container
from .rawterminal import RawTerminal
from .streams import Attachment
from .supervisor import Attendance, supervise


def in_foreground(session: Caller, container: Container, *, interactive: bool) -> int:
    """Runs it with the client's streams, signals and terminal; returns its exit code, or 0 after the detach keys."""
    record = container.record()
    with_terminal = record.terminal and session.is_terminal(0)
    attachment = Attachment((0, 1, 2), reads=interactive, terminal=record.terminal, on_detach=lambda: session.detach(0))
    attendance = Attendance(attachment)
    if with_terminal:
        attendance.window = session.window_size(0)
        session.on_window = lambda: attendance.resize(*session.window_size(0))

    raw = RawTerminal(0)

    def created() -> None:
        if with_terminal:
            session.use_terminal()
            # Without -i nobody reads the keys, and Ctrl-C is to reach the container as a signal.
            raw.enter(signals=not interactive)

    attendance.on_created = created

    async def run() -> int:
        with trio.CancelScope() as scope:
            session.on_signal = lambda number: _pass_on(attendance, attachment, scope, number)
            session.on_hangup = lambda: _go_on_alone(session, attendance, raw)
            try:
                return await supervise(container, attendance)
            finally:
                raw.leave()  # before an error is printed
        raise Cancelled(container)

    return session.run(run)


def _go_on_alone(session: Caller, attendance: Attendance, raw: RawTerminal) -> None:
    """The client was killed: its container goes on, as Podman's do."""
    raw.leave()
    attendance.detach()
    session.forget_client()


class Cancelled(ContainerError):
    """Interrupted before its command ran."""

    exit_code = 130

    def __init__(self, container: Container) -> None:
        super().__init__(f"interrupted before container {container.id[:12]} was started")


def _pass_on(attendance: Attendance, attachment: Attachment, scope: trio.CancelScope, number: int) -> None:
    """A signal that the client got is the container's; before there is one it means: do not start."""
    if number == signal.SIGTSTP:
        attachment.pause()
    elif number == signal.SIGCONT:
        attachment.resume()
    elif attendance.is_running:
        attendance.signal(number)
    elif number != signal.SIGHUP:
        scope.cancel()


def detached(session: Caller, container: Container) -> int:
    """Starts it, prints its id, lets the client go, and looks after it until it ends."""

    def started() -> None:
        print(container.id, flush=True)
        session.detach(0)

    session.run(supervise, container, Attendance(on_started=started))
    return 0


def in_background(session: Caller, container: Container) -> None:
    """Starts it in a process of its own and returns once its command runs. Raises what kept it from starting."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _look_after(session, container, writing)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    if answer == b"started":
        return
    if not answer:
        raise HostError(f"the process that was to look after container {container.id[:12]} has died")
    code, _, message = answer.decode(errors="replace").partition(" ")
    error = ContainerError(message)
    error.exit_code = int(code)
    raise error


def _look_after(session: Caller, container: Container, writing: int) -> NoReturn:
    """In the forked process: supervises, and says on `writing` how the start went."""

    def started() -> None:
        os.write(writing, b"started")
        os.close(writing)

    try:
        os.setsid()
        session.forget_client()
        session.run(supervise, container, Attendance(on_started=started))
    except RcontainError as error:
        os.write(writing, f"{error.exit_code} {error}".encode())
    except BaseException as error:  # noqa: BLE001 - the last frame of a process: nothing above could handle it
        os.write(writing, f"125 {type(error).__name__}: {error}".encode())
    finally:
        children.kill_all()
        children.reap_all()
        afterwards.run()
        os._exit(0)
