"""`rcontain image prune` and `rcontain system prune`."""

from __future__ import annotations

import os
import sys
import time

import click

from ..container import afterwards, ending
from ..container.containers import Container, Containers
from ..container.imagemounts import mounted_ids
from ..container.volumes import Volume
from ..errors import RcontainError, UsageError
from ..image.model import Image, ImageList
from ..image.store import Store
from ..image.usage import allocated
from . import times
from .command import Command
from .filters import has_label, matching
from .images import image_tests
from .ps import known_containers
from .session import Session, pass_session

_STOPPED = ("created", "exited", "configured")

_FORCE = click.option("-f", "--force", is_flag=True, help="Do not ask.")
_FILTER = click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only those that match: until, label.",
)


@click.command(
    "prune",
    cls=Command,
    examples=[
        ("rcontain image prune", "Images that lost their names"),
        ("rcontain image prune -a -f --filter until=720h", "All that no container uses and that are a month old"),
    ],
)
@click.option("-a", "--all", "all_", is_flag=True, help="Also images with names, if no container uses them.")
@_FORCE
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only those that match: until, label, id, reference, dangling, before, since.",
)
@pass_session
def image_prune(session: Session, all_: bool, force: bool, filters: tuple[str, ...]) -> None:
    """Remove images that nobody uses."""
    what = "all images that no container uses" if all_ else "all images without a name that no container uses"
    if not force and not _agreed(f"WARNING! This command removes {what}."):
        return
    store = Store(session.settings.data)
    store.prepare()
    for id in _prune_images(session, store, all_, filters)[0]:
        click.echo(id)


@click.command(
    "prune",
    cls=Command,
    examples=[
        ("rcontain system prune", "Stopped containers and images that lost their names"),
        ("rcontain system prune -a --volumes -f", "Everything that is not in use"),
    ],
)
@click.option("-a", "--all", "all_", is_flag=True, help="Also images with names, if no container uses them.")
@_FORCE
@_FILTER
@click.option("--volumes", is_flag=True, help="Also volumes that no container uses.")
@pass_session
def system_prune(session: Session, all_: bool, force: bool, filters: tuple[str, ...], volumes: bool) -> None:
    """Remove stopped containers and images that nobody uses."""
    what = ["all stopped containers"]
    what += ["all volumes that no container uses"] if volumes else []
    what += ["all images that no container uses" if all_ else "all images without a name that no container uses"]
    if not force and not _agreed("WARNING! This command removes:\n" + "".join(f"\t- {one}\n" for one in what)):
        return
    store = Store(session.settings.data)
    store.prepare()
    ids, freed = _prune_containers(session, filters)
    _list("Deleted Containers", ids)
    if volumes:
        names, size = _prune_volumes(session)
        _list("Deleted Volumes", names)
        freed += size
    ids, size = _prune_images(session, store, all_, filters)
    _list("Deleted Images", ids)
    click.echo(f"Total reclaimed space: {times.human_size(freed + size, space='')}")


def _agreed(warning: str) -> bool:
    """Asks on stdout, reads stdin; nothing is no."""
    click.echo(f"{warning.rstrip()}\nAre you sure you want to continue? [y/N] ", nl=False)
    sys.stdout.flush()
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        click.echo()
    return answer.strip().lower() in ("y", "yes")


def _list(title: str, names: list[str]) -> None:
    if names:
        click.echo("".join(f"{line}\n" for line in (title, *names)), nl=False)


def _prune_images(session: Session, store: Store, all_: bool, filters: tuple[str, ...]) -> tuple[list[str], int]:
    """The ids of what has been removed, and the bytes of blobs and derived layers that are freed."""
    mounted = mounted_ids(session.settings)
    used = {one.record.image_id for one in known_containers(Containers(session.settings))} | mounted
    lookup = store.lookup()
    found: list[Image | ImageList] = [image for image in store.images() if image.id not in used]
    if all_:
        lists = store.indexes()
        found += [one for one in lists if not any(image.id in used for image, _ in lookup.members(one))]
    wanted = matching(found, filters, image_tests(store))
    removed = []
    freed = 0

    def in_use(image: Image) -> str | None:
        users = [one for one in known_containers(Containers(session.settings)) if one.record.image_id == image.id]
        return users[0].record.name if users else image.id if image.id in mounted_ids(session.settings) else None

    before = _derived(store)
    for image in wanted:
        if image.names and not all_:
            continue
        try:
            done = store.remove(f"sha256:{image.id}", in_use=in_use, force=True, later=afterwards.do)
        except UsageError:
            continue  # another command was faster, or a container has just been made of it
        removed += list(done.deleted)
        freed += done.freed
    freed += store.collect(afterwards.do)
    left = _derived(store)
    return removed, freed + sum(size for name, size in before.items() if name not in left)


def _derived(store: Store) -> dict[str, int]:
    layers = os.path.join(store.path, "layers")
    return {name: allocated(os.path.join(layers, name)) for name in os.listdir(layers)}


def _prune_containers(session: Session, filters: tuple[str, ...]) -> tuple[list[str], int]:
    known = [one for one in known_containers(Containers(session.settings)) if one.state.status in _STOPPED]

    def moment(value: str) -> int:
        return times.parse_moment(value, time.time_ns(), "the filter until")

    chosen = matching(
        known,
        filters,
        {
            "label": lambda one, value: has_label(one.record.labels, value),
            "until": lambda one, value: (times.parse_rfc3339(one.record.created) or 0) < moment(value),
        },
    )
    removed = []
    freed = 0
    for one in chosen:
        size = allocated(f"{one.container.path}/upper")
        try:
            session.run(_remove, one.container)
        except RcontainError:
            continue  # it has just been started, or is gone
        removed.append(one.container.id)
        freed += size
    return removed, freed


async def _remove(container: Container) -> None:
    await ending.remove(container, force=False, seconds=None, volumes=True)


def _prune_volumes(session: Session) -> tuple[list[str], int]:
    used = {
        mount.name
        for one in known_containers(Containers(session.settings))
        for mount in one.record.mounts
        if mount.type == "volume"
    }
    try:
        names = sorted(set(os.listdir(session.settings.volumes)) - used)
    except FileNotFoundError:
        return [], 0
    freed = sum(allocated(f"{session.settings.volumes}/{name}") for name in names)
    for name in names:
        Volume(session.settings, name).remove()
    return names, freed
