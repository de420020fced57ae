"""`rcontain system df`."""

from __future__ import annotations

import os
import time

import click
import msgspec

from ..container.containers import Containers
from ..errors import UsageError
from ..image.store import Store
from ..image.usage import StoreUsage, allocated
from . import times
from .command import Command
from .format import layout, render
from .images import Row, created_ns
from .ps import Known, known_containers
from .session import Session, pass_session

_TABLE = r"table {{.Type}}\t{{.Total}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
_LIVING = ("running", "paused", "stopping")


class DfLine(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """A line of `system df --format json`, with Podman's names."""

    type: str
    total: int
    active: int
    raw_size: int
    raw_reclaimable: int
    total_count: int
    size: str
    reclaimable: str


def _line(type_: str, total: int, active: int, size: int, reclaimable: int) -> DfLine:
    percent = round(100 * reclaimable / size) if size else 0
    return DfLine(
        type=type_,
        total=total,
        active=active,
        raw_size=size,
        raw_reclaimable=reclaimable,
        total_count=total,
        size=_size(size),
        reclaimable=f"{_size(reclaimable)} ({percent}%)",
    )


def _size(size: int) -> str:
    return times.human_size(size, space="")


@click.command(
    "df",
    cls=Command,
    examples=[("rcontain system df", ""), ("rcontain system df -v", "Image by image, container by container")],
)
@click.option("--format", "format_", metavar="FORMAT", help="json, a Go template, or `table` and a template.")
@click.option("-v", "--verbose", is_flag=True, help="Show what takes the room.")
@pass_session
def df(session: Session, format_: str | None, verbose: bool) -> None:
    """Show how much room images, containers and volumes take on the disk."""
    if verbose and format_ is not None:
        raise UsageError("cannot combine --format and --verbose flags")
    store = Store(session.settings.data)
    images = store.images()
    containers = known_containers(Containers(session.settings))
    usage = StoreUsage(store, images)
    written = {one.container.id: allocated(f"{one.container.path}/upper") for one in containers}
    try:
        names = sorted(os.listdir(session.settings.volumes))
    except FileNotFoundError:
        names = []
    volumes = {name: allocated(f"{session.settings.volumes}/{name}/_data") for name in names}
    used = {mount.name for one in containers for mount in one.record.mounts if mount.type == "volume"}
    if verbose:
        click.echo(_images(store, usage, containers) + "\n", nl=False)
        click.echo(_containers(containers, written) + "\n", nl=False)
        rows = [["VOLUME NAME", "LINKS", "SIZE"]]
        rows += [[name, str(_links(name, containers)), _size(size)] for name, size in volumes.items()]
        click.echo("Local Volumes space usage:\n\n" + layout(rows), nl=False)
        return
    active_ids = {one.record.image_id for one in containers}
    active = [image for image in images if image.id in active_ids]
    total = usage.together(images)
    alive = [one for one in containers if one.state.status in _LIVING]
    idle = sum(written[one.container.id] for one in containers if one not in alive)
    free = sum(size for name, size in volumes.items() if name not in used)
    lines = [
        _line("Images", len(images), len(active), total, total - usage.together(active)),
        _line("Containers", len(containers), len(alive), sum(written.values()), idle),
        _line("Local Volumes", len(volumes), len(used & volumes.keys()), sum(volumes.values()), free),
    ]
    click.echo(render(format_, lines, default=_TABLE), nl=False)


def _images(store: Store, usage: StoreUsage, containers: list[Known]) -> str:
    now_ns = time.time_ns()
    rows = [["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]]
    for image in store.images():
        one = usage.of(image)
        users = sum(1 for container in containers if container.record.image_id == image.id)
        since = times.ago(created_ns(image), now_ns) if image.created else "N/A"
        sizes = [_size(one.size), _size(one.shared), _size(one.unique)]
        for name in image.names or ("",):
            row = Row(image, name)
            rows.append([row.repository, row.tag, image.short_id, since, *sizes, str(users)])
    return "Images space usage:\n\n" + layout(rows)


def _containers(containers: list[Known], written: dict[str, int]) -> str:
    now_ns = time.time_ns()
    rows = [["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"]]
    for one in containers:
        record = one.record
        volumes = sum(1 for mount in record.mounts if mount.type == "volume")
        created = times.ago(times.parse_rfc3339(record.created), now_ns)
        size = _size(written[record.id])
        words = " ".join(record.command)[:17]
        rows.append(
            [record.id[:12], record.image_name, words, str(volumes), size, created, one.state.status, record.name]
        )
    return "Containers space usage:\n\n" + layout(rows)


def _links(name: str, containers: list[Known]) -> int:
    return sum(1 for one in containers for mount in one.record.mounts if mount.type == "volume" and mount.name == name)
