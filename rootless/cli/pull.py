"""`rcontain pull`."""

from __future__ import annotations

import sys

import click

from ..container import driver
from ..container.create import id_maps
from ..errors import UsageError
from ..image.auth import Credentials
from ..image.model import Derive, Image
from ..image.progress import progress_for
from ..image.pull import pull as fetch
from ..image.store import Store
from ..oci.platform import Platform
from ..oci.reference import Reference
from .command import Command
from .session import Session, pass_session


@click.command(
    "pull",
    cls=Command,
    examples=[
        ("rcontain pull docker.io/library/alpine", "The tag `latest`"),
        ("rcontain pull -q quay.io/podman/hello@sha256:…", "Exactly this one; print only its id"),
        ("rcontain pull --platform linux/arm64 docker.io/library/alpine", "For another machine"),
    ],
)
@click.option("-a", "--all-tags", is_flag=True, help="Not supported: name the tags.")
@click.option("--arch", metavar="ARCH", help="Take the image for this processor.")
@click.option("--os", "os_", metavar="OS", help="Take the image for this operating system.")
@click.option("--variant", metavar="VARIANT", help="Take the image for this variant of the processor.")
@click.option("--platform", metavar="OS/ARCH", help="Take the image for this platform [default: this machine's].")
@click.option("--creds", metavar="USER:PASSWORD", help="Log in with these, in place of what your files say.")
@click.option("--authfile", metavar="FILE", help="Look for credentials in FILE.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the image's id.")
@click.option("--tls-verify", metavar="BOOL", type=bool, default=None, help="false: accept any registry, also by HTTP.")
@click.option("--disable-content-trust", is_flag=True, hidden=True)
@click.argument("names", nargs=-1, metavar="IMAGE...")
@pass_session
def pull(
    session: Session,
    all_tags: bool,
    arch: str | None,
    os_: str | None,
    variant: str | None,
    platform: str | None,
    creds: str | None,
    authfile: str | None,
    quiet: bool,
    tls_verify: bool | None,
    disable_content_trust: bool,
    names: tuple[str, ...],
) -> None:
    """Fetch images from their registries and print their ids.

    A name without a registry belongs to docker.io, and one without a tag means `latest`.
    """
    if all_tags:
        raise UsageError("--all-tags is not supported", hint="name the tags to pull")
    if not names:
        raise UsageError("the name of an image is missing")
    wanted = _platform(platform, os_, arch, variant)
    # The only transport of skopeo and Podman that a registry has; their documentation writes it in front.
    references = [Reference.parse(name.removeprefix("docker://")) for name in names]
    environment = dict(session.environment)
    if authfile:
        environment["REGISTRY_AUTH_FILE"] = authfile
    credentials = _credentials(creds)
    store = Store(session.settings.data)
    store.prepare()
    ids = id_maps("host")
    wanted_driver = session.settings.storage_driver
    choice = driver.choose(session.settings, wanted_driver, ids.uids.triples(), ids.gids.triples())
    derive = Derive.TREE if choice.driver == "overlay" else Derive.INDEX

    async def fetch_one(reference: Reference) -> Image:
        with progress_for(sys.stderr, quiet=quiet) as progress:
            return await fetch(
                store,
                reference,
                platform=wanted,
                tls_verify=tls_verify,
                credentials=credentials,
                environ=environment,
                progress=progress,
                derive=derive,
            )

    for reference in references:
        click.echo(session.run(fetch_one, reference).id)


def _platform(platform: str | None, os: str | None, arch: str | None, variant: str | None) -> Platform | None:
    if platform:
        if os or arch or variant:
            raise UsageError("give either --platform or --os, --arch and --variant")
        return Platform.parse(platform)
    if os or arch or variant:
        import platform as host

        return Platform.of(os or "linux", arch or host.machine(), variant or "")
    return None


def _credentials(text: str | None) -> Credentials | None:
    if text is None:
        return None
    user, separator, password = text.partition(":")
    if not separator or not user:
        raise UsageError("--creds is not USER:PASSWORD")
    return Credentials(username=user, password=password, origin="--creds")
