"""A container's changes as a new image: one more layer over its image's, or everything in a single one."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
from msgspec import structs

from ..errors import ContainerError, UsageError
from ..image.assemble import Form, moment, new_image
from ..image.derive import LayerMaker
from ..image.model import Derive, Image, Layer
from ..image.packing import LayerPacker
from ..image.store import Store
from ..oci import instructions
from ..oci.documents import ExecutionConfig, History, ImageConfig
from ..oci.reference import Reference
from .caller import Caller
from .containers import Container
from .contents import contents
from .mounting import layers_of
from .pausing import paused
from .record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What was asked for. `config` is merged into the image's configuration before `changes` are made."""

    reference: Reference | None = None
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    config: bytes | None = None
    form: Form = Form.OCI
    pause: bool = False
    squash: bool = False
    include_volumes: bool = False


def commit(session: Caller, container: Container, wanted: Commit) -> tuple[Image, list[str]]:
    """Makes the image; returns it, and notes. Raises RcontainError, and then leaves nothing in the store."""
    store = Store(session.settings.data)
    store.prepare()
    record = container.record()
    base = store.resolve(record.image_id)
    created = moment(session.environment)
    config = _configuration(base.config, record, wanted)
    done = False
    try:
        with store.pulling():
            layer, notes = _layer(store, container, record, wanted)
            derive = Derive.TREE if record.storage_driver == "overlay" else Derive.INDEX
            notes += session.run(LayerMaker(store, derive).from_store, layer)
            history = History(
                created=created,
                created_by=" ".join(record.command),
                author=wanted.author,
                comment=wanted.message,
            )
            below = () if wanted.squash else tuple(layers_of(record))
            image = new_image(
                store,
                (*below, layer),
                structs.replace(config, created=created, author=wanted.author or config.author),
                (*(() if wanted.squash else _history(base, below)), history),
                wanted.reference,
                form=wanted.form,
            )
            done = True
    finally:
        if not done:
            store.collect()
    return image, notes


def _layer(store: Store, container: Container, record: Record, wanted: Commit) -> tuple[Layer, list[str]]:
    with ExitStack() as stack:
        if wanted.pause:
            stack.enter_context(paused(container))
        packer = stack.enter_context(LayerPacker(store, stack.enter_context(store.workspace())))
        found = stack.enter_context(contents(container, record))
        notes = (found.write_everything if wanted.squash else found.write_changes)(packer.write)
        if not os.path.exists(container.path):
            raise ContainerError(f"container {container.id[:12]} was removed while it was read")
        return packer.finish(), notes


def _history(base: Image, layers: tuple[Layer, ...]) -> tuple[History, ...]:
    """The image's own; a container of some of its layers has a line for each of them."""
    lines = base.config.history or ()
    made = [line for line in lines if not line.empty_layer]
    if len(layers) == len(base.layers) == len(made):
        return lines
    known = dict(zip((layer.diff_id for layer in base.layers), made, strict=False))
    return tuple(known.get(layer.diff_id, History()) for layer in layers)


def _configuration(base: ImageConfig, record: Record, wanted: Commit) -> ImageConfig:
    """The image's, with what the container was created with."""
    config = base.config
    ports = [*record.exposed_ports, *(f"{each.container_port}/{each.protocol}" for each in record.network.published)]
    config = structs.replace(
        config,
        env=record.environment or None,
        entrypoint=record.entrypoint or None,
        cmd=record.command[len(record.entrypoint) :] or None,
        user=record.user,
        working_dir="" if record.working_directory == "/" and not config.working_dir else record.working_directory,
        exposed_ports={port: {} for port in ports} or None,
        labels=record.labels or None,
    )
    if wanted.include_volumes:
        mounted: dict[str, object] = {
            point.destination: {} for point in record.mounts if point.type in ("volume", "bind")
        }
        config = structs.replace(config, volumes={**(config.volumes or {}), **mounted} or None)
    if wanted.config is not None:
        config = merged(config, wanted.config)
    return structs.replace(base, execution=instructions.apply(config, wanted.changes))


def merged(config: ExecutionConfig, document: bytes) -> ExecutionConfig:
    """`config` with what a JSON document of the same form says: sets and ENV are joined, the rest is replaced."""
    try:
        given = msgspec.json.decode(document, type=ExecutionConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"the file of --config is no configuration: {str(error)[:200]}",
            hint='it is what `inspect` shows as Config, such as {"Cmd": ["/bin/sh"]}',
        ) from None
    changed: dict[str, object] = {}
    for name in given.__struct_fields__:
        value = getattr(given, name)
        if not value:
            continue
        before = getattr(config, name)
        if name == "env":
            pairs = [entry.partition("=")[::2] for entry in (*(before or ()), *value)]
            value = tuple(f"{key}={text}" for key, text in dict(pairs).items())
        elif isinstance(value, dict):
            value = {**(before or {}), **value}
        changed[name] = value
    return structs.replace(config, **changed)


def check_reference(reference: Reference | None) -> None:
    """Raises UsageError for a name that a new image cannot be given."""
    if reference is not None and reference.digest is not None:
        raise UsageError(f"cannot name an image {reference}: its digest is not yet known", hint="give a tag, or none")
