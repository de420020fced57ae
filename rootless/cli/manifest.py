"""`rcontain manifest`: lists of images for several platforms."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from ..errors import RegistryError, UsageError
from ..image.listing import edit, entries_here, entries_there, push_list, stored_list
from ..image.locations import Locations
from ..image.manifestlists import Changes, Entry, ManifestList
from ..image.model import ImageList
from ..image.obtain import fetch
from ..image.progress import progress_for
from ..image.registry import Registry
from ..image.store import ImageNotFound, Store
from ..oci.digest import Digest
from ..oci.documents import Document
from ..oci.mediatype import INDEXES
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..oci.transports import Transport, parse
from .command import Command
from .push import at_once, fitting, opened, push_flags, wishes_of
from .registryflags import access, registry_flags
from .resultfile import write_result
from .session import Session, pass_session

_ALL = click.option("--all", "every", is_flag=True, help="Add all images of a list, not only this machine's.")
_ANNOTATION = click.option("--annotation", "annotations", metavar="NAME=VALUE", multiple=True, help="Annotate it.")
_DESCRIPTION = (
    click.option("--os", "os_", metavar="OS", help="The operating system that it is for."),
    click.option("--arch", metavar="ARCH", help="The processor that it is for."),
    click.option("--variant", metavar="VARIANT", help="The variant of the processor."),
    click.option("--os-version", metavar="VERSION", help="The version of the operating system."),
    click.option("--os-features", metavar="FEATURE", multiple=True, help="What it needs of the operating system."),
    click.option("--features", metavar="FEATURE", multiple=True, help="What it needs of the processor."),
)


def _description_flags(command: Any) -> Any:
    for flag in reversed((*_DESCRIPTION, _ANNOTATION)):
        command = flag(command)
    return command


@click.command(
    "create",
    cls=Command,
    examples=[
        ("rcontain manifest create tool:1.2", "An empty list"),
        ("rcontain manifest create tool:1.2 tool:amd64 docker://quay.io/team/tool:arm64", "A list of two images"),
    ],
)
@_ALL
@click.option("-a", "--amend", is_flag=True, help="Add to the list if it exists.")
@_ANNOTATION
@registry_flags
@click.argument("name", metavar="LIST")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@pass_session
def create(
    session: Session,
    /,
    every: bool,
    amend: bool,
    annotations: tuple[str, ...],
    name: str,
    images: tuple[str, ...],
    **flags: Any,
) -> None:
    """Make a list of images, and print its id."""
    store = _store(session)
    reference = _own(name)
    noted = _annotations(annotations)
    if not amend and _exists(store, str(reference)):
        raise UsageError(f"the name {reference} is taken", hint="add to that list with --amend, or remove it first")
    entries = [entry for image in images for entry in _entries(session, store, image, every, None, flags)]
    if not _exists(store, str(reference)):
        store.add_index(ManifestList.empty().to_document(), reference=reference)
    click.echo(edit(store, str(reference), lambda images: _with(images, entries).annotated(noted)).id)


@click.command(
    "add",
    cls=Command,
    examples=[
        ("rcontain manifest add tool:1.2 tool:arm64", "An image of the store, or else of its registry"),
        ("rcontain manifest add --arch arm64 tool:1.2 oci-archive:tool.tar", "One in a file, called one for arm64"),
    ],
)
@_ALL
@_description_flags
@registry_flags
@click.argument("name", metavar="LIST")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@pass_session
def add(session: Session, /, every: bool, name: str, images: tuple[str, ...], **flags: Any) -> None:
    """Add images to a list, and print its id.

    What is not in the store is looked for in its registry.
    """
    store = _store(session)
    changes = _changes(flags)
    store.resolve_index(name)
    entries = [entry for image in images for entry in _entries(session, store, image, every, changes, flags)]
    click.echo(edit(store, name, lambda images: _with(images, [changes.applied(each) for each in entries])).id)


@click.command(
    "annotate",
    cls=Command,
    examples=[("rcontain manifest annotate --arch arm --variant v7 tool:1.2 sha256:1a2b…", "Say what an image is for")],
)
@_description_flags
@click.option("--index", is_flag=True, help="Annotate the list itself.")
@click.argument("name", metavar="LIST")
@click.argument("digest", metavar="[DIGEST]", required=False)
@pass_session
def annotate(session: Session, /, index: bool, name: str, digest: str | None, **flags: Any) -> None:
    """Change what a list says of an image, or of itself with --index.

    Prints the list's id.
    """
    store = _store(session)
    changes = _changes(flags)
    if index:
        click.echo(edit(store, name, lambda images: images.annotated(changes.annotations)).id)
        return
    if digest is None:
        raise UsageError("the digest of an image is missing", hint="`rcontain manifest inspect` shows them")
    click.echo(edit(store, name, lambda images: images.described(_digest(store, digest), changes)).id)


@click.command(
    "remove", cls=Command, examples=[("rcontain manifest remove tool:1.2 sha256:1a2b…", "The image itself stays")]
)
@click.argument("name", metavar="LIST")
@click.argument("digest", metavar="DIGEST")
@pass_session
def remove(session: Session, name: str, digest: str) -> None:
    """Take an image out of a list, and print the list's id."""
    store = _store(session)
    click.echo(edit(store, name, lambda images: images.without(_digest(store, digest))).id)


