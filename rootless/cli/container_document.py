"""The document that `inspect` shows of a container, with Podman's names.

Facts that rcontain does not have (pods, checkpoints, health) are left out, not invented; all that is there is true.
"""

from __future__ import annotations

import ipaddress
import signal
from collections.abc import Sequence

import msgspec

from .. import __version__
from ..container import network, sharing
from ..container.containers import Container
from ..container.logs import DEFAULT_MAX_SIZE
from ..container.options import CreateOptions, Published
from ..container.record import MountPoint, Record, State
from ..container.timestamps import NEVER
from ..container.volumes import Volume
from ..errors import ContainerError
from ..oci import runtime
from ..settings import Settings
from .ps import Sizes, published


class Document(msgspec.Struct, frozen=True, rename="pascal", kw_only=True):
    """Base of the objects in an inspected document: Go's names, with capitals."""


class ContainerState(Document, frozen=True, kw_only=True):
    oci_version: str = runtime.VERSION
    status: str
    running: bool
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    dead: bool = False
    pid: int
    supervisor_pid: int
    exit_code: int
    error: str
    started_at: str
    finished_at: str
    warnings: tuple[str, ...] = ()
    """Not Podman's: what the container's network had to say."""


class GraphDriver(Document, frozen=True, kw_only=True):
    name: str
    data: dict[str, str]


class Mount(Document, frozen=True, kw_only=True):
    type: str
    name: str
    source: str
    destination: str
    driver: str
    mode: str
    options: tuple[str, ...]
    rw: bool = msgspec.field(name="RW")
    propagation: str


class HostPort(Document, frozen=True, kw_only=True):
    host_ip: str
    host_port: str


class NetworkSettings(Document, frozen=True, kw_only=True):
    gateway: str = ""
    ip_address: str = msgspec.field(default="", name="IPAddress")
    ip_prefix_len: int = msgspec.field(default=0, name="IPPrefixLen")
    ipv6_gateway: str = msgspec.field(default="", name="IPv6Gateway")
    global_ipv6_address: str = msgspec.field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: int = msgspec.field(default=0, name="GlobalIPv6PrefixLen")
    mac_address: str = ""
    ports: dict[str, tuple[HostPort, ...]]
    networks: dict[str, dict[str, str]] = {}


class ContainerConfig(Document, frozen=True, kw_only=True):
    hostname: str
    domainname: str
    user: str
    attach_stdin: bool
    attach_stdout: bool
    attach_stderr: bool
    tty: bool
    open_stdin: bool
    env: tuple[str, ...]
    cmd: tuple[str, ...]
    image: str
    working_dir: str
    entrypoint: tuple[str, ...]
    labels: dict[str, str]
    annotations: dict[str, str]
    stop_signal: str
    stop_timeout: int
    create_command: tuple[str, ...]
    exposed_ports: dict[str, dict[str, str]]
    umask: str


class LogConfig(Document, frozen=True, kw_only=True):
    type: str
    path: str
    size: str


class RestartPolicy(Document, frozen=True, kw_only=True):
    name: str = "no"
    maximum_retry_count: int = 0


class Ulimit(Document, frozen=True, kw_only=True):
    name: str
    soft: int
    hard: int


class IdMappings(Document, frozen=True, kw_only=True):
    """Lines `container id:host id:size`; host ids are those of the engine's user namespace."""

    uid_map: tuple[str, ...]
    gid_map: tuple[str, ...]


class HostConfig(Document, frozen=True, kw_only=True):
    binds: tuple[str, ...]
    log_config: LogConfig
    network_mode: str
    port_bindings: dict[str, tuple[HostPort, ...]]
    restart_policy: RestartPolicy = RestartPolicy()
    auto_remove: bool
    cap_add: tuple[str, ...]
    cap_drop: tuple[str, ...]
    dns: tuple[str, ...]
    dns_search: tuple[str, ...]
    egress: tuple[str, ...]
    """Not Podman's: the rules of --egress."""
    extra_hosts: tuple[str, ...]
    group_add: tuple[str, ...]
    ipc_mode: str = "private"
    pid_mode: str = "private"
    uts_mode: str = msgspec.field(default="private", name="UTSMode")
    userns_mode: str
    id_mappings: IdMappings = msgspec.field(name="IDMappings")
    init: bool
    privileged: bool
    publish_all_ports: bool
    readonly_rootfs: bool
    security_opt: tuple[str, ...]
    tmpfs: dict[str, str]
    shm_size: int
    ulimits: tuple[Ulimit, ...]
    masked_paths: tuple[str, ...]
    readonly_paths: tuple[str, ...]


