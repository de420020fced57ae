"""`rcontain images`."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import click
import msgspec

from ..container.containers import Containers
from ..errors import UsageError
from ..image.model import Image, ImageList
from ..image.store import ImageNotFound, Store
from ..oci.reference import Reference
from . import times
from .command import Command
from .filters import Test, has_label, matching
from .format import View, render
from .ps import known_containers
from .session import Session, pass_session

_NONE = "<none>"
TITLES = {
    "ID": "IMAGE ID",
    "Id": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Created": "CREATED",
    "CreatedAt": "CREATED AT",
    "VirtualSize": "SIZE",
}
SORT_KEYS = ("created", "id", "repository", "size", "tag")


class ImageSummary(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """An image in `images --format json`, with Podman's names. `created` is seconds since 1970, sizes are bytes."""

    id: str
    parent_id: str = ""
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size: int
    shared_size: int = 0
    virtual_size: int
    labels: dict[str, str]
    containers: int
    digest: str
    history: tuple[str, ...]
    names: tuple[str, ...]
    dangling: bool
    is_manifest_list: bool = False
    created: int
    created_at: str


@dataclass(frozen=True, slots=True)
class Row:
    """An image, or a list of images, under one of its names."""

    image: Image | ImageList
    name: str

    @property
    def repository(self) -> str:
        return Reference.parse(self.name).name if self.name else _NONE

    @property
    def tag(self) -> str:
        return (Reference.parse(self.name).tag if self.name else None) or _NONE


def created_ns(image: Image | ImageList) -> int:
    """0 for a list, which does not say."""
    return round(image.created.timestamp() * times.SECOND) if isinstance(image, Image) and image.created else 0


def _created_at(image: Image | ImageList) -> str:
    return image.created.strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(image, Image) and image.created else ""


def labels_of(image: Image | ImageList) -> dict[str, str]:
    return (image.config.config.labels or {}) if isinstance(image, Image) else {}


def summarize(image: Image | ImageList, containers: int) -> ImageSummary:
    return ImageSummary(
        id=image.id,
        repo_tags=image.names,
        repo_digests=image.repo_digests,
        size=image.size,
        virtual_size=image.size,
        labels=labels_of(image),
        containers=containers,
        digest=str(image.digest),
        history=image.names,
        names=image.names,
        dangling=not image.names,
        is_manifest_list=isinstance(image, ImageList),
        created=created_ns(image) // times.SECOND,
        created_at=_created_at(image),
    )


def _view(row: Row, summary: ImageSummary, now_ns: int, *, full: bool) -> View:
    since = times.ago(created_ns(row.image), now_ns) if created_ns(row.image) else "N/A"
    return View(
        summary,
        {
            "ID": f"sha256:{summary.id}" if full else summary.id[:12],
            "Id": summary.id,
            "Repository": row.repository,
            "Tag": row.tag,
            "Created": since,
            "CreatedSince": since,
            "CreatedAt": summary.created_at.replace("T", " ").replace("Z", " +0000 UTC"),
            "Size": times.human_size(summary.size),
        },
    )


def image_tests(store: Store) -> Mapping[str, Test[Image | ImageList]]:
    """What --filter can ask of images."""

    def moment(value: str) -> int:
        return created_ns(store.resolve(value))

    return {
        "dangling": lambda image, value: (not image.names) == _truth(value),
        "label": lambda image, value: has_label(labels_of(image), value),
        "reference": lambda image, value: any(_matches(name, value) for name in image.names),
        "id": lambda image, value: image.id.startswith(value.removeprefix("sha256:")),
        "before": lambda image, value: created_ns(image) < moment(value),
        "since": lambda image, value: created_ns(image) > moment(value),
        "until": lambda image, value: created_ns(image) < times.parse_moment(value, time.time_ns(), "the filter until"),
    }


