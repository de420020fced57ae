"""start, stop, restart, kill, rm, wait: what happens to containers that exist."""

from __future__ import annotations

from collections.abc import Iterable

import click

from ..container import control, ending, sharing, signals, sweep
from ..container.caller import Caller
from ..container.containers import Container, Containers
from ..errors import ContainerError, RcontainError, UsageError
from .command import Command
from .session import pass_session

_ALL = click.option("-a", "--all", "all_", is_flag=True, help="All containers.")
_ALL_WITHOUT_LETTER = click.option("--all", "all_", is_flag=True, help="All containers.")
_TIME = click.option(
    "-t", "--time", "seconds", type=click.IntRange(min=-1), metavar="SECONDS", help="Kill after so long."
)
_LATEST = click.option("-l", "--latest", is_flag=True, help="The container that was made last.")
_NAMES = click.argument("names", nargs=-1, metavar="CONTAINER...")


def _chosen(session: Caller, names: tuple[str, ...], all_: bool, latest: bool) -> list[tuple[str, Container]]:
    """What was typed and what it means; a name that means nothing is an error of its own, after the others are done."""
    containers = Containers(session.settings)
    if all_ and names:
        raise UsageError("give either names or --all")
    if not names:
        return [(container.id, container) for container in _without_names(containers, all_, latest)]
    return [(name, containers.find(name)) for name in names]


def _without_names(containers: Containers, all_: bool, latest: bool) -> list[Container]:
    """Those that --all or --latest stands for. UsageError where neither was given."""
    if not all_ and not latest:
        raise UsageError("you must provide at least one name or id")
    return list(containers) if all_ else list(containers)[-1:]


def _report(errors: Iterable[RcontainError]) -> int:
    """Prints what went wrong, one sentence each, and returns the exit code."""
    code = 0
    for error in errors:
        click.echo(f"Error: {error}", err=True)
        code = code or error.exit_code
    return code


@click.command(cls=Command, examples=[("rcontain start web", "Start it again, in the background")])
@click.option("-a", "--attach", is_flag=True, help="Stay with it: see what it prints, leave with its exit code.")
@click.option("-i", "--interactive", is_flag=True, help="Pass on your input; implies --attach.")
@_ALL_WITHOUT_LETTER
@_LATEST
@_NAMES
@pass_session
def start(session: Caller, attach: bool, interactive: bool, all_: bool, names: tuple[str, ...], latest: bool) -> int:
    """Start containers that were created or have ended."""
    from ..container import launch

    sweep.sweep(session.settings)
    chosen = _chosen(session, names, all_, latest)
    if attach or interactive:
        if len(chosen) != 1:
            raise UsageError("you can attach to one container at a time")
        return launch.in_foreground(session, chosen[0][1], interactive=interactive)
    errors: list[RcontainError] = []
    for name, container in chosen:
        try:
            if not container.is_alive():
                launch.in_background(session, container)
        except RcontainError as error:
            errors.append(error)
        else:
            click.echo(name)
    return _report(errors)


@click.command(cls=Command, examples=[("rcontain stop web", "Send its stop signal; kill it after ten seconds")])
@_TIME
@click.option("-i", "--ignore", is_flag=True, help="Do not complain about containers that are not there.")
@_ALL
@_LATEST
@_NAMES
@pass_session
def stop(session: Caller, seconds: int | None, ignore: bool, all_: bool, names: tuple[str, ...], latest: bool) -> int:
    """Stop running containers."""
    return _report(_stop(session, _existing(session, names, all_, ignore, latest), seconds))


def _existing(
    session: Caller, names: tuple[str, ...], all_: bool, ignore: bool, latest: bool
) -> list[tuple[str, Container]]:
    if not ignore:
        return _chosen(session, names, all_, latest)
    containers = Containers(session.settings)
    found = []
    for name in names:
        try:
            found.append((name, containers.find(name)))
        except ContainerError:
            continue  # what --ignore asks for
    return found if names else _chosen(session, names, all_, latest)


def _stop(session: Caller, chosen: list[tuple[str, Container]], seconds: int | None) -> list[RcontainError]:
    import trio

    sweep.sweep(session.settings)
    errors: list[RcontainError] = []

    async def one(name: str, container: Container) -> None:
        try:
            record = container.record()
            limit = record.stop_timeout if seconds is None else seconds
            await ending.stop(container, number=record.stop_signal, seconds=None if limit < 0 else limit)
        except RcontainError as error:
            errors.append(error)
        else:
            click.echo(name)

    async def everything() -> None:
        async with trio.open_nursery() as nursery:
            for name, container in chosen:
                nursery.start_soon(one, name, container)

    session.run(everything)
    return errors