class ContainerDocument(Document, frozen=True, kw_only=True):
    id: str
    created: str
    path: str
    args: tuple[str, ...]
    state: ContainerState
    image: str
    image_digest: str
    image_name: str
    resolv_conf_path: str
    hostname_path: str
    hosts_path: str
    static_dir: str
    oci_config_path: str = msgspec.field(name="OCIConfigPath")
    oci_runtime: str = msgspec.field(name="OCIRuntime")
    name: str
    restart_count: int = 0
    driver: str
    platform: str = "linux"
    effective_caps: tuple[str, ...]
    bounding_caps: tuple[str, ...]
    graph_driver: GraphDriver
    size_rw: int | None
    size_root_fs: int | None
    mounts: tuple[Mount, ...]
    network_settings: NetworkSettings
    config: ContainerConfig
    host_config: HostConfig


def describe_container(container: Container, record: Record, state: State, sizes: Sizes | None) -> ContainerDocument:
    """Raises ContainerError when the container's config.json is damaged; a container never started has none yet."""
    spec = _spec(container)
    process = spec.process or runtime.Process()
    options = record.options
    capabilities = process.capabilities or runtime.Capabilities()
    args = record.command
    ports = _ports(published(record, state))
    running = state.status in ("running", "stopping")
    return ContainerDocument(
        id=record.id,
        created=record.created,
        path=args[0] if args else "",
        args=args[1:],
        state=ContainerState(
            status=state.status,
            running=running,
            pid=state.pid,
            supervisor_pid=state.supervisor if running else 0,
            exit_code=state.exit_code,
            error=state.error,
            started_at=state.started_at or NEVER,
            finished_at=state.finished_at or NEVER,
            warnings=state.warnings,
        ),
        image=record.image_id,
        image_digest=record.image_digest,
        image_name=record.image_name,
        resolv_conf_path=_bind_source(spec, "/etc/resolv.conf"),
        hostname_path=_bind_source(spec, "/etc/hostname"),
        hosts_path=_bind_source(spec, "/etc/hosts"),
        static_dir=container.path,
        oci_config_path=container.config_path,
        oci_runtime=f"rcontain {__version__}",
        name=record.name,
        driver=record.storage_driver,
        effective_caps=capabilities.effective,
        bounding_caps=capabilities.bounding,
        graph_driver=GraphDriver(
            name=record.storage_driver,
            data={
                "UpperDir": f"{container.path}/upper",
                "WorkDir": f"{container.path}/work",
                **({"MergedDir": f"{container.live}/rootfs"} if running else {}),
            },
        ),
        size_rw=sizes.rw_size if sizes else None,
        size_root_fs=sizes.root_fs_size if sizes else None,
        mounts=tuple(_mount(point, container.settings) for point in record.mounts if point.type != "tmpfs"),
        network_settings=_network(container.settings, record, state, ports),
        config=ContainerConfig(
            hostname=spec.hostname or record.hostname,
            domainname=spec.domainname or "",
            user=record.user,
            attach_stdin=record.open_stdin,
            attach_stdout=True,
            attach_stderr=True,
            tty=record.terminal,
            open_stdin=record.open_stdin,
            env=process.env or record.environment,
            cmd=record.command[len(record.entrypoint) :],
            image=record.image_name,
            working_dir=record.working_directory,
            entrypoint=record.entrypoint,
            labels=record.labels,
            annotations=spec.annotations,
            stop_signal=_signal_name(record.stop_signal),
            stop_timeout=record.stop_timeout,
            create_command=record.create_command,
            exposed_ports={name: {} for name in (*record.exposed_ports, *ports)},
            umask=f"{0o022 if process.user.umask is None else process.user.umask:04o}",
        ),
        host_config=HostConfig(
            binds=tuple(
                ":".join(filter(None, (point.name or point.source, point.destination, _typed(point.options))))
                for point in record.mounts
                if point.type in ("bind", "volume")
            ),
            log_config=LogConfig(type="k8s-file", path=container.log_path, size=f"{2 * DEFAULT_MAX_SIZE}B"),
            network_mode=str(record.network),
            port_bindings=_ports(state.published or record.network.published),
            auto_remove=record.remove,
            cap_add=options.cap_add,
            cap_drop=options.cap_drop,
            dns=record.network.dns,
            dns_search=record.network.dns_search,
            egress=record.network.link.egress,
            extra_hosts=record.network.add_hosts,
            group_add=options.groups,
            userns_mode=record.user_namespace,
            id_mappings=IdMappings(uid_map=_id_lines(record.uid_map), gid_map=_id_lines(record.gid_map)),
            init=record.init,
            privileged=options.privileged,
            publish_all_ports=options.publish_all,
            readonly_rootfs=record.read_only,
            security_opt=_security(options),
            tmpfs={point.destination: ",".join(point.options) for point in record.mounts if point.type == "tmpfs"},
            shm_size=record.shm_size,
            ulimits=tuple(Ulimit(name=limit.name, soft=limit.soft, hard=limit.hard) for limit in options.limits),
            masked_paths=spec.linux.masked_paths,
            readonly_paths=spec.linux.readonly_paths,
        ),
    )


