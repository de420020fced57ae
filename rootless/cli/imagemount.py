"""`rcontain image mount` and `rcontain image unmount`."""

from __future__ import annotations

import os
import sys
from typing import Protocol

import click
import msgspec

from ..container.imagemounts import ImageMount, ImageMounts, MountState
from ..errors import HostError, ImageError, RcontainError, UsageError
from ..image.derive import ensure
from ..image.model import Derive, Image
from ..image.store import ImageNotFound, Store
from ..oci.reference import Reference
from ..settings import Settings
from .command import Command
from .format import View, render
from .session import Session, pass_session

_TABLE = r"table {{.ID}}\t{{.Name}}\t{{.MountPoint}}"
_TITLES = {"ID": "IMAGE ID", "MountPoint": "MOUNT POINT"}


class MountingSession(Session, Protocol):
    """A session whose client can be asked to mount."""

    def outside(self, *words: str) -> str:
        """Has the client run `fuse.layermount` with these words where the user sees what it mounts; returns its words.

        Raises HostError with the reason when it fails.
        """
        ...


class MountedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in `image mount --format json`, with Podman's names."""

    id: str
    names: tuple[str, ...] = msgspec.field(name="Names")
    repositories: tuple[str, ...] = msgspec.field(name="Repositories")
    mountpoint: str


@click.command(
    "mount",
    cls=Command,
    examples=[
        ("rcontain image mount alpine", "Where to look into it: ls $(rcontain image mount alpine)/etc"),
        ("rcontain image mount", "What is mounted"),
        ("rcontain image unmount alpine", "Take it away again"),
    ],
)
@click.option("-a", "--all", "all_", is_flag=True, help="Mount all images.")
@click.option("--format", "format_", metavar="FORMAT", help="json, a Go template, or `table` and a template.")
@click.argument("names", nargs=-1, metavar="[IMAGE...]")
@pass_session
def mount(session: MountingSession, all_: bool, format_: str | None, names: tuple[str, ...]) -> int:
    """Mount images read-only for you to look into, or list what is mounted.

    Prints the mount point, which stays until `image unmount`. All files show as yours, with their own modes. Who mounts
    an image twice unmounts it twice.
    """
    if all_ and names:
        raise UsageError("when using the --all switch, you may not pass any image names or IDs")
    mounts = ImageMounts(session.settings)
    _clear_up(session, mounts)
    if not names and not all_:
        _list(list(mounts.mounted().values()), format_)
        return 0
    store = Store(session.settings.data)
    store.prepare()
    code = 0
    done: list[MountState] = []
    images = store.images() if all_ else []
    for name in names:
        try:
            images.append(store.resolve(name))
        except RcontainError as error:
            code = _complain(error)
    for image in images:
        try:
            done.append(_mount(session, mounts, store, image))
        except RcontainError as error:
            code = _complain(error)
    if len(names) == 1 and format_ is None:
        click.echo("".join(f"{state.mountpoint}\n" for state in done), nl=False)
    elif done or format_ is not None:
        _list(done, format_)
    return code


@click.command(
    "unmount",
    cls=Command,
    examples=[
        ("rcontain image unmount alpine", ""),
        ("rcontain image unmount -f alpine", "However often it has been mounted"),
        ("rcontain image unmount -a", "All images"),
    ],
)
@click.option("-a", "--all", "all_", is_flag=True, help="Unmount all images.")
@click.option("-f", "--force", is_flag=True, help="Unmount however often the image has been mounted.")
@click.argument("names", nargs=-1, metavar="[IMAGE...]")
@pass_session
def unmount(session: MountingSession, all_: bool, force: bool, names: tuple[str, ...]) -> int:
    """Unmount images, and print their ids."""
    if all_ and names:
        raise UsageError("when using the --all switch, you may not pass any image names or IDs")
    if not all_ and not names:
        raise UsageError("image name or ID must be specified")
    mounts = ImageMounts(session.settings)
    _clear_up(session, mounts)
    code = 0
    everything = [os.path.basename(one.path) for one in mounts.all() if one.is_alive] if all_ else []
    for name in everything or names:
        try:
            id = name if all_ else _mounted_id(mounts, Store(session.settings.data), name)
            with mounts.changing():
                _release(mounts.of(id), force=force)
        except RcontainError as error:
            code = _complain(error)
        else:
            click.echo(id)
    return code


