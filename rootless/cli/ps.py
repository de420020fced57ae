"""`rcontain ps`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click
import msgspec

from ..container.containers import Container, Containers
from ..container.options import Published
from ..container.record import Record, State
from ..errors import ContainerError, UsageError
from . import times
from .command import Command
from .filters import Test, has_label, matching
from .format import Method, View, render
from .session import Session, pass_session

_NEVER = -62135596800  # Go's zero time, in seconds since 1970: what Podman prints for a time that never was

TITLES = {
    "ID": "CONTAINER ID",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "CreatedHuman": "CREATED",
    "ImageID": "IMAGE ID",
    "ExitCode": "EXIT CODE",
}
_DEFAULT = r"table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
SORT_KEYS = ("command", "created", "id", "image", "names", "runningfor", "size", "status")
STATUSES = ("created", "running", "stopping", "exited", "paused", "removing", "dead", "unknown")


class PortMapping(msgspec.Struct, frozen=True):
    """A published port, as `ps --format json` has it."""

    host_ip: str
    container_port: int
    host_port: int
    range: int
    protocol: str


class Sizes(msgspec.Struct, frozen=True, rename="camel"):
    """`rw_size` is what the container wrote, `root_fs_size` that and its image; bytes."""

    root_fs_size: int
    rw_size: int


class ContainerSummary(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """A container in `ps --format json`, with Podman's names."""

    auto_remove: bool
    command: tuple[str, ...]
    created_at: str
    exited: bool
    exited_at: int
    exit_code: int
    id: str
    image: str
    image_id: str = msgspec.field(name="ImageID")
    is_infra: bool = False
    labels: dict[str, str]
    mounts: tuple[str, ...]
    names: tuple[str, ...]
    networks: tuple[str, ...]
    pid: int
    pod: str = ""
    pod_name: str = ""
    ports: tuple[PortMapping, ...]
    restarts: int = 0
    size: Sizes | None
    started_at: int
    state: str
    status: str
    created: int


@dataclass(frozen=True, slots=True)
class Known:
    """A container and what its files say at this moment."""

    container: Container
    record: Record
    state: State


def known_containers(containers: Containers) -> list[Known]:
    """Every container, newest first, without those that go away while we look."""
    found = []
    for container in containers:
        try:
            found.append(Known(container, container.record(), container.state()))
        except (FileNotFoundError, ContainerError):
            continue  # removed since it was listed
    return found[::-1]


def status(state: State, now_ns: int) -> str:
    """`Up 5 minutes`, `Exited (0) 2 hours ago`, `Created`."""
    match state.status:
        case "running":
            return f"Up {_since(state.started_at, now_ns)}"
        case "exited":
            return f"Exited ({state.exit_code}) {_since(state.finished_at, now_ns)} ago"
        case other:
            return other.capitalize()


def _since(moment: str, now_ns: int) -> str:
    then = times.parse_rfc3339(moment)
    return times.human_duration((now_ns - (now_ns if then is None else then)) / times.SECOND)


def published(record: Record, state: State) -> Sequence[Published]:
    """The ports as they are bound, or as they were asked for before the first start."""
    return record.network.published if state.published is None else state.published


def ports(published: Sequence[Published], exposed: Sequence[str] = ()) -> str:
    """`0.0.0.0:8080->80/tcp, 53/udp`: those that are led here, then those that the image merely exposes."""
    led = {f"{port.container_port}/{port.protocol}" for port in published}
    return ", ".join(
        [f"{_host_end(port)}->{port.container_port}/{port.protocol}" for port in published]
        + [port for port in map(_with_protocol, exposed) if port not in led]
    )


def _host_end(port: Published) -> str:
    if port.path:
        return f"unix:{port.path}"
    return f"{f'[{port.host_ip}]' if ':' in port.host_ip else port.host_ip or '0.0.0.0'}:{port.host_port}"


def _with_protocol(port: str) -> str:
    """image-spec, config.md: an exposed port is `port/tcp`, `port/udp` or `port`, which means tcp."""
    return port if "/" in port else f"{port}/tcp"


def short_command(words: Sequence[str], *, full: bool) -> str:
    text = " ".join(words)
    return text if full or len(text) <= 17 else f"{text[:17]}..."