@click.command("rm", cls=Command, examples=[("rcontain manifest rm tool:1.2", "Its images stay where they have names")])
@click.option("-i", "--ignore", is_flag=True, help="Do not complain about lists that are not there.")
@click.argument("names", nargs=-1, required=True, metavar="LIST...")
@pass_session
def rm(session: Session, ignore: bool, names: tuple[str, ...]) -> None:
    """Remove lists of images."""
    store = _store(session)
    for name in names:
        try:
            store.resolve_index(name)
        except ImageNotFound:
            if ignore:
                continue
            raise
        removed = store.remove(name)
        for text in removed.untagged:
            click.echo(f"Untagged: {text}")
        for text in removed.deleted:
            click.echo(f"Deleted: {text}")


@click.command(
    "inspect",
    cls=Command,
    examples=[
        ("rcontain manifest inspect tool:1.2", "The list as JSON"),
        ("rcontain manifest inspect docker://docker.io/library/alpine", "The one in a registry"),
    ],
)
@click.option("-v", "--verbose", is_flag=True, hidden=True)
@registry_flags
@click.argument("name", metavar="LIST")
@pass_session
def inspect(session: Session, /, verbose: bool, name: str, **flags: Any) -> None:
    """Print a list as JSON: the store's, or else its registry's."""
    store = _store(session)
    place = parse(name)
    if place.kind is not Transport.DOCKER:
        raise UsageError(f"{name}: lists are in the store and in registries")
    try:
        if name.startswith("docker://"):
            raise ImageNotFound(name)
        raw = stored_list(store, store.resolve_index(name)).for_others().to_document().raw
    except ImageNotFound:
        document = session.run(_ask, session, place.reference, flags)
        if document.media_type not in INDEXES:
            click.echo(f"Warning: {name} is a single image, not a list", err=True)
        raw = document.raw
    click.echo(json.dumps(json.loads(raw), indent=4, ensure_ascii=False))


@click.command("exists", cls=Command, examples=[("rcontain manifest exists tool || rcontain manifest create tool", "")])
@click.argument("name", metavar="LIST")
@pass_session
def exists(session: Session, name: str) -> int:
    """Exit with 0 if the list is in the store, else with 1."""
    try:
        _store(session).resolve_index(name)
    except ImageNotFound:
        return 1
    return 0


@click.command(
    "push",
    cls=Command,
    examples=[
        ("rcontain manifest push tool:1.2 registry.example.org/team/tool:1.2", "The list and all its images"),
        ("rcontain manifest push --rm tool:1.2 oci:layout:1.2", "Into an image layout, and away with it here"),
    ],
)
@click.option("--all/--no-all", "every", default=True, help="With its images [default: yes; --all=false: without].")
@click.option("--rm", "rm_", is_flag=True, help="Remove the list here once it is there.")
@push_flags
@registry_flags
@click.argument("name", metavar="LIST")
@click.argument("destination", metavar="[DESTINATION]", required=False)
@pass_session
def push(
    session: Session,
    /,
    every: bool,
    rm_: bool,
    format_: str | None,
    compression_format: str | None,
    compression_level: int | None,
    force_compression: bool,
    digestfile: str | None,
    quiet: bool,
    remove_signatures: bool,
    name: str,
    destination: str | None,
    **flags: Any,
) -> None:
    """Write a list and its images to a registry, or to a place in files.

    Without DESTINATION it goes to where its name says.

    Images that are not in the store are copied from the registry that they were added from.
    """
    wishes = wishes_of(format_, compression_format, compression_level, force_compression)
    way = access(session, **flags)
    store = _store(session)
    found = store.resolve_index(name)
    place = parse(destination or _only_name(found))
    if place.kind in (Transport.DOCKER_ARCHIVE, Transport.DIR):
        raise UsageError(f"{place.kind}: holds no lists of images", hint="oci: and oci-archive: do")

    async def write_it() -> Digest:
        with progress_for(sys.stderr, quiet=quiet) as progress:
            async with opened(session, place, way) as to:
                progress.message(f"Pushing {to.title}")
                result = await push_list(
                    store, found, to, way,
                    images=every, wishes=fitting(wishes, place), progress=progress, at_once=at_once(place),
                )  # fmt: skip
        return result.digest

    write_result(session.cwd, digestfile, str(session.run(write_it)))
    if rm_:
        store.remove(name)