def _spec(container: Container) -> runtime.Spec:
    path = container.config_path
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=runtime.Spec)
    except FileNotFoundError:
        return runtime.Spec()
    except OSError as error:
        raise ContainerError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ContainerError(f"the file {path} is damaged: {error}", hint="remove the container") from error


def _security(options: CreateOptions) -> tuple[str, ...]:
    return (
        *(("no-new-privileges",) if options.no_new_privileges else ()),
        *((f"seccomp={options.seccomp_profile}",) if options.seccomp_profile else ()),
        *(("ignore-chown-errors",) if options.ignore_chown_errors else ()),
        *(f"mask={path}" for path in options.masks),
        *(f"unmask={path}" for path in options.unmasks),
    )


def _typed(options: Sequence[str]) -> str:
    return ",".join(word for word in options if word != "anonymous")


def _bind_source(spec: runtime.Spec, destination: str) -> str:
    return next((mount.source or "" for mount in spec.mounts if mount.destination == destination), "")


_NOT_OPTIONS = ("ro", "rw", "anonymous")  # the first two are a field of their own, the third is for ourselves


def _mount(point: MountPoint, settings: Settings) -> Mount:
    propagation = next((word for word in point.options if word.lstrip("r") in ("private", "slave", "shared")), "")
    return Mount(
        type=point.type,
        name=point.name,
        source=Volume(settings, point.name).path if point.type == "volume" else point.source,
        destination=point.destination,
        driver="local" if point.type == "volume" else "",
        mode="",
        options=tuple(word for word in point.options if word not in (*_NOT_OPTIONS, propagation)),
        rw="ro" not in point.options,
        propagation=propagation or "rprivate",
    )


def _ports(bound: Sequence[Published]) -> dict[str, tuple[HostPort, ...]]:
    found: dict[str, tuple[HostPort, ...]] = {}
    for port in bound:
        key = f"{port.container_port}/{port.protocol}"
        here = HostPort(host_ip=port.host_ip or "0.0.0.0", host_port=str(port.host_port))
        if port.path:
            here = HostPort(host_ip="", host_port=f"unix:{port.path}")
        found[key] = (*found.get(key, ()), here)
    return found


def _network(
    settings: Settings, record: Record, state: State, ports: dict[str, tuple[HostPort, ...]]
) -> NetworkSettings:
    """A container that shares another's network has the other's addresses and ports, as with Podman."""
    other = sharing.owner(settings, record.network)
    if other is not None:
        theirs, now = other.record(), other.state()
        return _network(settings, theirs, now, _ports(published(theirs, now)))
    if record.network.mode != "user":
        return NetworkSettings(ports=ports)
    own = network.addresses(record.network)
    gateway, guest, guest6 = _text(own.gateway), _text(own.guest), _text(own.guest6)
    return NetworkSettings(
        gateway=gateway,
        ip_address=guest,
        ip_prefix_len=own.prefix,
        ipv6_gateway=_text(own.gateway6),
        global_ipv6_address=guest6,
        global_ipv6_prefix_len=own.prefix6 if guest6 else 0,
        mac_address=network.hardware_address(record.network, state.pid),
        ports=ports,
        networks={"user": {"Gateway": gateway, "IPAddress": guest, "GlobalIPv6Address": guest6}},
    )


def _text(address: bytes | None) -> str:
    return "" if address is None else str(ipaddress.ip_address(address))


def _id_lines(triples: tuple[tuple[int, int, int], ...]) -> tuple[str, ...]:
    return tuple(":".join(map(str, triple)) for triple in triples)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number >= signal.SIGRTMIN else str(number)