@click.command(
    cls=Command, examples=[("rcontain restart -t 3 web", "Stop it, with three seconds of grace, and start it")]
)
@_TIME
@_ALL
@_LATEST
@_NAMES
@pass_session
def restart(session: Caller, seconds: int | None, all_: bool, names: tuple[str, ...], latest: bool) -> int:
    """Stop containers and start them again."""
    from ..container import launch

    chosen = _chosen(session, names, all_, latest)
    errors: list[RcontainError] = []
    for name, container in chosen:
        try:
            record = container.record()
            limit = record.stop_timeout if seconds is None else seconds
            session.run(_stop_one, container, record.stop_signal, None if limit < 0 else limit)
            launch.in_background(session, container)
        except RcontainError as error:
            errors.append(error)
        else:
            click.echo(name)
    return _report(errors)


async def _stop_one(container: Container, number: int, seconds: float | None) -> None:
    await ending.stop(container, number=number, seconds=seconds)


@click.command(cls=Command, examples=[("rcontain kill -s HUP web", "Send SIGHUP to its first process")])
@click.option("-s", "--signal", "signal_", default="KILL", metavar="SIGNAL", help="A name or number [default: KILL].")
@_ALL
@_LATEST
@_NAMES
@pass_session
def kill(session: Caller, signal_: str, all_: bool, names: tuple[str, ...], latest: bool) -> int:
    """Send a signal to running containers."""
    number = signals.parse(signal_)
    sweep.sweep(session.settings)
    errors: list[RcontainError] = []
    for name, container in _chosen(session, names, all_, latest):
        if all_ and not container.is_alive():
            continue
        try:
            session.run(ending.kill, container, number)
        except RcontainError as error:
            errors.append(error)
        else:
            click.echo(name)
    return _report(errors)


@click.command(cls=Command, examples=[("rcontain rm -f web", "Remove it even if it is running")])
@click.option("-f", "--force", is_flag=True, help="Stop running containers first; do not complain about missing ones.")
@click.option("-v", "--volumes", is_flag=True, help="Remove their anonymous volumes too.")
@click.option("-i", "--ignore", is_flag=True, help="Do not complain about containers that are not there.")
@click.option("--depend", is_flag=True, help="Remove the containers that have its network, too.")
@_TIME
@_ALL
@_LATEST
@_NAMES
@pass_session
def rm(
    session: Caller,
    force: bool,
    depend: bool,
    volumes: bool,
    ignore: bool,
    seconds: int | None,
    all_: bool,
    names: tuple[str, ...],
    latest: bool,
) -> int:
    """Remove containers."""
    sweep.sweep(session.settings)
    containers = Containers(session.settings)
    containers.clear_up()
    code = 0
    chosen: dict[str, tuple[str, Container]] = {}
    for name in _to_remove(containers, names, all_, latest):
        try:
            container = containers.find(name)
        except ContainerError as error:
            if not (ignore or force):
                click.echo(f"Error: {error}", err=True)
                code = code or 1  # Podman's exit code for a container that does not exist
        else:
            chosen.setdefault(container.id, (name, container))
    for name, container in _dependents_first(containers, chosen, depend):
        try:
            _check_dependents(containers, container)
            limit = 10 if seconds is None else seconds
            session.run(_remove, container, force, None if limit < 0 else limit, volumes)
        except RcontainError as error:
            code = _report([error])
        else:
            click.echo(name)
    return code


def _to_remove(containers: Containers, names: tuple[str, ...], all_: bool, latest: bool) -> list[str]:
    if names and not all_:
        return list(names)
    return [container.id for container in _without_names(containers, all_, latest)]


def _dependents_first(
    containers: Containers, chosen: dict[str, tuple[str, Container]], depend: bool
) -> list[tuple[str, Container]]:
    """In an order in which each can be removed; with `depend` those that have the network of another, too."""
    result: dict[str, tuple[str, Container]] = {}

    def add(name: str, container: Container) -> None:
        for other in sharing.dependents(containers, container):
            if other.id not in result and (depend or other.id in chosen):
                add(*chosen.get(other.id, (other.id, other)))
        result.setdefault(container.id, (name, container))

    for name, container in chosen.values():
        add(name, container)
    return list(result.values())


def _check_dependents(containers: Containers, container: Container) -> None:
    others = sharing.dependents(containers, container)
    if others:
        raise ContainerError(
            f"cannot remove container {container.id}: {', '.join(other.id for other in others)} has its network and"
            " must be removed before",
            hint="--depend removes both",
        )


async def _remove(container: Container, force: bool, seconds: float | None, volumes: bool) -> None:
    await ending.remove(container, force=force, seconds=seconds, volumes=volumes)


@click.command(cls=Command, examples=[("rcontain wait job", "Block until it has ended; print its exit code")])
@_LATEST
@_NAMES
@pass_session
def wait(session: Caller, names: tuple[str, ...], latest: bool) -> None:
    """Wait until containers have ended, and print their exit codes."""
    sweep.sweep(session.settings)
    for _, container in _chosen(session, names, False, latest):
        click.echo(str(session.run(control.wait, container)))
