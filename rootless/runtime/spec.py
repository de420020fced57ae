"""The config.json of a container as rootless Podman makes it: pure.

`default_spec` takes what the engine has decided (ids, namespaces, command, mounts); what differs between a namespace
of its own and one that is shared is decided here: who shares the host's network or pid namespace cannot mount sysfs
or proc and gets the host's, bound read-only where that is possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rootless.oci.runtime import (
    Capabilities,
    Device,
    Hooks,
    Linux,
    Mount,
    Namespace,
    NamespaceType,
    Process,
    Rlimit,
    Root,
    Seccomp,
    Spec,
    User,
)
from rootless.runtime import capabilities
from rootless.runtime.idmap import IdMaps
from rootless.runtime.plan import DEFAULT_PATH
from rootless.runtime.rootdir import normalize

SHM_SIZE: Final = 65536000
"""Bytes; Podman's default."""

MASKED: Final = (
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
READONLY: Final = ("/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

ROOT_USER: Final = User()
NO_HOOKS: Final = Hooks()

INIT: Final = "/run/.rcontain-init"
"""Where the host's init program is in a container that was asked for one."""

NEW: Final = frozenset(
    {
        NamespaceType.PID,
        NamespaceType.NETWORK,
        NamespaceType.IPC,
        NamespaceType.UTS,
        NamespaceType.MOUNT,
        NamespaceType.CGROUP,
        NamespaceType.USER,
    }
)
"""The namespaces that a container has of its own unless told otherwise."""


def namespaces(
    *, new: frozenset[NamespaceType] = NEW, joined: Mapping[NamespaceType, str] | None = None
) -> tuple[Namespace, ...]:
    """The list for config.json: those to make, and those to join by path. The others are the host's."""
    paths = joined or {}
    return tuple(Namespace(type=kind, path=paths.get(kind)) for kind in NamespaceType if kind in new or kind in paths)


def default_mounts(
    *, owned: frozenset[NamespaceType], gid_5_mapped: bool, shm_size: int = SHM_SIZE, systemd: bool = False
) -> tuple[Mount, ...]:
    """The mounts of every container. `owned` are the namespaces that its own user namespace owns."""
    hidden = ("nosuid", "noexec", "nodev")
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *(("gid=5",) if gid_5_mapped else ()))
    return (
        Mount(destination="/proc", type="proc", source="proc", options=hidden)
        if NamespaceType.PID in owned
        else Mount(destination="/proc", type="bind", source="/proc", options=("rbind", "rslave", *hidden)),
        Mount(
            destination="/dev",
            type="tmpfs",
            source="tmpfs",
            options=("nosuid", "noexec", "strictatime", "mode=755", "size=65536k"),
        ),
        Mount(destination="/sys", type="sysfs", source="sysfs", options=(*hidden, "ro"))
        if NamespaceType.NETWORK in owned
        else Mount(destination="/sys", type="bind", source="/sys", options=("rbind", "rslave", "rro", *hidden)),
        Mount(destination="/dev/pts", type="devpts", source="devpts", options=pts),
        Mount(destination="/dev/mqueue", type="mqueue", source="mqueue", options=hidden)
        if NamespaceType.IPC in owned
        else Mount(destination="/dev/mqueue", type="bind", source="/dev/mqueue", options=("bind", *hidden)),
        Mount(destination="/dev/shm", type="tmpfs", source="shm", options=(*hidden, "mode=1777", f"size={shm_size}"))
        if NamespaceType.IPC in owned
        else Mount(destination="/dev/shm", type="bind", source="/dev/shm", options=("rbind", *hidden)),
        *(
            (
                Mount(
                    destination="/sys/fs/cgroup",
                    type="cgroup",
                    source="cgroup",
                    options=(*hidden, "relatime", "rw" if systemd else "ro"),
                ),
            )
            if NamespaceType.CGROUP in owned and NamespaceType.NETWORK in owned
            else ()
        ),
    )


def merge_mounts(defaults: Sequence[Mount], mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    """The user's mounts after the defaults, shallow ones first; one on a default's destination takes its place."""
    wanted = {normalize(mount.destination) for mount in mounts}
    kept = [mount for mount in defaults if normalize(mount.destination) not in wanted]
    gone = {normalize(mount.destination) for mount in defaults} & wanted
    # What a replaced /dev or /sys held is not mounted into the user's own.
    kept = [
        mount
        for mount in kept
        if not any(normalize(mount.destination).startswith(place + "/") for place in gone if place in ("/dev", "/sys"))
    ]
    return (*kept, *sorted(mounts, key=lambda mount: normalize(mount.destination).rstrip("/").count("/")))


def default_spec(
    *,
    args: Sequence[str],
    env: Mapping[str, str] | Sequence[str],
    ids: IdMaps | None,
    rootfs: str = "rootfs",
    cwd: str = "/",
    user: User = ROOT_USER,
    hostname: str | None = None,
    terminal: bool = False,
    readonly_rootfs: bool = False,
    mounts: Sequence[Mount] = (),
    cap_add: Sequence[str] = (),
    cap_drop: Sequence[str] = (),
    privileged: bool = False,
    no_new_privileges: bool = False,
    seccomp: Seccomp | None = None,
    rlimits: Sequence[Rlimit] = (),
    new: frozenset[NamespaceType] = NEW,
    joined: Mapping[NamespaceType, str] | None = None,
    devices: Sequence[Device] = (),
    sysctl: Mapping[str, str] | None = None,
    shm_size: int = SHM_SIZE,
    unmask: Sequence[str] = (),
    mask: Sequence[str] = (),
    oom_score_adj: int | None = None,
    annotations: Mapping[str, str] | None = None,
    hooks: Hooks = NO_HOOKS,
    init: str | None = None,
    last_capability: int = len(capabilities.NAMES) - 1,
) -> Spec:
    """The specification of a container.

    `ids` are its id maps in E ids, None where it shares the caller's user namespace. `seccomp` is a resolved profile
    (seccomp.default_for), None for no filter. `init` is a static init program of the host (facts.find_init) to run the
    command under. `new` and `joined` say which namespaces it has. `env` is complete but
    for PATH, HOSTNAME and `container`, which are added where missing. `unmask` takes paths, or "ALL".
    Raises UsageError.
    """
    if init is not None:
        args = (INIT, "--", *args)
        mounts = (*mounts, Mount(destination=INIT, type="bind", source=init, options=("bind", "ro", "nosuid", "nodev")))
    # Who joins a container's user namespace joins its other namespaces with power over them.
    shares_user = NamespaceType.USER in (joined or {})
    owned = new | frozenset(joined or ()) if shares_user else new
    if privileged:
        chosen = capabilities.select(("ALL",), cap_drop, last=last_capability)
        added = chosen
    else:
        chosen = capabilities.select(cap_add, cap_drop, last=last_capability)
        added = tuple(name for name in chosen if _is_named(name, cap_add))
    sets: Capabilities = capabilities.for_user(chosen, root=user.uid == 0, added=added)
    hidden = privileged or "ALL" in (path.upper() for path in unmask)
    open_paths = {normalize(path) for path in unmask}
    pings = ids is None or 0 in ids.gids  # the kernel refuses a range of groups that are not mapped
    defaults = default_mounts(
        owned=owned, gid_5_mapped=ids is None or 5 in ids.gids, shm_size=shm_size, systemd=privileged
    )
    return Spec(
        root=Root(path=rootfs, readonly=readonly_rootfs),
        process=Process(
            terminal=terminal,
            user=user,
            args=tuple(args),
            env=environment(env, hostname, terminal=terminal),
            cwd=cwd,
            capabilities=sets,
            rlimits=tuple(rlimits),
            no_new_privileges=no_new_privileges,
            oom_score_adj=oom_score_adj,
        ),
        hostname=hostname if NamespaceType.UTS in new else None,
        mounts=merge_mounts(defaults, mounts),
        hooks=hooks,
        annotations=dict(annotations or {}),
        linux=Linux(
            uid_mappings=ids.uids.to_spec() if ids is not None else (),
            gid_mappings=ids.gids.to_spec() if ids is not None else (),
            namespaces=namespaces(new=new if ids is not None else new - {NamespaceType.USER}, joined=joined),
            devices=tuple(devices),
            sysctl={
                **({"net.ipv4.ping_group_range": "0 0"} if NamespaceType.NETWORK in new and pings else {}),
                **(sysctl or {}),
            },
            seccomp=None if privileged else seccomp,
            masked_paths=tuple(
                path for path in (*(() if hidden else MASKED), *mask) if normalize(path) not in open_paths
            ),
            readonly_paths=() if hidden else tuple(path for path in READONLY if path not in open_paths),
        ),
    )


def _is_named(name: str, names: Sequence[str]) -> bool:
    upper = {entry.strip().upper() for entry in names}
    return "ALL" in upper or name in upper or name.removeprefix("CAP_") in upper


def environment(
    env: Mapping[str, str] | Sequence[str], hostname: str | None, *, terminal: bool = False
) -> tuple[str, ...]:
    """The environment as NAME=VALUE, with Podman's additions where they are missing."""
    pairs = dict(env) if isinstance(env, Mapping) else dict(entry.partition("=")[::2] for entry in env)
    pairs.setdefault("PATH", DEFAULT_PATH)
    if terminal:
        pairs.setdefault("TERM", "xterm")
    pairs.setdefault("container", "rcontain")
    if hostname is not None:
        pairs.setdefault("HOSTNAME", hostname)
    return tuple(f"{name}={value}" for name, value in pairs.items())
