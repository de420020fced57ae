"""`rcontain network flows`: what a container's network is doing now, and what its egress rules refused."""

from __future__ import annotations

import click
import msgspec

from ..container import control, sharing
from ..container.containers import Containers
from ..errors import ContainerError
from . import times
from .command import Command
from .format import View, render
from .session import Session, pass_session

_FLOWS = (
    r"table {{.Protocol}}\t{{.Direction}}\t{{.Container}}\t{{.Far}}\t{{.Name}}\t{{.State}}\t{{.Received}}\t{{.Sent}}"
    r"\t{{.Since}}"
)
_DENIED = r"table {{.Protocol}}\t{{.Far}}\t{{.Port}}\t{{.Count}}"
_TITLES = {"Far": "FAR END", "Since": "AGE"}


class Flow(msgspec.Struct, frozen=True):
    """One flow, as netns.flowlist has it: `direction` is out or in, `received` and `sent` are the container's bytes,
    `since` is its age in seconds."""

    protocol: str
    direction: str
    container: str
    far: str
    name: str | None
    state: str
    received: int
    sent: int
    since: float


class Denied(msgspec.Struct, frozen=True):
    """What was refused `count` times; `far` is an address, or the name in a question of the protocol dns."""

    protocol: str
    far: str
    port: int
    count: int


class Flows(msgspec.Struct, frozen=True):
    """netns.flowlist's document."""

    flows: tuple[Flow, ...]
    denied: tuple[Denied, ...]


@click.command(
    "flows",
    cls=Command,
    examples=[
        ("rcontain network flows web", "With whom web talks, and how much"),
        ("rcontain network flows --denied job", "What the --egress rules of job have refused"),
        ("rcontain network flows --format json web", "For programs"),
    ],
)
@click.option("--denied", is_flag=True, help="Show what the egress rules refused instead.")
@click.option("--format", "format_", metavar="FORMAT", help="json, a Go template, or `table` and a template.")
@click.option("--noheading", is_flag=True, help="Leave out the headings.")
@click.argument("container", metavar="CONTAINER")
@pass_session
def flows(session: Session, container: str, denied: bool, format_: str | None, noheading: bool) -> None:
    """List the connections of a container: who, how many bytes, since when."""
    found = _ask(session, container)
    shown = [View(one, {}) for one in found.denied] if denied else [_view(flow) for flow in found.flows]
    default = _DENIED if denied else _FLOWS
    click.echo(render(format_, shown, default=default, titles=_TITLES, heading=not noheading), nl=False)


def _view(flow: Flow) -> View:
    return View(
        flow,
        {
            "Name": flow.name or "-",
            "Received": times.human_size(flow.received, space=""),
            "Sent": times.human_size(flow.sent, space=""),
            "Since": times.human_duration(flow.since),
        },
    )


def _ask(session: Session, name: str) -> Flows:
    container = Containers(session.settings).find(name)
    record = container.record()
    container = sharing.owner(session.settings, record.network) or container
    if container.record().network.mode != "user":
        raise ContainerError(
            f"the flows of container {record.name} are not known here: its network is {record.network}",
            hint="only those of the user-mode network are",
        )
    try:
        return msgspec.json.decode(control.flows(container), type=Flows)
    except msgspec.MsgspecError as error:
        raise ContainerError(f"the network of container {record.name} gave a list that cannot be read") from error
