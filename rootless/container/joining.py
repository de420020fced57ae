"""One more process in a running container: `exec`."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import trio
from msgspec import structs

from ..errors import ContainerError
from ..oci import runtime as documents
from ..oci.runtime import Process, Spec
from ..runtime import capabilities, facts, process, terminal
from ..runtime.idmap import IdMaps
from ..runtime.rootdir import RootDir
from ..runtime.user import Resolved, resolve_user
from . import control, specification
from .caller import Caller
from .containers import Container
from .control import NotAlive
from .rawterminal import RawTerminal
from .record import Record
from .streams import Attachment, Streams


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the new process is to be; None means: as the container's own."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    working_directory: str | None = None
    terminal: bool = False
    interactive: bool = False
    privileged: bool = False


def run(session: Caller, container: Container, wanted: Wanted, *, detach: bool) -> int:
    """Runs it and returns its exit code; with `detach`, lets the client go once it runs."""
    if detach:
        session.run(_run, session, container, wanted, True)
        return 0
    return session.run(_run, session, container, wanted, False)


async def _run(session: Caller, container: Container, wanted: Wanted, detach: bool) -> int:
    record = container.record()
    try:
        pidfd, *spaces = control.join(container)
    except NotAlive:
        raise ContainerError(
            f"can only create exec sessions on running containers: {container.id[:12]} is "
            f"{container.state().status}: container state improper",
            hint=f"start it with: rcontain start {record.name}",
        ) from None
    for fd in spaces:
        os.close(fd)
    try:
        spec = _read_spec(container)
        made = _process(container, record, spec, wanted)
        ids = specification.ids_of(record)
        return await _converse(session, pidfd, spec, made, ids, wanted, detach)
    finally:
        os.close(pidfd)


def _read_spec(container: Container) -> Spec:
    with open(container.config_path, "rb") as file:
        return documents.decode(file.read(), Spec)


def _process(container: Container, record: Record, spec: Spec, wanted: Wanted) -> Process:
    own = spec.process or Process()
    found = _user(container, wanted.user) if wanted.user is not None else None
    user = own.user if found is None else found.user
    environment = dict(entry.partition("=")[::2] for entry in own.env)
    if found is not None:
        user = structs.replace(user, additional_gids=tuple(dict.fromkeys((user.gid, *user.additional_gids))))
        environment["HOME"] = found.home
    if wanted.terminal:
        environment.setdefault("TERM", "xterm")
    environment.update(wanted.environment)
    options = record.options
    last = facts.read().last_capability
    add = ("ALL",) if wanted.privileged or options.privileged else options.cap_add
    chosen = capabilities.select(add, options.cap_drop, last=last)
    added = chosen if "ALL" in add else tuple(name for name in chosen if name not in capabilities.DEFAULT)
    return structs.replace(
        own,
        terminal=wanted.terminal,
        user=user,
        args=wanted.command,
        env=tuple(f"{name}={value}" for name, value in environment.items()),
        cwd=wanted.working_directory or own.cwd,
        capabilities=capabilities.for_user(chosen, root=user.uid == 0, added=added),
    )


def _user(container: Container, text: str) -> Resolved:
    pid = container.state().pid
    with RootDir.at(f"/proc/{pid}/root") as root:
        return resolve_user(root, text)


async def _converse(
    session: Caller, pidfd: int, spec: Spec, made: Process, ids: IdMaps, wanted: Wanted, detach: bool
) -> int:
    streams = Streams(terminal=wanted.terminal, open_stdin=wanted.interactive, log=None)
    attachment = None
    raw = RawTerminal(0)
    if not detach:
        attachment = Attachment(
            (0, 1, 2), reads=wanted.interactive, terminal=wanted.terminal, on_detach=lambda: session.detach(0)
        )
        streams.attach(attachment)
    try:
        async with trio.open_nursery() as nursery:
            with process.spawn_exec(
                pidfd,
                made,
                ids=ids,
                stdio=streams.child or (None, None, None),
                seccomp_profile=None if wanted.privileged else spec.linux.seccomp,
            ) as init:
                streams.given()
                await init.created()
                if init.master is not None:
                    streams.set_master(os.dup(init.master))
                    if session.is_terminal(0):
                        _follow_window(session, init.master)
                        if not detach:
                            session.use_terminal()
                            raw.enter(signals=not wanted.interactive)
                session.on_signal = lambda number: _pass_on(init, attachment, number)
                session.on_hangup = lambda: _hang_up(init, raw)
                nursery.start_soon(streams.run)
                await init.start()
                if detach:
                    session.detach(0)
                if attachment is not None:
                    nursery.start_soon(streams.carry_input, attachment)
                code = await init.wait()
                await streams.drained(0.1)
            nursery.cancel_scope.cancel()
        return code
    finally:
        raw.leave()  # before an error is printed
        session.on_signal = session.on_hangup = session.on_window = None
        streams.close()


def _follow_window(session: Caller, master: int) -> None:
    terminal.resize(master, *session.window_size(0))
    session.on_window = lambda: terminal.resize(master, *session.window_size(0))


def _hang_up(init: process.Init, raw: RawTerminal) -> None:
    raw.leave()
    init.signal(signal.SIGHUP)


def _pass_on(init: process.Init, attachment: Attachment | None, number: int) -> None:
    if number == signal.SIGTSTP and attachment is not None:
        attachment.pause()
    elif number == signal.SIGCONT and attachment is not None:
        attachment.resume()
    else:
        init.signal(number)