def _truth(value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise UsageError(f"the filter dangling={value} is neither true nor false")
    return value.lower() in ("true", "1")


def _matches(name: str, pattern: str) -> bool:
    """A shell pattern for a name as people shorten it: with or without the tag, the registry, `library/`."""
    reference = Reference.parse(name)
    spellings = {name, reference.name, reference.familiar, reference.familiar.rpartition(":")[0]}
    spellings |= {spelling.rpartition("/")[2] for spelling in set(spellings)}
    return any(fnmatch.fnmatchcase(spelling, pattern) for spelling in spellings)


def _sort(rows: list[Row], key: str) -> list[Row]:
    match key:
        case "id":
            return sorted(rows, key=lambda row: row.image.id)
        case "repository":
            return sorted(rows, key=lambda row: (row.repository, row.tag))
        case "tag":
            return sorted(rows, key=lambda row: row.tag)
        case "size":
            return sorted(rows, key=lambda row: row.image.size)
    return rows


@click.command(
    "images",
    cls=Command,
    examples=[
        ("rcontain images", ""),
        ("rcontain images --sort size --format 'table {{.Repository}}\\t{{.Size}}'", ""),
        ("rcontain images -q --filter dangling=true", "The ids of images that lost their names"),
    ],
)
@click.option("-a", "--all", "all_", is_flag=True, help="Accepted for compatibility: there are no intermediate images.")
@click.option("--digests", is_flag=True, help="Show digests.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only those that match: dangling, label, reference, id, before, since, until.",
)
@click.option("--format", "format_", metavar="FORMAT", help="json, a Go template, or `table` and a template.")
@click.option("--no-trunc", is_flag=True, help="Show ids in full.")
@click.option("-n", "--noheading", is_flag=True, help="Leave out the headings.")
@click.option("-q", "--quiet", is_flag=True, help="Show ids only.")
@click.option(
    "--sort",
    "sort_key",
    type=click.Choice(SORT_KEYS),
    default="created",
    metavar="KEY",
    help=f"Sort by {', '.join(SORT_KEYS)}.",
)
@click.argument("name", required=False, metavar="[IMAGE]")
@pass_session
def images(
    session: Session,
    all_: bool,
    digests: bool,
    filters: tuple[str, ...],
    format_: str | None,
    no_trunc: bool,
    noheading: bool,
    quiet: bool,
    sort_key: str,
    name: str | None,
) -> None:
    """List images."""
    store = Store(session.settings.data)
    found: list[Image | ImageList] = [*store.images(), *store.indexes()]
    for damaged in store.damaged():
        names = ", ".join(damaged.names) or str(damaged.digest)
        click.echo(f"Warning: image {names} is damaged: {damaged.reason}; pull it again, or remove it", err=True)
    found = matching(found, filters, image_tests(store))
    if name:
        found = [image for image in found if _is_meant(image, name, store)]
    rows = [Row(image, text) for image in found for text in (image.names or ("",))]
    if name and not any(char in name for char in "*?["):
        exact = [row for row in rows if _matches(row.name, name)] if any(row.name for row in rows) else rows
        rows = exact or rows
    rows = _sort(rows, sort_key)
    if quiet:
        ids = dict.fromkeys(f"sha256:{row.image.id}" if no_trunc else row.image.short_id for row in rows)
        click.echo("".join(f"{id}\n" for id in ids), nl=False)
        return
    users: dict[str, int] = {}
    for one in known_containers(Containers(session.settings)):
        users[one.record.image_id] = users.get(one.record.image_id, 0) + 1
    if format_ and format_.strip() == "json":
        rows = list({row.image.id: row for row in reversed(rows)}.values())[::-1]  # one document for each image
    now_ns = time.time_ns()
    views = [_view(row, summarize(row.image, users.get(row.image.id, 0)), now_ns, full=no_trunc) for row in rows]
    digest = r"{{.Digest}}\t" if digests else ""
    default = rf"table {{{{.Repository}}}}\t{{{{.Tag}}}}\t{digest}{{{{.ID}}}}\t{{{{.CreatedSince}}}}\t{{{{.Size}}}}"
    click.echo(render(format_, views, default=default, titles=TITLES, heading=not noheading), nl=False)


def _is_meant(image: Image | ImageList, text: str, store: Store) -> bool:
    if any(_matches(name, text) for name in image.names):
        return True
    if re.search(r"[*?\[]", text):
        return False
    try:
        return (store.resolve_index if isinstance(image, ImageList) else store.resolve)(text).id == image.id
    except ImageNotFound:
        return False
