"""`rcontain push`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from ..errors import UsageError
from ..image.access import Access
from ..image.conversion import Format
from ..image.destinations import destination as destination_in_files
from ..image.listing import push_list
from ..image.locations import Locations
from ..image.model import Image, ImageList
from ..image.progress import progress_for
from ..image.push import PARALLEL, Wishes
from ..image.push import push as write
from ..image.repack import Packing
from ..image.source import Destination
from ..image.store import Store
from ..image.upload import RegistryDestination
from ..oci.digest import Digest
from ..oci.mediatype import Compression
from ..oci.reference import Reference
from ..oci.transports import Place, Transport, parse
from .command import Command
from .registryflags import access, registry_flags
from .resultfile import write_result
from .session import Session, pass_session

_PUSH_FLAGS = (
    click.option("-f", "--format", "format_", metavar="FORMAT", type=click.Choice(["oci", "v2s2"]),
                 help="Write the manifest as oci, or as v2s2, which is Docker's [default: as it is]."),
    click.option("--compression-format", metavar="FORMAT", type=click.Choice(["gzip", "zstd"]),
                 help="Pack layers by gzip or zstd [default: as they are]."),
    click.option("--compression-level", metavar="N", type=int, help="From 1, fast, to 9 for gzip and 20 for zstd."),
    click.option("--force-compression", is_flag=True, help="Pack again what is packed in that format already."),
    click.option("--digestfile", metavar="FILE", help="Write the digest of what was pushed to FILE."),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
    click.option("--remove-signatures", is_flag=True, hidden=True),
)  # fmt: skip


def push_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags that pushing images and lists have in common."""
    for flag in reversed(_PUSH_FLAGS):
        command = flag(command)
    return command


@click.command(
    "push",
    cls=Command,
    examples=[
        ("rcontain push registry.example.org/team/tool:1.2", "To where its name says"),
        ("rcontain push tool registry.example.org/team/tool:1.2", "Under another name"),
        ("rcontain push --compression-format zstd tool registry.example.org/team/tool:zstd", "With smaller layers"),
        ("rcontain push tool oci-archive:tool.tar:1.2", "To a file, or with oci:, dir: and docker-archive: likewise"),
    ],
)
@push_flags
@registry_flags
@click.argument("image", metavar="IMAGE")
@click.argument("destination", metavar="[DESTINATION]", required=False)
@pass_session
def push(
    session: Session,
    /,
    format_: str | None,
    compression_format: str | None,
    compression_level: int | None,
    force_compression: bool,
    digestfile: str | None,
    quiet: bool,
    remove_signatures: bool,
    image: str,
    destination: str | None,
    **flags: Any,
) -> None:
    """Write an image to a registry, or to a place in files.

    Without DESTINATION it goes to where its name says.

    The manifest stays as it is, and so does the image's digest; a registry has it under the one that is written to
    --digestfile. What the registry has already is not sent again, and what breaks off is taken up where it broke off.
    """
    wishes = wishes_of(format_, compression_format, compression_level, force_compression)
    way = access(session, **flags)
    store = Store(session.settings.data)
    store.prepare()
    found = store.lookup().find(image)[0]
    if not isinstance(found, ImageList):
        found = store.resolve(image)
    place = parse(destination or _own_name(found, image))

    async def write_it() -> Digest:
        with progress_for(sys.stderr, quiet=quiet) as progress:
            async with opened(session, place, way) as to:
                progress.message(f"Pushing {to.title}")
                if isinstance(found, ImageList):
                    result = await push_list(
                        store, found, to, way, wishes=fitting(wishes, place), progress=progress, at_once=at_once(place)
                    )
                else:
                    result = await write(
                        store, found, to, wishes=fitting(wishes, place), progress=progress, at_once=at_once(place)
                    )
        return result.digest

    write_result(session.cwd, digestfile, str(session.run(write_it)))


def wishes_of(format_: str | None, compression: str | None, level: int | None, force: bool) -> Wishes:
    """What the flags say of the image's look. Raises UsageError."""
    if compression is None and force:
        raise UsageError("--force-compression lacks --compression-format")
    packing = None
    if compression is not None or level is not None:
        packing = Packing(Compression(compression or "gzip"), level, force)
    return Wishes(Format(format_) if format_ else None, packing, pack_plain=True).checked()


def opened(session: Session, place: Place, way: Access) -> Destination:
    """What a place is written through. Raises UsageError, and RegistryError for a registry that is blocked."""
    if place.kind is not Transport.DOCKER:
        return destination_in_files(place.at(session.cwd))
    reference = Reference.parse(place.reference)
    return RegistryDestination(reference, way, location=Locations.load(way.environ).push_location(reference))


def fitting(wishes: Wishes, place: Place) -> Wishes:
    """The wishes as far as the place has a say. Raises UsageError for what it cannot hold."""
    if place.kind is Transport.DOCKER:
        return wishes
    if place.kind in (Transport.OCI, Transport.OCI_ARCHIVE):
        if wishes.format is Format.DOCKER:
            raise UsageError(f"{place.kind}: holds OCI manifests only", hint="leave out --format, or write to dir:")
        return replace(wishes, format=Format.OCI, pack_plain=False)
    if place.kind is Transport.DOCKER_ARCHIVE and wishes.packing is not None:
        raise UsageError("docker-archive: holds layers that are not packed", hint="leave out --compression-format")
    return replace(wishes, pack_plain=False)


def at_once(place: Place) -> int:
    """How many layers are written at the same time: archives have one end."""
    return PARALLEL if place.kind is Transport.DOCKER else 1


def _own_name(image: Image | ImageList, text: str) -> str:
    """The name under which an image was found, or its only one. Raises UsageError."""
    if not image.id.startswith(text.removeprefix("sha256:")):
        reference = Reference.parse(text)
        if str(reference) in image.names:
            return str(reference)
    if len(image.names) == 1:
        return image.names[0]
    what = f"has {len(image.names)} names" if image.names else "has no name"
    raise UsageError(f"{text} {what}: say where to push it", hint=f"`rcontain push {text} REGISTRY/REPOSITORY:TAG`")
