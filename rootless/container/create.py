"""Making a container: from an image and what was asked for to a record on disk. Nothing is started here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import CommandNotFound, ContainerError, HostError, UsageError
from ..image.model import Derive, Image
from ..image.selection import select_layers
from ..image.store import ImageNotFound, Store
from ..oci import transports
from ..oci.platform import Platform
from ..oci.reference import Reference
from ..runtime import idmap
from ..runtime.idmap import IdMaps
from ..runtime.rootdir import normalize
from . import claim, driver, sharing, signals
from .caller import Caller
from .containers import Container, Containers, new_id
from .mounting import record_layers
from .names import random_name
from .options import CreateOptions, MountRequest, Published
from .record import MountPoint, Network, Record
from .timestamps import rfc3339

if TYPE_CHECKING:
    from ..image.access import Access

_SCRATCH = ("rprivate", "nosuid", "nodev", "tmpcopyup")


def create(
    session: Caller, options: CreateOptions, *, access: Callable[[], Access] | None = None, to_run: bool = False
) -> Container:
    """Makes a container, pulling its image where `options.pull` says so. Raises RcontainError, nothing half-made.

    `access` is asked how to reach registries if one has to be asked. A container that is `to_run` at once is claimed
    already; see claim.py.
    """
    store = Store(session.settings.data)
    store.prepare()
    ids = id_maps(options.user_namespace)
    choice = driver.choose(session.settings, options.storage_driver, ids.uids.triples(), ids.gids.triples())
    derive = Derive.INDEX
    if choice.driver == "overlay":
        derive = Derive.SOONEST if options.storage_driver == "auto" else Derive.TREE
    image = _image(session, store, options, derive, access)
    if derive is Derive.SOONEST:
        choice = driver.for_image(choice, options.storage_driver, _has(store, image, Derive.TREE))
    return _record(session, options, image, ids, choice.driver, to_run)


def _has(store: Store, image: Image, derive: Derive) -> bool:
    """Whether what `derive` says is there for all layers: with SOONEST, either of both forms."""
    if derive is Derive.SOONEST:
        return _has(store, image, Derive.TREE) or _has(store, image, Derive.INDEX)
    has = store.has_tree if derive is Derive.TREE else store.has_index
    return all(has(layer) for layer in image.layers)


def _image(
    session: Caller, store: Store, options: CreateOptions, derive: Derive, access: Callable[[], Access] | None
) -> Image:
    in_store = transports.parse(options.image).kind is transports.Transport.DOCKER
    if in_store and options.pull in ("missing", "never") and not options.platform:
        try:
            image = store.resolve(options.image)
        except ImageNotFound:
            if options.pull == "never":
                raise
        else:
            if _has(store, image, derive):
                return image
    return session.run(_obtain, session, store, options, derive, access)


async def _obtain(
    session: Caller, store: Store, options: CreateOptions, derive: Derive, access: Callable[[], Access] | None
) -> Image:
    # Not at the top: an engine's first command may come before all that talking to a registry needs is imported.
    from ..image.access import Access
    from ..image.derive import ensure
    from ..image.obtain import PullPolicy, obtain
    from ..image.progress import progress_for

    with progress_for(sys.stderr, quiet=options.quiet) as progress:
        image = await obtain(
            store,
            options.image,
            directory=session.cwd,
            policy=PullPolicy(options.pull),
            platform=Platform.parse(options.platform) if options.platform else None,
            access=access() if access is not None else Access(environ=dict(session.environment)),
            progress=progress,
            derive=derive,
        )
        if not _has(store, image, derive):
            await ensure(store, image, derive)
    return image


def id_maps(mode: str) -> IdMaps:
    """The maps that --userns asks for, in E ids. Raises UsageError."""
    around = IdMaps.of_self()
    name, _, arguments = mode.partition(":")
    if name in ("", "host", "private") and not arguments:
        return idmap.default_maps(around)
    if name == "nomap" and not arguments:
        return idmap.nomap_maps(around)
    if name == "keep-id":
        uid, gid = invoking_ids()
        for field in arguments.split(",") if arguments else ():
            key, _, value = field.partition("=")
            if key not in ("uid", "gid") or not value.isdigit():
                raise UsageError(f'--userns {mode}: "{field}" is not uid=NUMBER or gid=NUMBER')
            uid, gid = (int(value), gid) if key == "uid" else (uid, int(value))
        return idmap.keep_id_maps(around, uid, gid)
    raise UsageError(f'the user namespace "{mode}" is not known', hint="use host, keep-id[:uid=…,gid=…] or nomap")


def invoking_ids() -> tuple[int, int]:
    """The user's own ids on the host: what E's id 0 stands for."""
    maps = []
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}", encoding="ascii") as file:
            maps.append(int(file.readline().split()[1]))
    return maps[0], maps[1]


def _record(
    session: Caller, options: CreateOptions, image: Image, ids: IdMaps, chosen_driver: str, to_run: bool
) -> Container:
    config = image.config.config
    settings = session.settings
    layers = select_layers(image, options.layer_count, options.layer)
    id = new_id()
    entrypoint = tuple(config.entrypoint or ()) if options.entrypoint is None else options.entrypoint
    command = options.command or (() if options.entrypoint is not None else tuple(config.cmd or ()))
    if (entrypoint + command)[:1] == ("",):
        raise CommandNotFound('the command "" cannot be found in $PATH')
    if not entrypoint + command:
        raise UsageError(
            f"no command was given and the image {options.image} names none", hint="give one after the image"
        )
    labels = {**(config.labels or {}), **dict(options.labels)}
    points = tuple(_mount_point(request) for request in _mounts(options, config.volumes))
    containers = Containers(settings)
    hostname, target = options.hostname, options.network_target
    if options.network == "container":
        other = sharing.find(settings, target)
        hostname, target = hostname or other.hostname, other.id
    for _ in range(20):
        record = Record(
            id=id,
            name=options.name or random_name(),
            created=rfc3339(time.time_ns()),
            image_id=image.id,
            image_name=_name_of(image, options.image),
            image_digest=str(image.digest),
            layers=record_layers(layers),
            command=entrypoint + command,
            entrypoint=entrypoint,
            hostname=hostname or (os.uname().nodename if options.network == "host" else id[:12]),
            storage_driver=chosen_driver,
            uid_map=ids.uids.triples(),
            gid_map=ids.gids.triples(),
            user_namespace=options.user_namespace,
            network=Network(
                mode=options.network,
                target=target,
                host_loopback=options.host_loopback,
                link=options.link,
                published=_published(options, config.exposed_ports),
                dns=options.dns,
                dns_search=options.dns_search,
                add_hosts=options.add_hosts,
            ),
            options=options,
            environment=_environment(config.env or (), options),
            working_directory=options.working_directory or config.working_dir or "/",
            exposed_ports=tuple(config.exposed_ports or ()),
            mounts=points,
            labels=labels,
            user=config.user if options.user is None else options.user,
            terminal=options.terminal,
            open_stdin=options.interactive,
            init=options.init,
            remove=options.remove,
            read_only=options.read_only,
            stop_signal=options.stop_signal or signals.of_image(config.stop_signal),
            stop_timeout=options.stop_timeout,
            shm_size=options.shm_size,
            create_command=options.create_command,
        )
        try:
            return containers.create(record, claim=claim.take if to_run else None)
        except ContainerError:
            if options.name:
                raise
    raise HostError("no free name was found for the container", hint="give one with --name")


def _name_of(image: Image, text: str) -> str:
    """The name under which the user asked for it, in full; its id when they asked by that."""
    try:
        typed = str(Reference.parse(text))
    except UsageError:
        typed = ""
    return typed if typed in image.names else next(iter(image.names), image.id)


def _environment(image: tuple[str, ...], options: CreateOptions) -> tuple[str, ...]:
    merged = dict(entry.partition("=")[::2] for entry in image)
    merged.update(options.environment)
    return tuple(f"{name}={value}" for name, value in merged.items())


def _published(options: CreateOptions, exposed: Mapping[str, object] | None) -> tuple[Published, ...]:
    ports = list(options.published)
    if options.publish_all:
        taken = {(port.container_port, port.protocol) for port in ports}
        for text in exposed or {}:
            number, _, protocol = text.partition("/")
            if number.isdigit() and 0 < int(number) < 65536 and protocol in ("", "tcp", "udp"):
                key = (int(number), protocol or "tcp")
                if key not in taken:
                    ports.append(Published(host_ip="", host_port=0, container_port=key[0], protocol=key[1]))
    return tuple(ports)


def _mounts(options: CreateOptions, image_volumes: Mapping[str, object] | None) -> list[MountRequest]:
    """What was asked for, and an anonymous volume for each VOLUME of the image that nothing else covers."""
    requests = list(options.mounts)
    covered = {normalize(request.destination) for request in requests}
    for destination in image_volumes or {}:
        path = normalize(destination)
        if path not in covered and path != "/":
            covered.add(path)
            requests.append(MountRequest(type="volume", source="", destination=path))
    if options.read_only and options.read_only_tmpfs:
        requests += [
            MountRequest(type="tmpfs", source="tmpfs", destination=path, options=_SCRATCH)
            for path in ("/run", "/tmp", "/var/tmp")
            if path not in covered
        ]
    return requests


def _mount_point(request: MountRequest) -> MountPoint:
    options = list(request.options)
    name = ""
    if request.type == "volume":
        name = request.source or new_id()
        options += [] if request.copy else ["nocopy"]
        options += [] if request.source else ["anonymous"]
    if request.chown:
        options.append("U")
    return MountPoint(
        type=request.type,
        source=request.source if request.type != "volume" else "",
        destination=normalize(request.destination),
        options=tuple(options),
        name=name,
    )
