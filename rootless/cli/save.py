"""`rcontain save`."""

from __future__ import annotations

import os
import shutil
import sys

import click

from ..errors import UsageError
from ..image.destinations import DirFolder, DockerArchive, LayoutArchive, LayoutFolder
from ..image.model import Image
from ..image.saving import Saved
from ..image.saving import save as write
from ..image.sinks import cannot_write
from ..image.store import Store
from ..oci.reference import Reference
from .command import Command
from .session import Session, pass_session

FORMATS = ("docker-archive", "oci-archive", "oci-dir", "docker-dir")


@click.command(
    "save",
    cls=Command,
    examples=[
        ("rcontain save -o alpine.tar alpine", "What `docker load` and `podman load` read"),
        ("rcontain save alpine busybox | ssh host rcontain load", "Two images to another machine"),
        ("rcontain save --format oci-dir -o layout alpine", "As an OCI image layout, which is added to if it is there"),
    ],
)
@click.option("-o", "--output", metavar="FILE", help="Write to this file or directory [default: stdout].")
@click.option(
    "--format",
    "format_",
    metavar="FORMAT",
    type=click.Choice(FORMATS),
    default="docker-archive",
    help=f"{', '.join(FORMATS)} [default: docker-archive].",
)
@click.option("-m", "--multi-image-archive", is_flag=True, help="Several images; so it is in any case.")
@click.option("-q", "--quiet", is_flag=True, help="Do not mention what had to be converted.")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...")
@pass_session
def save(
    session: Session,
    output: str | None,
    format_: str,
    multi_image_archive: bool,
    quiet: bool,
    names: tuple[str, ...],
) -> None:
    """Write images to an archive or a directory, with their names. The same image gives the same bytes.

    An image that is given by its id is written without a name.
    """
    archive = format_.endswith("-archive")
    if output is None and not archive:
        raise UsageError(f"--format {format_} writes a directory", hint="name it with -o")
    if output is None and session.is_terminal(1):
        raise UsageError("stdout is a terminal", hint="name a file with -o, or lead it elsewhere with >")
    store = Store(session.settings.data)
    chosen = _chosen(store, names)
    if format_ == "docker-dir" and len(chosen) > 1:
        raise UsageError("a docker-dir holds one image")
    os.umask(getattr(session, "umask", 0o022))
    path = os.path.normpath(os.path.join(session.cwd, output)) if output is not None else None
    if path is not None and archive and os.path.isdir(path):
        raise UsageError(f"cannot write the archive {path}: it is a directory")
    if path is not None and (not archive or not os.path.exists(path) or os.path.isfile(path)):
        notes = session.run(write, store, chosen, _target(format_, path))
    else:  # a pipe, or a device: archives are not written from their beginning to their end
        store.prepare()
        with store.workspace() as space:
            notes = session.run(write, store, chosen, _target(format_, space.file("archive")))
            with open(space.file("archive"), "rb") as made:
                if path is None:
                    shutil.copyfileobj(made, sys.stdout.buffer, 1 << 20)
                    sys.stdout.buffer.flush()
                else:
                    try:
                        with open(path, "wb") as out:
                            shutil.copyfileobj(made, out, 1 << 20)
                    except OSError as error:
                        raise cannot_write(path, error) from error
    for note in () if quiet else notes:
        click.echo(note, err=True)


def _chosen(store: Store, names: tuple[str, ...]) -> list[Saved]:
    """The images, each once, with the names by which they were asked for."""
    found: dict[str, tuple[Image, list[Reference]]] = {}
    for text in names:
        image = store.resolve(text)
        _, own = found.setdefault(image.id, (image, []))
        _, name = store.lookup().find(text)
        if name is not None and Reference.parse(name) not in own:
            own.append(Reference.parse(name))
    return [Saved(image, tuple(own)) for image, own in found.values()]


def _target(format_: str, path: str) -> DockerArchive | LayoutArchive | LayoutFolder | DirFolder:
    if format_ == "docker-archive":
        return DockerArchive(path)
    if format_ == "oci-archive":
        return LayoutArchive(path)
    return LayoutFolder(path) if format_ == "oci-dir" else DirFolder(path)
