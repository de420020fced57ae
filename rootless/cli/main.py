"""`rcontain`: global flags, the table of verbs, and how a command ends.

A verb is a click command in a module of its own, imported when it is used; the engine calls `preload` once, so that in
its sessions no verb has to be imported. A command returns None or its exit code, and raises RcontainError to fail.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import sys
import time

import click

from .. import __version__
from ..settings import STORAGE_DRIVERS, Settings
from . import completion
from .command import LazyGroup, Named, Verb, load_all
from .failure import BROKEN_PIPE, explain
from .session import Session

CONTAINERS = "Containers"
IMAGES = "Images"
SYSTEM = "System"
NOUNS = "The same, by noun"

VERBS = {
    "run": Verb("run", "run", CONTAINERS),
    "create": Verb("run", "create", CONTAINERS),
    "start": Verb("lifecycle", "start", CONTAINERS),
    "stop": Verb("lifecycle", "stop", CONTAINERS),
    "restart": Verb("lifecycle", "restart", CONTAINERS),
    "kill": Verb("lifecycle", "kill", CONTAINERS),
    "rm": Verb("lifecycle", "rm", CONTAINERS),
    "exec": Verb("exec", "exec_", CONTAINERS),
    "ps": Verb("ps", "ps", CONTAINERS),
    "logs": Verb("logs", "logs", CONTAINERS),
    "wait": Verb("lifecycle", "wait", CONTAINERS),
    "commit": Verb("commit", "commit", CONTAINERS, preload=False),
    "export": Verb("export", "export", CONTAINERS, preload=False),
    "diff": Verb("diff", "diff", CONTAINERS, preload=False),
    "network": Verb("nouns", "network", CONTAINERS),
    "pull": Verb("pull", "pull", IMAGES),
    "push": Verb("push", "push", IMAGES, preload=False),
    "manifest": Verb("nouns", "manifest", IMAGES),
    "import": Verb("import_", "import_", IMAGES, preload=False),
    "load": Verb("load", "load", IMAGES, preload=False),
    "save": Verb("save", "save", IMAGES, preload=False),
    "images": Verb("images", "images", IMAGES),
    "tags": Verb("tags", "tags", IMAGES, preload=False),
    "search": Verb("tags", "search", IMAGES, hidden=True, preload=False),
    "login": Verb("login", "login", IMAGES, preload=False),
    "logout": Verb("logout", "logout", IMAGES, preload=False),
    "rmi": Verb("rmi", "rmi", IMAGES),
    "history": Verb("history", "history", IMAGES, preload=False),
    "tag": Verb("tag", "tag", IMAGES),
    "untag": Verb("tag", "untag", IMAGES),
    "inspect": Verb("inspect", "inspect", SYSTEM),
    "info": Verb("info", "info", SYSTEM),
    "version": Verb("version", "version", SYSTEM),
    "engine": Verb("engine", "engine", SYSTEM),
    "completion": Verb("completion", "completion", SYSTEM),
    "help": Verb("help", "help_", SYSTEM),
    "container": Verb("nouns", "container", NOUNS),
    "image": Verb("nouns", "image", NOUNS),
    "system": Verb("nouns", "system", NOUNS),
}

# Podman's names for how much to say, and logging's levels. Podman's default is warn.
DEFAULT_LOG_LEVEL = "warn"
LOG_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}


@click.command(
    cls=LazyGroup,
    verbs=VERBS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    options_metavar="[OPTIONS]",
    subcommand_metavar="COMMAND [ARG...]",
    examples=[
        ("rcontain run --rm -it docker.io/library/alpine", "A shell in a fresh container that is removed at the end"),
        ("rcontain run -d --name web -p 8080:80 docker.io/library/nginx", "A web server on http://127.0.0.1:8080"),
        ("rcontain logs -f web", "What it prints, as it prints it"),
        ("rcontain help run", "Everything about one command"),
    ],
)
@click.option(
    "--root",
    metavar="DIR",
    type=Named("FOLDER"),
    help="Keep images and containers in DIR [default: ~/.local/share/rcontain].",
)
@click.option(
    "--storage-driver",
    metavar="DRIVER",
    type=click.Choice(STORAGE_DRIVERS),
    help="How root filesystems are mounted: auto, overlay (the kernel's), packed (the kernel's over ours, nothing is "
    "unpacked) or fuse (ours alone) [default: auto].",
)
@click.option(
    "--log-level",
    metavar="LEVEL",
    type=click.Choice(list(LOG_LEVELS)),
    default=DEFAULT_LOG_LEVEL,
    help="Say more on stderr: debug, info, warn or error [default: warn].",
)
@click.option("--no-engine", is_flag=True, help="Do all the work in one process and leave nothing running behind.")
@click.version_option(__version__, "-v", "--version", message="rcontain version %(version)s", help="Print the version.")
@click.pass_context
def cli(ctx: click.Context, root: str | None, storage_driver: str | None, log_level: str, no_engine: bool) -> None:
    """Run containers as an ordinary user: no root, no daemon, nothing to configure.

    Commands and flags are Podman's, and so mostly Docker's.
    """
    # --no-engine is the client's to obey; by the time it arrives here it has been.
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    session: Session = ctx.obj
    session.settings = with_flags(session, root=root, storage_driver=storage_driver, log_level=log_level)
    if log_level != DEFAULT_LOG_LEVEL or logging.root.handlers:  # untouched, logging does what the default level says
        logging.basicConfig(
            level=LOG_LEVELS[log_level],
            stream=sys.stderr,
            format="level=%(levelname)s %(name)s: %(message)s",
            force=True,
        )


def with_flags(session: Session, *, root: str | None, storage_driver: str | None, log_level: str) -> Settings:
    """The session's settings with what the global flags say in their place."""
    settings = dataclasses.replace(session.settings, log_level=log_level)
    if root:
        settings = dataclasses.replace(settings, data=os.path.normpath(os.path.join(session.cwd, root)))
    if storage_driver:
        settings = dataclasses.replace(settings, storage_driver=storage_driver)
    return settings


