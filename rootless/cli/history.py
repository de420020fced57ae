"""`rcontain history`."""

from __future__ import annotations

import time

import click
import msgspec

from ..errors import shortened
from ..image.derive import ensure
from ..image.model import Derive
from ..image.steps import steps, tops
from ..image.store import Store
from ..image.trees import content_size
from ..oci.documents import parse_time
from . import times
from .command import Command
from .format import View, render
from .session import Session, pass_session

_WIDTH = 45
_TABLE = r"table {{.ID}}\t{{.Created}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
TITLES = {"ID": "ID", "CreatedBy": "CREATED BY", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT"}


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line in `history --format json`, with Podman's names."""

    id: str
    created: str
    created_by: str = msgspec.field(name="CreatedBy")
    tags: tuple[str, ...]
    size: int
    comment: str


@click.command(
    "history",
    cls=Command,
    examples=[
        ("rcontain history alpine", "The commands that made it, the latest first, and how much each added"),
        ("rcontain history --no-trunc --format '{{.CreatedBy}}' alpine", ""),
    ],
)
@click.option("--format", "format_", metavar="FORMAT", help="json, a Go template, or `table` and a template.")
@click.option("-H", "--human", metavar="BOOL", type=bool, default=True, help="Sizes and times for people.")
@click.option("--no-trunc", is_flag=True, help="Show ids and commands in full.")
@click.option("-q", "--quiet", is_flag=True, help="Show ids only.")
@click.argument("image", metavar="IMAGE")
@pass_session
def history(session: Session, format_: str | None, human: bool, no_trunc: bool, quiet: bool, image: str) -> None:
    """Show how an image was made."""
    store = Store(session.settings.data)
    store.prepare()
    found = store.resolve(image)
    session.run(ensure, store, found, Derive.INDEX)
    images = store.images()
    now_ns = time.time_ns()
    views: list[View] = []
    for step in reversed(steps(found)):
        named = tops(images, found, step.depth) if step.layer is not None else []
        is_top = not views
        id = found.id if is_top else next((one.id for one in named), "<missing>")
        moment = parse_time(step.line.created)
        created_ns = round(moment.timestamp() * times.SECOND) if moment else None
        entry = HistoryEntry(
            id=id,
            created=step.line.created or "",
            created_by=step.line.created_by,
            tags=found.names if is_top else tuple(name for one in named for name in one.names),
            size=content_size(store, step.layer) if step.layer else 0,
            comment=step.line.comment,
        )
        command = " ".join(entry.created_by.split())
        if not no_trunc:
            command = shortened(command, _WIDTH)
        since = times.ago(created_ns, now_ns) if created_ns else "N/A"
        shown = id if no_trunc or id.startswith("<") else id[:12]
        views.append(
            View(
                entry,
                {
                    "ID": f"sha256:{shown}" if no_trunc and not id.startswith("<") else shown,
                    "Created": since if human else entry.created,
                    "CreatedSince": since,
                    "CreatedAt": entry.created,
                    "CreatedBy": command,
                    "Size": times.human_size(entry.size, space="") if human else str(entry.size),
                    "Comment": entry.comment,
                    "Tags": ", ".join(entry.tags),
                },
            )
        )
    if quiet:
        format_ = "{{.ID}}"
    click.echo(render(format_, views, default=_TABLE, titles=TITLES), nl=False)
