"""`rcontain info`: the host as rcontain finds it, and what it makes of it."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata

import click
import msgspec

from ..container import driver
from ..container.containers import Containers
from ..container.create import id_maps
from ..errors import HostError
from ..image.store import Store
from ..oci.platform import Platform
from ..runtime import userns
from .command import Command
from .format import render
from .ps import known_containers
from .session import Session, pass_session
from .version import VersionFacts, facts

_LIBRARIES = ("trio", "pyfuse3", "httpx", "msgspec", "click")
_PROGRAMS = ("newuidmap", "newgidmap", "fusermount3")


class _Document(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    pass


class IdRange(msgspec.Struct, frozen=True):
    """`size` ids from `container_id` inside are those from `host_id` outside."""

    container_id: int
    host_id: int
    size: int


class IdMappings(_Document, frozen=True, kw_only=True):
    """The engine's user namespace."""

    uidmap: tuple[IdRange, ...]
    gidmap: tuple[IdRange, ...]


class Distribution(_Document, frozen=True, kw_only=True):
    distribution: str
    version: str
    codename: str


class Security(_Document, frozen=True, kw_only=True):
    rootless: bool
    seccomp_enabled: bool
    single_id: bool
    single_id_reason: str


class Network(_Document, frozen=True, kw_only=True):
    default: str
    device: str
    device_usable: bool


class Host(_Document, frozen=True, kw_only=True):
    arch: str
    os: str
    variant: str
    kernel: str
    hostname: str
    user: str
    cpus: int
    mem_total: int
    mem_free: int
    cgroup_version: str
    cgroup_controllers: tuple[str, ...]
    distribution: Distribution
    id_mappings: IdMappings
    security: Security
    network: Network
    programs: dict[str, str]
    log_driver: str = "k8s-file"
    log_size_max: int


class ContainerStore(_Document, frozen=True, kw_only=True):
    number: int
    running: int
    stopped: int
    paused: int = 0


class ImageStore(_Document, frozen=True, kw_only=True):
    number: int


class StoreFacts(_Document, frozen=True, kw_only=True):
    graph_driver_name: str
    graph_driver_reason: str
    graph_driver_asked: str
    graph_root: str
    graph_root_allocated: int
    graph_root_used: int
    backing_filesystem: str
    run_root: str
    volume_path: str
    container_store: ContainerStore
    image_store: ImageStore


class Report(_Document, frozen=True, kw_only=True):
    """The document of `info --format json`; names are Podman's where it has the same fact."""

    host: Host
    store: StoreFacts
    libraries: dict[str, str]
    version: VersionFacts


def read_id_map(path: str) -> tuple[IdRange, ...]:
    """/proc/PID/uid_map, user_namespaces(7)."""
    with open(path, encoding="ascii") as file:
        return tuple(IdRange(*map(int, line.split())) for line in file)


def _distribution() -> Distribution:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return Distribution(
        distribution=release.get("ID", "unknown"),
        version=release.get("VERSION_ID", ""),
        codename=release.get("VERSION_CODENAME", ""),
    )


def _memory() -> Mapping[str, int]:
    """/proc/meminfo in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}


def _cgroups() -> tuple[str, tuple[str, ...]]:
    """The version, and the controllers that this process's own group may use."""
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "v1", ()
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            own = next((line.strip().split("::", 1)[1] for line in file if line.startswith("0::")), "/")
        with open(f"/sys/fs/cgroup{own}/cgroup.controllers", encoding="ascii") as file:
            return "v2", tuple(file.read().split())
    except OSError:
        return "v2", ()


def _filesystem(path: str) -> str:
    """The type of the file system that holds `path`: the longest mount point that is a beginning of it."""
    found = ("", "unknown")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            point = left.split()[4].encode("utf-8", "surrogateescape").decode("unicode_escape", "replace")
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(found[0]):
                found = (point, right.split()[0])
    return found[1]


def _existing(path: str) -> str:
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _user(mappings: IdMappings) -> str:
    uid = next((extent.host_id for extent in mappings.uidmap if extent.container_id == 0), os.getuid())
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _single_id_reason(uid: int, gid: int) -> str:
    """Why there are no subordinate ids: no range, or a range that could not be used."""
    _, reason = userns.plan_maps(uid, gid)
    if reason:
        return reason
    missing = [name for name in ("newuidmap", "newgidmap") if shutil.which(name) is None]
    return f"{' and '.join(missing)} not found (package uidmap)" if missing else "newuidmap or newgidmap failed"