def run(argv: list[str], session: Session) -> int:
    """Runs the command line `argv` (without the program's name) and returns the exit code. Prints errors on stderr."""
    _prepare_output()
    time.tzset()  # TZ may be another one than at the start of the engine
    try:
        instruction = session.environment.get(completion.VARIABLE)
        if instruction:
            return completion.answer(cli, session, instruction)
        with cli.make_context("rcontain", list(argv), obj=session) as ctx:
            code = cli.invoke(ctx)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - this is where every error ends
        text, code = explain(error, debug=_wants_debug(argv))
        _say(text)
        if code == BROKEN_PIPE:
            _discard_output()
    return code if isinstance(code, int) else 0


def preload() -> None:
    """Imports every verb. The engine calls this before it forks its first session."""
    load_all(cli)


def rehearse() -> None:
    """Parses a typical command line, for nothing but the memory that this touches."""
    words = ["run", "--rm", "image", "command"]
    with cli.make_context("rcontain", words, obj=None) as ctx:
        verb = VERBS[words[0]].load()
        verb.make_context(words[0], words[1:], parent=ctx)


def _wants_debug(argv: list[str]) -> bool:
    """Whether --log-level debug is among the global flags, also when the error is in the flags after it."""
    for index, word in enumerate(argv):
        if not word.startswith("-") and (
            index == 0 or argv[index - 1] not in ("--log-level", "--root", "--storage-driver")
        ):
            return False
        if word in ("--log-level=debug", "--log-level=trace"):
            return True
        if word == "--log-level" and argv[index + 1 : index + 2] in (["debug"], ["trace"]):
            return True
    return False


def _prepare_output() -> None:
    """Names may be any bytes: what could not be decoded on the way in goes out as it came."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _say(text: str) -> None:
    if not text:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        return  # nobody listens; the exit code tells


def _discard_output() -> None:
    """Points stdout at nothing, so that what is still buffered for a closed pipe does not fail again at exit."""
    try:
        fd = sys.stdout.fileno()
    except (OSError, ValueError):
        return  # not a file: a test's buffer
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, fd)
    os.close(null)