def _mount(session: MountingSession, mounts: ImageMounts, store: Store, image: Image) -> MountState:
    """Mounts an image, or counts once more. Raises HostError, ImageError."""
    session.run(ensure, store, image, Derive.INDEX)
    with mounts.changing():
        place = mounts.of(image.id)
        state = place.state()
        if state is not None and place.is_alive:
            return place.record(image.id, image.names, state.count + 1)
        place.end()  # one whose command was killed before it could say that the image is mounted
        return _begin(session, place, store, image)


def _begin(session: MountingSession, place: ImageMount, store: Store, image: Image) -> MountState:
    if not image.layers:
        raise ImageError(f"cannot mount image {image.short_id}: it has no layers")
    words = [place.mountpoint, place.path]
    for layer in reversed(image.layers):
        path, kind = store.layer_data(layer)
        words += [kind, store.index_path(layer), path]
    place.prepare()
    try:
        try:
            session.outside(*words)
        except HostError as error:
            hint = "install it (Debian: apt install fuse3)" if "not installed" in error.message else None
            raise HostError(f"cannot mount image {image.short_id}: {error.message}", hint=hint) from error
        return place.record(image.id, image.names, 1)
    except BaseException:  # an interrupt, too: a mount of which nothing is written would be nobody's
        place.end()
        raise


def _release(place: ImageMount, *, force: bool) -> None:
    """Takes a mount away, or counts it down."""
    state = place.state()
    if state is not None and state.count > 1 and not force:
        place.record(state.image, state.names, state.count - 1)
    else:
        place.end()


def release_all(settings: Settings, image_id: str) -> None:
    """Takes an image's mount away, however often it was mounted."""
    mounts = ImageMounts(settings)
    with mounts.changing():
        _release(mounts.of(image_id), force=True)


def _mounted_id(mounts: ImageMounts, store: Store, name: str) -> str:
    """The id of an image that is mounted. It may have lost its name, or be gone from the store. UsageError."""
    mounted = mounts.mounted()
    try:
        id = store.resolve(name).id
    except (ImageNotFound, ImageError):
        prefix = name.removeprefix("sha256:")
        found = [
            id for id, state in mounted.items() if _has_name(state, name) or (len(prefix) > 2 and id.startswith(prefix))
        ]
        if len(found) != 1:
            raise
        id = found[0]
    if id not in mounted:
        raise UsageError(f"image {name} is not mounted")
    return id


def _has_name(state: MountState, name: str) -> bool:
    familiar = [Reference.parse(one).familiar for one in state.names]
    return name in (*state.names, *familiar, *(one.removesuffix(":latest") for one in familiar))


def _clear_up(session: MountingSession, mounts: ImageMounts) -> None:
    """Takes away what killed servers have left, with a sentence for each."""
    if all(one.is_alive for one in mounts.all()):
        return
    with mounts.changing():
        for one in mounts.all():
            if one.is_alive:
                continue
            state = one.state()
            session.outside("--unmount", one.mountpoint)
            one.discard()
            if state is not None:
                name = state.names[0] if state.names else state.image[:12]
                click.echo(
                    f"Warning: the server of image {name} at {one.mountpoint} was killed; the mount is gone", err=True
                )


def _list(states: list[MountState], format_: str | None) -> None:
    views = [
        View(
            MountedImage(id=state.image, names=state.names, repositories=state.names, mountpoint=state.mountpoint),
            {
                "ID": state.image[:12],
                "Id": state.image,
                "Name": ", ".join(state.names) or "<none>",
                "MountPoint": state.mountpoint,
                "Path": state.mountpoint,
            },
        )
        for state in states
    ]
    click.echo(render(format_, views, default=_TABLE, titles=_TITLES), nl=False)


def _complain(error: RcontainError) -> int:
    sys.stdout.flush()
    click.echo(f"Error: {error}", err=True)
    return error.exit_code