def gather(session: Session) -> Report:
    from ..container.logs import DEFAULT_MAX_SIZE

    settings = session.settings
    mappings = IdMappings(uidmap=read_id_map("/proc/self/uid_map"), gidmap=read_id_map("/proc/self/gid_map"))
    ids = id_maps("host")
    single = ids.uids.size == 1
    try:
        choice = driver.choose(settings, settings.storage_driver, ids.uids.triples(), ids.gids.triples())
        name, reason = choice.driver, choice.reason
    except HostError as error:
        name, reason = settings.storage_driver, error.message
    here = Platform.of("linux", platform.machine())
    memory = _memory()
    version, controllers = _cgroups()
    tun = "/dev/net/tun"
    kernel = os.uname()
    place = _existing(settings.data)
    space = os.statvfs(place)
    known = known_containers(Containers(settings))
    running = sum(one.state.status in ("running", "stopping") for one in known)
    return Report(
        host=Host(
            arch=here.architecture,
            os=here.os,
            variant=here.variant,
            kernel=kernel.release,
            hostname=kernel.nodename,
            user=_user(mappings),
            cpus=len(os.sched_getaffinity(0)),
            mem_total=memory["MemTotal"],
            mem_free=memory["MemAvailable"],
            cgroup_version=version,
            cgroup_controllers=controllers,
            distribution=_distribution(),
            id_mappings=mappings,
            security=Security(
                rootless=mappings.uidmap[0].host_id != 0,
                seccomp_enabled=os.path.exists("/proc/sys/kernel/seccomp"),
                single_id=single,
                single_id_reason=_single_id_reason(mappings.uidmap[0].host_id, mappings.gidmap[0].host_id)
                if single
                else "",
            ),
            network=Network(default="user", device=tun, device_usable=os.access(tun, os.R_OK | os.W_OK)),
            programs={program: shutil.which(program) or "" for program in _PROGRAMS},
            log_size_max=2 * DEFAULT_MAX_SIZE,
        ),
        store=StoreFacts(
            graph_driver_name=name,
            graph_driver_reason=reason,
            graph_driver_asked=settings.storage_driver,
            graph_root=settings.data,
            graph_root_allocated=space.f_blocks * space.f_frsize,
            graph_root_used=(space.f_blocks - space.f_bfree) * space.f_frsize,
            backing_filesystem=_filesystem(os.path.realpath(place)),
            run_root=settings.runtime,
            volume_path=settings.volumes,
            container_store=ContainerStore(number=len(known), running=running, stopped=len(known) - running),
            image_store=ImageStore(number=len(Store(settings.data).images())),
        ),
        libraries={library: metadata.version(library) for library in _LIBRARIES},
        version=facts(),
    )


def as_text(value: object, indent: int = 0) -> list[str]:
    """A document of builtins as `name: value` lines, as YAML has it."""
    pad = "  " * indent
    lines: list[str] = []
    match value:
        case dict():
            for key, item in value.items():
                if isinstance(item, dict | list | tuple) and item:
                    lines += [f"{pad}{key}:", *as_text(item, indent + 1)]
                else:
                    lines.append(f"{pad}{key}: {_scalar(item)}")
        case list() | tuple():
            for item in value:
                inner = as_text(item, indent + 1)
                lines += [f"{pad}- {inner[0].lstrip()}", *inner[1:]]
        case _:
            lines.append(f"{pad}{_scalar(value)}")
    return lines


def _scalar(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "{}"
        case list() | tuple():
            return "[]"
        case str() if not value or value != value.strip() or any(mark in value for mark in ("\n", ": ", " #")):
            return msgspec.json.encode(value).decode()
    return str(value)


@click.command(
    "info",
    cls=Command,
    examples=[
        ("rcontain info", ""),
        ("rcontain info --format '{{.Store.GraphDriverName}}: {{.Store.GraphDriverReason}}'", ""),
    ],
)
@click.option("-f", "--format", "format_", metavar="FORMAT", help="json, or a Go template.")
@pass_session
def info(session: Session, format_: str | None) -> None:
    """Show this machine and this installation.

    The storage driver and why it was chosen, the user's ids, the network, paths, versions.
    """
    report = gather(session)
    if format_:
        click.echo(render(format_, [report], single=True), nl=False)
        return
    document: Sequence[str] = as_text(msgspec.to_builtins(report))
    click.echo("\n".join(document))
