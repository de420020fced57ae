"""`rcontain system check`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click

from ..container.containers import Containers
from ..errors import ImageError, RcontainError
from ..image.access import Access
from ..image.check import Damage, check_blob, check_layer, check_quickly, needed
from ..image.model import Layer
from ..image.repair import derive_again, fetch_again
from ..image.store import Store
from ..runtime.idmap import IdMaps
from . import times
from .command import Command
from .ps import known_containers
from .session import Session, pass_session


@click.command(
    "check",
    cls=Command,
    examples=[
        ("rcontain system check", "Read everything; the exit code is 125 if something is damaged"),
        ("rcontain system check --repair", "Fetch broken layers again, and make anew what was made from them"),
    ],
)
@click.option("-q", "--quick", is_flag=True, help="Only what can be seen without reading the layers.")
@click.option("-r", "--repair", is_flag=True, help="Repair what can be repaired.")
@pass_session
def check(session: Session, quick: bool, repair: bool) -> None:
    """Look for damage in the image store: every byte against its digest.

    Containers may run meanwhile.
    """
    store = Store(session.settings.data)
    store.prepare()
    found, size = session.run(_look, store, quick)
    for damage in found:
        click.echo(str(damage))
    if found and repair:
        session.run(_repair, store, found, Access(environ=dict(session.environment)), _users(session))
        found, size = session.run(_look, store, quick)  # a new layer may show what could not be seen before
        for layer_damage in [one for one in found if one.layer is not None]:
            click.echo(str(layer_damage))
        derived = [one for one in found if one.layer is not None]
        if derived and len(derived) == len(found):
            session.run(_repair, store, found, Access(environ=dict(session.environment)), _users(session))
            found, size = session.run(_look, store, quick)
    if found:
        hint = None if repair else "`rcontain system check --repair` repairs what it can"
        raise ImageError(f"damage detected in the image store: {len(found)} things are wrong", hint=hint)
    click.echo(f"No damage in {times.human_size(size, space='')} of images")


async def _look(store: Store, quick: bool) -> tuple[list[Damage], int]:
    import trio

    everything = needed(store)
    found: list[Damage] = []
    broken = set()
    for blob, sources in everything.blobs.values():
        damage = await trio.to_thread.run_sync(partial(check_blob, store, blob, sources, quick=quick))
        if damage is not None:
            found.append(damage)
            broken.add(blob.digest)
    owners = sum(extent[2] for extent in IdMaps.of_self().uids.triples()) > 1
    for layer in everything.layers:
        if quick or layer.blob in broken:
            found += check_quickly(store, layer)
        else:
            found += await check_layer(store, layer, owners=owners)
    return found, sum(blob.size for blob, _ in everything.blobs.values())


async def _repair(store: Store, found: list[Damage], access: Access, in_use: Callable[[Layer], str | None]) -> None:
    layers: dict[Layer, set[str]] = {}
    for damage in found:
        if damage.layer is not None:
            layers.setdefault(damage.layer, set()).add(damage.what)
            continue
        try:
            await fetch_again(store, damage, access)
        except RcontainError as error:
            click.echo(f"Error: {error}", err=True)
        else:
            click.echo(f"Fetched blob {damage.blob.digest} again")
    for layer, what in layers.items():
        try:
            await derive_again(store, layer, what, in_use)
        except RcontainError as error:
            click.echo(f"Error: {error}", err=True)
        else:
            click.echo(f"Made {' and '.join(sorted(what))} of layer {layer.diff_id} again")


def _users(session: Session) -> Callable[[Layer], str | None]:
    used = {
        layer.diff_id: one.record.name
        for one in known_containers(Containers(session.settings))
        if one.state.status in ("running", "stopping", "paused")
        for layer in one.record.layers
    }
    return lambda layer: used.get(str(layer.diff_id))
