"""config.json of the OCI runtime specification 1.2, as frozen types with the spec's field names.

Source: https://github.com/opencontainers/runtime-spec (config.md, config-linux.md, runtime.md). Unknown fields are
ignored, as the specification asks ("Extensibility"). Ids in `User` and `IDMapping.container_id` are container ids.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

import msgspec

VERSION: Final = "1.2.0"


class Document(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base of the objects in config.json: camel case names, absent where equal to the default."""


class NamespaceType(Enum):
    """config-linux.md, "Namespaces"."""

    PID = "pid"
    NETWORK = "network"
    MOUNT = "mount"
    IPC = "ipc"
    UTS = "uts"
    USER = "user"
    CGROUP = "cgroup"
    TIME = "time"


class Namespace(Document, frozen=True):
    """A namespace: new, or joined where `path` names one."""

    type: NamespaceType
    path: str | None = None


class IDMapping(Document, frozen=True, kw_only=True):
    """`size` ids from `container_id` in the container are those from `host_id` in the runtime's user namespace."""

    container_id: int = msgspec.field(name="containerID")
    host_id: int = msgspec.field(name="hostID")
    size: int


class User(Document, frozen=True, kw_only=True):
    """The ids that the process runs with."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str | None = None


class Capabilities(Document, frozen=True, kw_only=True):
    """Five sets of names like "CAP_CHOWN"; capabilities(7)."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Document, frozen=True, kw_only=True):
    """`type` is a name like "RLIMIT_NOFILE"; 2**64-1 means no limit."""

    type: str
    soft: int
    hard: int


class Box(Document, frozen=True):
    """The size of a console, in characters."""

    height: int = 0
    width: int = 0


class Process(Document, frozen=True, kw_only=True):
    """config.md, "Process"."""

    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str | None = None
    selinux_label: str | None = None
    oom_score_adj: int | None = None


class Root(Document, frozen=True):
    """The root filesystem; a relative `path` is relative to the bundle."""

    path: str
    readonly: bool = False


class Mount(Document, frozen=True, kw_only=True):
    """config.md, "Mounts"; `options` are those of mount(8)."""

    destination: str
    type: str | None = None
    source: str | None = None
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()


class Hook(Document, frozen=True, kw_only=True):
    """A program that runs at a point of the life cycle, with the state on its standard input."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(Document, frozen=True):
    """config.md, "POSIX-platform Hooks"."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Device(Document, frozen=True, kw_only=True):
    """A device node that is to exist in the container."""

    type: str
    path: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class SeccompArg(Document, frozen=True, kw_only=True):
    """A condition on an argument of a system call."""

    index: int
    value: int
    value_two: int = 0
    op: str


class SeccompFilter(Document, frozen=True):
    """Containers-common: where a rule is used at all. Not part of config.json."""

    arches: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()
    min_kernel: str | None = None


class SeccompRule(Document, frozen=True, kw_only=True):
    """One rule; `includes`, `excludes` and `errno` are of containers-common profiles only."""

    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    errno: str | None = None
    args: tuple[SeccompArg, ...] | None = None
    includes: SeccompFilter = SeccompFilter()
    excludes: SeccompFilter = SeccompFilter()


class SeccompArch(Document, frozen=True):
    """Containers-common: the architectures that come along with one."""

    architecture: str
    sub_architectures: tuple[str, ...] = ()


class Seccomp(Document, frozen=True, kw_only=True):
    """config-linux.md, "Seccomp", and the profile files of containers-common, which add `archMap`."""

    default_action: str
    default_errno_ret: int | None = None
    default_errno: str | None = None
    architectures: tuple[str, ...] = ()
    arch_map: tuple[SeccompArch, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: tuple[SeccompRule, ...] = ()


class Linux(Document, frozen=True, kw_only=True):
    """config-linux.md. `resources` is kept as it came; cgroups read what they know of it."""

    uid_mappings: tuple[IDMapping, ...] = ()
    gid_mappings: tuple[IDMapping, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    sysctl: dict[str, str] = {}
    cgroups_path: str | None = None
    resources: msgspec.Raw = msgspec.Raw(b"")
    rootfs_propagation: str | None = None
    seccomp: Seccomp | None = None
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str | None = None

    def namespace(self, kind: NamespaceType) -> Namespace | None:
        """The entry of one kind; None means that the container shares the caller's."""
        return next((entry for entry in self.namespaces if entry.type is kind), None)


class Spec(Document, frozen=True, kw_only=True):
    """A whole config.json."""

    oci_version: str = VERSION
    root: Root | None = None
    process: Process | None = None
    hostname: str | None = None
    domainname: str | None = None
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks = Hooks()
    annotations: dict[str, str] = {}
    linux: Linux = Linux()


class Status(Enum):
    """runtime.md, "State"."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"


class State(Document, frozen=True, kw_only=True):
    """runtime.md, "State": what `state` prints and hooks read."""

    oci_version: str = VERSION
    id: str
    status: Status
    pid: int = 0
    bundle: str
    annotations: dict[str, str] = {}


T = TypeVar("T", bound=Document)


def decode(raw: bytes, kind: type[T]) -> T:
    """Parse and validate. Raises msgspec.DecodeError (a ValueError) whose text names the field."""
    return msgspec.json.decode(raw, type=kind)


def encode(document: Document) -> bytes:
    """JSON, without indentation."""
    return msgspec.json.encode(document)