def _store(session: Session) -> Store:
    store = Store(session.settings.data)
    store.prepare()
    return store


def _own(name: str) -> Reference:
    """The name of a list that is made here. Raises UsageError."""
    reference = Reference.parse_given(name)
    if reference.digest is not None:
        raise UsageError(f"{name}: a list that is made here gets a tag, not a digest")
    return reference


def _exists(store: Store, name: str) -> bool:
    """Whether a list has the name. Raises UsageError if an image has it."""
    try:
        found, _ = store.lookup().find(name)
    except ImageNotFound:
        return False
    if not isinstance(found, ImageList):
        raise UsageError(f"the name {name} belongs to an image")
    return True


def _only_name(found: ImageList) -> str:
    if len(found.names) == 1:
        return found.names[0]
    raise UsageError(f"the list has {len(found.names)} names: say where to push it")


def _with(images: ManifestList, entries: list[Entry]) -> ManifestList:
    for entry in entries:
        images = images.with_entry(entry)
    return images


def _digest(store: Store, text: str) -> str:
    """A digest as it is, and for the name of an image of the store that of its manifest."""
    if text.startswith("sha256:") or all(letter in "0123456789abcdef" for letter in text):
        return text
    return str(store.resolve(text).digest)


def _annotations(pairs: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE of each. Raises UsageError."""
    for pair in pairs:
        if "=" not in pair[1:]:
            raise UsageError(f"--annotation {pair[:80]!r} is not NAME=VALUE")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _changes(flags: dict[str, Any]) -> Changes:
    """Takes the flags of the description out of all flags."""
    return Changes(
        flags.pop("os_"),
        flags.pop("arch"),
        flags.pop("variant"),
        flags.pop("os_version"),
        flags.pop("os_features") or None,
        flags.pop("features") or None,
        _annotations(flags.pop("annotations")),
    )


def _entries(
    session: Session, store: Store, image: str, every: bool, changes: Changes | None, flags: Mapping[str, Any]
) -> list[Entry]:
    """What is to be added for one IMAGE: of the store, of a registry, or of a file, which then gets into the store."""
    way = access(session, **flags)
    wanted = None
    if changes is not None and (changes.os or changes.architecture):
        wanted = Platform.of(changes.os or "linux", changes.architecture or "amd64", changes.variant or "")
    place = parse(image)
    if place.kind is not Transport.DOCKER:

        async def load() -> str:
            return (await fetch(store, image, directory=session.cwd, access=way)).id

        return entries_here(store, session.run(load), every=every, platform=wanted)
    if not image.startswith("docker://"):
        try:
            return entries_here(store, image, every=every, platform=wanted)
        except ImageNotFound:
            pass  # then it is its registry's

    async def ask() -> list[Entry]:
        failures: list[RegistryError] = []
        for reference in Locations.load(way.environ).names(place.reference):
            try:
                return await entries_there(reference, way, every=every, platform=wanted)
            except RegistryError as error:
                failures.append(error)
        raise failures[-1]

    return session.run(ask)


async def _ask(session: Session, text: str, flags: Mapping[str, Any]) -> Document:
    """What a registry has under a name."""
    way = access(session, **flags)
    locations = Locations.load(way.environ)
    failures: list[RegistryError] = []
    for reference in locations.names(text):
        for location in locations.of(reference):
            try:
                async with Registry(reference, way, location=location) as source:
                    return await source.manifest()
            except RegistryError as error:
                failures.append(error)
    raise failures[-1]