def _seconds(moment: str) -> int:
    then = times.parse_rfc3339(moment)
    return _NEVER if then is None else then // times.SECOND


def written_size(container: Container) -> int:
    """Bytes of the files in the container's writable layer."""
    total = 0
    pending = [f"{container.path}/upper"]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except (FileNotFoundError, PermissionError):
            continue  # it changes while we look, or is another id's
    return total


def summarize(known: Known, now_ns: int, sizes: Sizes | None) -> ContainerSummary:
    record, state = known.record, known.state
    created = times.parse_rfc3339(record.created)
    return ContainerSummary(
        auto_remove=record.remove,
        command=record.command,
        created_at=times.ago(created, now_ns),
        exited=state.status == "exited",
        exited_at=_seconds(state.finished_at) if state.status == "exited" else _NEVER,
        exit_code=state.exit_code,
        id=record.id,
        image=record.image_name or record.image_id[:12],
        image_id=record.image_id,
        labels=record.labels,
        mounts=tuple(mount.destination for mount in record.mounts),
        names=(record.name,),
        networks=(record.network.mode,) if record.network.mode == "user" else (),
        pid=state.pid,
        ports=tuple(
            PortMapping(port.host_ip, port.container_port, port.host_port, 1, port.protocol)
            for port in published(record, state)
        ),
        size=sizes,
        started_at=_seconds(state.started_at),
        state=state.status,
        status=status(state, now_ns),
        created=_seconds(record.created),
    )


def _view(summary: ContainerSummary, known: Known, *, full: bool) -> View:
    size = summary.size
    shown: Mapping[str, object] = {
        "ID": summary.id if full else summary.id[:12],
        "ImageID": summary.image_id if full else summary.image_id[:12],
        "Command": short_command(summary.command, full=full),
        "CreatedAt": _go_time(known.record.created),
        "Created": _go_time(known.record.created),
        "CreatedHuman": summary.created_at,
        "RunningFor": summary.created_at,
        "Ports": ports(published(known.record, known.state), known.record.exposed_ports),
        "Names": known.record.name,
        "Label": Method(lambda name: summary.labels.get(str(name), "")),
        "Mounts": ",".join(summary.mounts),
        "Networks": ",".join(summary.networks),
        "Size": ""
        if size is None
        else f"{times.human_size(size.rw_size, space='')} (virtual {times.human_size(size.root_fs_size, space='')})",
    }
    return View(summary, shown)


def _go_time(moment: str) -> str:
    """Go's time.Time in a template: `2026-11-24 07:05:23.150234444 +0000 UTC`."""
    return moment.replace("T", " ").replace("Z", " +0000 UTC")


def _tests(known: Sequence[Known], containers: Containers) -> Mapping[str, Test[Known]]:
    def positions(name: str) -> int:
        wanted = containers.find(name).id
        return next(number for number, one in enumerate(known) if one.container.id == wanted)

    return {
        "id": lambda one, value: one.container.id.startswith(value) if re.fullmatch("[0-9a-f]+", value) else False,
        "name": lambda one, value: _search(value, one.record.name),
        "label": lambda one, value: has_label(one.record.labels, value),
        "status": lambda one, value: one.state.status == _status_word(value),
        "exited": lambda one, value: one.state.status == "exited" and str(one.state.exit_code) == _number(value),
        "ancestor": lambda one, value: _is_ancestor(one.record, value),
        "volume": lambda one, value: any(value in (m.name, m.source, m.destination) for m in one.record.mounts),
        "network": lambda one, value: value in (one.record.network.mode, str(one.record.network)),
        # The list is newest first.
        "before": lambda one, value: known.index(one) > positions(value),
        "since": lambda one, value: known.index(one) < positions(value),
    }


