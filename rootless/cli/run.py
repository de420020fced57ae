"""run and create: a new container."""

from __future__ import annotations

import os
from typing import Any

import click

from ..container import claim, ending, host, launch, sweep
from ..container import create as creation
from ..container.caller import Caller
from ..container.containers import Container, Containers
from ..container.options import CreateOptions
from ..errors import ContainerError, UsageError
from .options import creation_flags, creation_options
from .quick import QuickCommand
from .registryflags import access_of
from .session import pass_session

# Flags end at the image; what follows belongs to the command in the container.
_SETTINGS = {"allow_interspersed_args": False, "help_option_names": ["--help"]}
_IMAGE = click.argument("image", metavar="IMAGE")
_COMMAND = click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND [ARG...]]")


@click.command(
    cls=QuickCommand,
    context_settings=_SETTINGS,
    examples=[
        ("rcontain run --rm docker.io/library/alpine echo hello", "Pull if needed, run, remove"),
        ("rcontain run --rm -it -v .:/src -w /src docker.io/library/python:3 bash", "A shell over this directory"),
        ("rcontain run -d --name web -p 8080:80 docker.io/library/nginx", "A server in the background"),
        ("rcontain run --rm --egress 'allow=*.debian.org' debian apt-get update", "With no way out but there"),
        ("rcontain run --rm --userns keep-id -v $HOME:$HOME alpine id", "With your own user id inside"),
    ],
)
@click.option("-d", "--detach", is_flag=True, help="Run in the background and print the container's id.")
@creation_flags
@_IMAGE
@_COMMAND
@pass_session
def run(session: Caller, /, detach: bool, image: str, command: tuple[str, ...], **flags: Any) -> int:
    """Run a command in a new container."""
    container, options = _create(session, image, command, flags, to_run=True)
    try:
        if detach:
            return launch.detached(session, container)
        return launch.in_foreground(session, container, interactive=options.interactive)
    finally:
        claim.abandon(container)
        if detach is False and options.remove:
            _remove_cidfile(session, flags["cidfile"])


@click.command(
    cls=QuickCommand,
    context_settings=_SETTINGS,
    examples=[("rcontain create --name job alpine sleep 60", "Make it; `rcontain start job` runs it")],
)
@creation_flags
@_IMAGE
@_COMMAND
@pass_session
def create(session: Caller, /, image: str, command: tuple[str, ...], **flags: Any) -> None:
    """Create a container without starting it, and print its id."""
    container, _ = _create(session, image, command, flags)
    click.echo(container.id)


def prepare() -> None:
    """Makes what parsing these commands needs; the engine does this once."""
    for command in (run, create):
        assert isinstance(command, QuickCommand)
        command.prepare("image")


def _create(
    session: Caller, image: str, command: tuple[str, ...], flags: dict[str, Any], *, to_run: bool = False
) -> tuple[Container, CreateOptions]:
    options = creation_options(session, image, command, flags)
    host.mention_single_id(session.settings, session.environment)
    cidfile = _reserve_cidfile(session, flags["cidfile"])
    try:
        sweep.sweep(session.settings)
        if flags["replace"]:
            _replace(session, options.name)
        elif options.name:
            Containers(session.settings).check_name_is_free(options.name)  # before a pull that would be in vain
        container = creation.create(session, options, access=lambda: access_of(session, flags), to_run=to_run)
    except BaseException:
        if cidfile:
            os.unlink(cidfile)
        raise
    if cidfile:
        with open(cidfile, "w", encoding="ascii") as file:
            file.write(container.id)
    return container, options


def _reserve_cidfile(session: Caller, path: str | None) -> str | None:
    if not path:
        return None
    path = os.path.join(session.cwd, os.path.expanduser(path))
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 & ~session.umask))
    except FileExistsError:
        raise UsageError(f"container id file {path} exists", hint="remove it, or choose another --cidfile") from None
    except OSError as error:
        raise UsageError(f"cannot create the container id file {path}: {error.strerror}") from None
    return path


def _remove_cidfile(session: Caller, path: str | None) -> None:
    if path:
        try:
            os.unlink(os.path.join(session.cwd, os.path.expanduser(path)))
        except FileNotFoundError:
            pass  # the user was quicker


def _replace(session: Caller, name: str) -> None:
    if not name:
        raise UsageError("--replace needs a --name")
    try:
        old = Containers(session.settings).find(name)
    except ContainerError:
        return
    session.run(ending.force_removal, old)
