"""`rcontain rmi`."""

from __future__ import annotations

import os

import click

from ..container import afterwards, ending
from ..container.containers import Container, Containers
from ..errors import ContainerError, RcontainError, UsageError
from ..image.model import Image
from ..image.store import ImageNotFound, Removed, Store
from .command import Command
from .ps import known_containers
from .session import Session, pass_session


class ImageInUse(ContainerError):
    """Containers were made from the image. The exit code is Podman's."""

    exit_code = 2

    def __init__(self, users: list[Container]) -> None:
        super().__init__(
            f"image used by {users[0].id}: image is in use by a container",
            hint="remove the container first, or force the removal of both with --force",
        )
        self.users = users


class ImageMounted(ContainerError):
    """`image mount` shows the image somewhere."""

    exit_code = 2

    def __init__(self, image: Image, mountpoint: str) -> None:
        super().__init__(
            f"image {image.short_id} is mounted at {mountpoint}",
            hint=f"unmount it first (rcontain image unmount -f {image.short_id}), or remove it with --force",
        )
        self.image_id = image.id


@click.command(
    "rmi",
    cls=Command,
    examples=[
        ("rcontain rmi docker.io/library/alpine", "Take the name away, and the image with its last name"),
        ("rcontain rmi -f 8f87b41d0e7b", "With all its names, and the containers made from it"),
    ],
)
@click.option(
    "-f", "--force", is_flag=True, help="Remove all names, the containers that use the image, and its mounts."
)
@click.option("-a", "--all", "all_", is_flag=True, help="Remove all images.")
@click.option("-i", "--ignore", is_flag=True, help="Do not complain about images that are not there.")
@click.option("--no-prune", is_flag=True, help="Accepted for compatibility: there are no intermediate images.")
@click.argument("names", nargs=-1, metavar="IMAGE...")
@pass_session
def rmi(session: Session, force: bool, all_: bool, ignore: bool, no_prune: bool, names: tuple[str, ...]) -> int:
    """Remove images."""
    store = Store(session.settings.data)
    store.prepare()
    if all_ and names:
        raise UsageError("when using the --all switch, you may not pass any images names or IDs")
    if not all_ and not names:
        raise UsageError("image name or ID must be specified")
    targets = [image.id for image in store.images()] if all_ else list(names)
    if all_:  # lists first: while one is there, so are its images
        targets = [str(one.digest) for one in store.indexes()] + targets
        targets += [str(one.digest) for one in store.damaged()]
    code = 0
    for target in targets:
        try:
            removed = _remove(session, store, target, force=force, every_name=force or all_)
        except ImageNotFound as error:
            if not (ignore or force):
                click.echo(f"Error: {error}", err=True)
                code = code or 1  # Podman's exit code for an image that does not exist
        except RcontainError as error:
            click.echo(f"Error: {error}", err=True)
            code = max(code, error.exit_code)
        else:
            for name in removed.untagged:
                click.echo(f"Untagged: {name}")
            for id in removed.deleted:
                click.echo(f"Deleted: {id}")
    return code


def _remove(session: Session, store: Store, target: str, *, force: bool, every_name: bool) -> Removed:
    def in_use(image: Image) -> str | None:
        users = [
            one.container for one in known_containers(Containers(session.settings)) if one.record.image_id == image.id
        ]
        if users:
            raise ImageInUse(users)
        if os.path.isdir(f"{session.settings.runtime}/mounts"):  # what it takes to look is rarely needed
            from ..container.imagemounts import ImageMounts

            if state := ImageMounts(session.settings).mounted().get(image.id):
                raise ImageMounted(image, state.mountpoint)
        return None

    while True:
        try:
            return store.remove(target, in_use=in_use, force=every_name, later=afterwards.do)
        except ImageInUse as error:
            if not force:
                raise
            # The store's lock is free again here, so that a container's last moments cannot wait for us.
            for user in error.users:
                session.run(ending.force_removal, user)
        except ImageMounted as error:
            if not force:
                raise
            from .imagemount import release_all

            release_all(session.settings, error.image_id)
