"""`rcontain pull`."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..container import driver
from ..container.create import id_maps
from ..errors import UsageError
from ..image.model import Derive, Image
from ..image.obtain import fetch, tagged
from ..image.progress import progress_for
from ..image.shortnames import Choose, ask_user
from ..image.store import Store
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..oci.transports import Transport, parse
from .command import Command
from .registryflags import access, registry_flags
from .session import Session, pass_session


@click.command(
    "pull",
    cls=Command,
    examples=[
        ("rcontain pull docker.io/library/alpine", "The tag `latest`"),
        ("rcontain pull -q quay.io/podman/hello@sha256:…", "Exactly this one; print only its id"),
        ("rcontain pull oci-archive:tool.tar", "The image in an archive"),
        ("rcontain pull --platform linux/arm64 docker.io/library/alpine", "For another machine"),
    ],
)
@click.option("-a", "--all-tags", is_flag=True, help="All images of the repository.")
@click.option("--arch", metavar="ARCH", help="Take the image for this processor.")
@click.option("--os", "os_", metavar="OS", help="Take the image for this operating system.")
@click.option("--variant", metavar="VARIANT", help="Take the image for this variant of the processor.")
@click.option("--platform", metavar="OS/ARCH", help="Take the image for this platform [default: this machine's].")
@click.option("-q", "--quiet", is_flag=True, help="Print only the image's id.")
@registry_flags
@click.option("--disable-content-trust", is_flag=True, hidden=True)
@click.argument("names", nargs=-1, metavar="IMAGE...")
@pass_session
def pull(
    session: Session,
    /,
    all_tags: bool,
    arch: str | None,
    os_: str | None,
    variant: str | None,
    platform: str | None,
    quiet: bool,
    disable_content_trust: bool,
    names: tuple[str, ...],
    **flags: Any,
) -> None:
    """Fetch images from their registries and print their ids.

    A name without a registry belongs to docker.io, unless registries.conf says otherwise, and one without a tag means
    `latest`. An image may also be in files: oci:PATH[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME] and
    dir:PATH; with :@N in place of the name it is the one with this number, from 0.
    """
    if not names:
        raise UsageError("the name of an image is missing")
    wanted = _platform(platform, os_, arch, variant)
    for place in map(parse, names):
        if place.kind is Transport.DOCKER:
            Reference.parse(place.reference)
    way = access(session, **flags)
    store = Store(session.settings.data)
    store.prepare()
    derive = derived(session)
    choose = chooser(session)

    async def fetch_one(name: str) -> Image:
        with progress_for(sys.stderr, quiet=quiet) as progress:
            return await fetch(
                store,
                name,
                directory=session.cwd,
                platform=wanted,
                access=way,
                progress=progress,
                derive=derive,
                choose=choose,
            )

    for name in names:
        for each in session.run(tagged, name, way) if all_tags else (name,):
            click.echo(session.run(fetch_one, each).id)


def derived(session: Session) -> Derive:
    """What containers will need of layers, with the driver that they get unless they ask for another one."""
    ids = id_maps("host")
    wanted = session.settings.storage_driver
    choice = driver.choose(session.settings, wanted, ids.uids.triples(), ids.gids.triples())
    return Derive.TREE if choice.driver == "overlay" else Derive.INDEX


def chooser(session: Session) -> Choose | None:
    """Asks which image a short name means, where there is somebody to ask."""
    if not (session.is_terminal(0) and session.is_terminal(2)):
        return None
    return lambda found: ask_user(found, sys.stdin, sys.stderr)


def _platform(platform: str | None, os: str | None, arch: str | None, variant: str | None) -> Platform | None:
    if platform:
        if os or arch or variant:
            raise UsageError("give either --platform or --os, --arch and --variant")
        return Platform.parse(platform)
    if os or arch or variant:
        import platform as host

        return Platform.of(os or "linux", arch or host.machine(), variant or "")
    return None