def _search(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise UsageError(f"the filter name={pattern} is not a regular expression: {error}") from None


def _status_word(value: str) -> str:
    if value not in (*STATUSES, "stopped"):
        raise UsageError(f'"{value}" is not a status of a container', hint=f"there are {', '.join(STATUSES)}")
    return "exited" if value == "stopped" else value


def _number(value: str) -> str:
    if not re.fullmatch(r"-?\d{1,9}", value):
        raise UsageError(f"the filter exited={value} is not an exit code")
    return str(int(value))


def _is_ancestor(record: Record, value: str) -> bool:
    """By image id or its beginning, or by name: whole, without the tag, or without what docker.io implies."""
    wanted = value.removeprefix("sha256:")
    if re.fullmatch("[0-9a-f]{3,64}", wanted) and record.image_id.startswith(wanted):
        return True
    name = record.image_name
    bare = name.rpartition(":")[0] if "/" in name and ":" in name.rpartition("/")[2] else name
    return any(
        value == spelling.removeprefix(prefix)
        for spelling in (name, bare)
        for prefix in ("", "docker.io/", "docker.io/library/", "localhost/")
    )


def _sort(known: list[Known], key: str, now_ns: int) -> list[Known]:
    match key:
        case "id":
            return sorted(known, key=lambda one: one.record.id)
        case "image":
            return sorted(known, key=lambda one: one.record.image_name)
        case "names":
            return sorted(known, key=lambda one: one.record.name)
        case "command":
            return sorted(known, key=lambda one: one.record.command)
        case "status":
            return sorted(known, key=lambda one: (one.state.status, one.state.exit_code))
        case "size":
            return sorted(known, key=lambda one: written_size(one.container))
        case "runningfor":
            return sorted(known, key=lambda one: one.state.started_at)
    return known


@click.command(
    "ps",
    cls=Command,
    examples=[
        ("rcontain ps -a", "Also those that have ended"),
        ("rcontain ps -aq --filter status=exited", "Their ids, for rcontain rm"),
        ("rcontain ps --format 'table {{.Names}}\\t{{.Status}}'", ""),
    ],
)
@click.option("-a", "--all", "all_", is_flag=True, help="Show all containers, not only those that run.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only those that match: id, name, label, status, exited, ancestor, before, since, volume, network.",
)
@click.option("--format", "format_", metavar="FORMAT", help="json, a Go template, or `table` and a template.")
@click.option(
    "-n",
    "--last",
    type=int,
    default=-1,
    metavar="N",
    help="The N that were created last, running or not.",
)
@click.option("-l", "--latest", is_flag=True, help="The one that was created last.")
@click.option("--no-trunc", is_flag=True, help="Show ids and commands in full.")
@click.option("--noheading", is_flag=True, help="Leave out the headings.")
@click.option("-q", "--quiet", is_flag=True, help="Show ids only.")
@click.option("-s", "--size", is_flag=True, help="Show how much they have written.")
@click.option(
    "--sort",
    "sort_key",
    type=click.Choice(SORT_KEYS),
    default="created",
    metavar="KEY",
    help=f"Sort by {', '.join(SORT_KEYS)}.",
)
@pass_session
def ps(
    session: Session,
    all_: bool,
    filters: tuple[str, ...],
    format_: str | None,
    last: int,
    latest: bool,
    no_trunc: bool,
    noheading: bool,
    quiet: bool,
    size: bool,
    sort_key: str,
) -> None:
    """List containers."""
    containers = Containers(session.settings)
    now_ns = time.time_ns()
    known = known_containers(containers)
    chosen = matching(known, filters, _tests(known, containers))
    asks_for_state = any(text.startswith(("status=", "exited=")) for text in filters)
    if latest or last >= 0:
        chosen = chosen[: 1 if latest else last]
    elif not all_ and not asks_for_state:
        chosen = [one for one in chosen if one.state.status in ("running", "stopping")]
    chosen = _sort(chosen, sort_key, now_ns)
    if quiet:
        if format_:
            raise UsageError("give either --quiet or --format")
        click.echo("".join(f"{one.record.id if no_trunc else one.record.id[:12]}\n" for one in chosen), nl=False)
        return
    images = _image_sizes(session) if size else {}
    views: list[object] = []
    for one in chosen:
        written = written_size(one.container) if size else 0
        sizes = Sizes(images.get(one.record.image_id, 0) + written, written) if size else None
        views.append(_view(summarize(one, now_ns, sizes), one, full=no_trunc))
    default = _DEFAULT + (r"\t{{.Size}}" if size else "")
    click.echo(render(format_, views, default=default, titles=TITLES, heading=not noheading), nl=False)


def _image_sizes(session: Session) -> dict[str, int]:
    from ..image.store import Store

    return {image.id: image.size for image in Store(session.settings.data).images()}
