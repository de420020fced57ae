"""`rcontain commit`: an image from a container."""

from __future__ import annotations

import click

from ..container.caller import Caller
from ..errors import UsageError
from ..oci.reference import Reference
from .command import Command
from .resultfile import write_result
from .session import pass_session

CHANGE = click.option(
    "-c",
    "--change",
    "changes",
    multiple=True,
    metavar="INSTRUCTION",
    help="Change the configuration by an instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, "
    "STOPSIGNAL, USER, VOLUME or WORKDIR. Can be given several times.",
)
MESSAGE = click.option("-m", "--message", default="", metavar="TEXT", help="A comment for the image's history.")


@click.command(
    "commit",
    cls=Command,
    examples=[
        ("rcontain commit web localhost/web:patched", "What web changed, as one more layer of its image"),
        ("rcontain commit -c 'CMD [\"/srv/start\"]' -c 'ENV MODE=test' web web:test", "Started in another way"),
        ("rcontain commit --squash web web:flat", "Everything in a single layer"),
    ],
)
@click.option("-a", "--author", default="", metavar="TEXT", help="Who made it, such as 'A. User <user@example.org>'.")
@CHANGE
@click.option("--config", "config_file", metavar="FILE", help="Merge in the configuration that this JSON file has.")
@click.option(
    "-f", "--format", "form", type=click.Choice(["oci", "docker"]), default="oci", metavar="FORM",
    help="The form of its documents: oci or docker [default: oci].",
)  # fmt: skip
@click.option("--iidfile", metavar="FILE", help="Write the image's ID to FILE as well.")
@click.option("--include-volumes", is_flag=True, help="Its volumes become the image's VOLUMEs.")
@MESSAGE
@click.option("-p", "--pause", is_flag=True, help="Hold the container still meanwhile.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of what could not be in the image.")
@click.option("-s", "--squash", is_flag=True, help="Make a single layer of everything, the image's own included.")
@click.argument("name", metavar="CONTAINER")
@click.argument("image", metavar="[IMAGE]", required=False)
@pass_session
def commit(
    session: Caller,
    author: str,
    changes: tuple[str, ...],
    config_file: str | None,
    form: str,
    iidfile: str | None,
    include_volumes: bool,
    message: str,
    pause: bool,
    quiet: bool,
    squash: bool,
    name: str,
    image: str | None,
) -> None:
    """Make an image of what a container changed. Volumes and mounts are not in it. Prints the image's ID."""
    from ..container.committing import Commit, check_reference
    from ..container.committing import commit as make
    from ..container.containers import Containers
    from ..image.assemble import Form

    reference = Reference.parse_given(image) if image else None
    check_reference(reference)
    container = Containers(session.settings).find(name)
    made, notes = make(
        session,
        container,
        Commit(
            reference=reference,
            author=author,
            message=message,
            changes=changes,
            config=_read(config_file) if config_file else None,
            form=Form(form),
            pause=pause,
            squash=squash,
            include_volumes=include_volumes,
        ),
    )
    if not quiet:
        for note in notes:
            click.echo(note, err=True)
    write_result(session.cwd, iidfile, made.id)
    click.echo(made.id)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(8 << 20)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
