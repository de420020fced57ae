"""`exec`: one more process in a running container."""

from __future__ import annotations

import click

from ..container import joining
from ..container.caller import Caller
from ..container.containers import Containers
from .command import Command
from .options import chosen_environment
from .session import pass_session


@click.command(
    "exec",
    cls=Command,
    context_settings={"allow_interspersed_args": False},
    examples=[("rcontain exec -it web sh", "A shell in it"), ("rcontain exec -u 0 web id", "As another user")],
)
@click.option("-d", "--detach", is_flag=True, help="Do not wait for it.")
@click.option("-i", "--interactive", is_flag=True, help="Pass on your input.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option(
    "-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without a value, pass on yours."
)
@click.option("--env-file", multiple=True, metavar="FILE", help="Set the variables that FILE lists, one a line.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Run as this user of the image, or this id.")
@click.option("-w", "--workdir", metavar="DIR", help="Start the command in DIR.")
@click.option("--privileged", is_flag=True, help="With all capabilities that the container can have.")
@click.argument("name", metavar="CONTAINER")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND [ARG...]")
@pass_session
def exec_(
    session: Caller,
    /,
    detach: bool,
    interactive: bool,
    tty: bool,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    privileged: bool,
    name: str,
    command: tuple[str, ...],
) -> int:
    """Run a command in a running container."""
    container = Containers(session.settings).find(name)
    wanted = joining.Wanted(
        command=command,
        environment=chosen_environment(session, env_file, env),
        user=user,
        working_directory=workdir,
        terminal=tty,
        interactive=interactive,
        privileged=privileged,
    )
    return joining.run(session, container, wanted, detach=detach)
