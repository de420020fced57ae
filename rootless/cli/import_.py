"""`rcontain import`: an image from an archive of a root filesystem."""

from __future__ import annotations

import os

import click

from ..container.caller import Caller
from ..errors import UsageError
from ..oci.reference import Reference
from .command import Command
from .commit import CHANGE, MESSAGE
from .resultfile import write_result
from .session import pass_session


@click.command(
    "import",
    cls=Command,
    examples=[
        ("rcontain import rootfs.tar.gz localhost/mine", "An image of one layer"),
        ("rcontain export web | rcontain import -c 'CMD /srv/start' - web:flat", "From a container, by a pipe"),
        ("rcontain import https://example.org/rootfs.tar.zst other", "From a web server"),
    ],
)
@CHANGE
@MESSAGE
@click.option("--os", "os_", metavar="OS", help="What it runs on [default: linux].")
@click.option("--arch", metavar="ARCH", help="For which processor [default: this one].")
@click.option("--variant", metavar="VARIANT", help="For which variant of it, such as v7.")
@click.option("--iidfile", metavar="FILE", help="Write the image's ID to FILE as well.")
@click.option("-q", "--quiet", is_flag=True, help="Print the image's ID alone; nothing else is printed anyway.")
@click.argument("source", metavar="FILE|URL|-")
@click.argument("image", metavar="[IMAGE]", required=False)
@pass_session
def import_(
    session: Caller,
    changes: tuple[str, ...],
    message: str,
    os_: str | None,
    arch: str | None,
    variant: str | None,
    iidfile: str | None,
    quiet: bool,
    source: str,
    image: str | None,
) -> None:
    """Make an image of an archive: tar, as it is or packed with gzip or zstd. Prints the image's ID."""
    import platform

    from ..container import driver
    from ..container.create import id_maps
    from ..image.assemble import moment
    from ..image.importing import Import, import_image
    from ..image.model import Derive
    from ..image.store import Store
    from ..oci.platform import Platform

    reference = Reference.parse_given(image) if image else None
    if reference is not None and reference.digest is not None:
        raise UsageError(f"cannot name an image {reference}: its digest is not yet known", hint="give a tag, or none")
    if source == "-" and session.is_terminal(0):
        raise UsageError("stdin is a terminal", hint="name a file, or lead an archive into it with <")
    if source != "-" and "://" not in source:
        source = os.path.normpath(os.path.join(session.cwd, source))
    wanted = Import(
        source=source,
        platform=Platform.of(os_ or "linux", arch or platform.machine(), variant or ""),
        created=moment(session.environment),
        reference=reference,
        message=message,
        changes=changes,
    )
    store = Store(session.settings.data)
    store.prepare()
    ids = id_maps("host")
    choice = driver.choose(session.settings, session.settings.storage_driver, ids.uids.triples(), ids.gids.triples())
    derive = Derive.TREE if choice.driver == "overlay" else Derive.INDEX
    made = session.run(import_image, store, wanted, derive)
    write_result(session.cwd, iidfile, made.id)
    click.echo(made.id)
