"""From config.json to the plan: pure. Nothing here looks at the machine; `HostFacts` says what it is like.

The order of the steps is the order in which the kernel allows them:

1. Sources of bind mounts are taken with the caller's id, before the child becomes root of its user namespace.
2. The root filesystem, the mounts in config.json's order, devices, masked and read-only paths, kernel parameters.
3. pivot_root, then the process: session, terminal, limits, bounding set, user, working directory, command.
4. After the message START: capabilities, no_new_privs, the seccomp filter and execve. Without no_new_privs the filter
   needs CAP_SYS_ADMIN, so it goes before the capabilities and stays in force over them.
"""

from __future__ import annotations

import posixpath
from typing import Final

import msgspec

from rootless.errors import UsageError
from rootless.oci.runtime import Capabilities, Linux, Mount, NamespaceType, Process, Spec
from rootless.runtime import capabilities, steps
from rootless.runtime.idmap import IdMap, IdMaps
from rootless.runtime.mounts import parse_options, without_unmapped_group
from rootless.runtime.rootdir import normalize
from rootless.runtime.steps import Plan, Program, Step
from rootless.syscalls import Clone, MountAttr, MountFlag

NODES: Final = ("null", "zero", "full", "random", "urandom", "tty")
"""config-linux.md, "Default Devices"."""

LINKS: Final = (
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
    ("dev/core", "/proc/kcore"),
    ("dev/ptmx", "pts/ptmx"),
)

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CLONE: Final = {
    NamespaceType.PID: Clone.NEWPID,
    NamespaceType.NETWORK: Clone.NEWNET,
    NamespaceType.MOUNT: Clone.NEWNS,
    NamespaceType.IPC: Clone.NEWIPC,
    NamespaceType.UTS: Clone.NEWUTS,
    NamespaceType.USER: Clone.NEWUSER,
    NamespaceType.CGROUP: Clone.NEWCGROUP,
    NamespaceType.TIME: Clone.NEWTIME,
}

_SYSCTL_NAMESPACE: Final = (
    ("net.", NamespaceType.NETWORK),
    ("fs.mqueue.", NamespaceType.IPC),
    ("kernel.msg", NamespaceType.IPC),
    ("kernel.sem", NamespaceType.IPC),
    ("kernel.shm", NamespaceType.IPC),
    ("kernel.hostname", NamespaceType.UTS),
    ("kernel.domainname", NamespaceType.UTS),
)

_HOST_IPC: Final = ("/dev/mqueue", "/dev/shm")
"""Bound where the container shares the host's ipc namespace; not every host has them."""

_FALLBACK: Final = {"sysfs": "/sys", "cgroup": "/sys/fs/cgroup", "cgroup2": "/sys/fs/cgroup"}


class HostFacts(msgspec.Struct, frozen=True):
    """What the plan depends on; `facts.read` finds it out."""

    last_capability: int
    cgroup_mounted: bool
    can_set_groups: bool


def new_namespaces(linux: Linux) -> Clone:
    """The flags of the namespaces to make."""
    kinds = Clone(0)
    for entry in linux.namespaces:
        if not entry.path:
            kinds |= CLONE[entry.type]
    return kinds


class _Compiler:
    """Collects the steps of one plan."""

    def __init__(self, spec: Spec, rootfs: str, ids: IdMaps | None, facts: HostFacts) -> None:
        self.spec, self.rootfs, self.ids, self.facts = spec, rootfs, ids, facts
        self.early: list[Step] = []
        self.steps: list[Step] = []
        self.late: list[Step] = []
        self.slots: dict[tuple[str, bool], int] = {}
        self.next_slot = 0

    def take(
        self, path: str, recursive: bool, what: str = "bind source", *, shared: bool = False, optional: bool = False
    ) -> int:
        """A slot for a mount tree; a `shared` one is copied, not used up, by the steps that attach it."""
        key = (path, recursive)
        if shared and key in self.slots:
            return self.slots[key]
        slot = self.next_slot
        self.next_slot += 1
        self.early.append(steps.TakeTree(slot, path, recursive, what, optional))
        if shared:
            self.slots[key] = slot
        return slot

    def has(self, kind: NamespaceType) -> bool:
        return self.spec.linux.namespace(kind) is not None

    def group_is_mapped(self, gid: int) -> bool:
        return self.ids is None or gid in self.ids.gids

    def mount(self, mount: Mount) -> None:
        options = parse_options(mount.options)
        target = normalize(mount.destination)
        if mount.type in ("bind", "rbind") or options.bind:
            if not mount.source:
                raise UsageError(f"the bind mount on {mount.destination} has no source")
            shares_host = mount.source == target and target in _HOST_IPC
            slot = self.take(mount.source, options.recursive or mount.type == "rbind", optional=shares_host)
            set_, clear = options.attributes
            self.steps.append(
                steps.AttachTree(
                    slot,
                    target,
                    mount.source,
                    set_,
                    clear,
                    options.set_recursive,
                    options.clear_recursive,
                    options.propagation,
                )
            )
            return
        fstype = mount.type or "none"
        data, flags, copy_up = options.data, options.flags, options.copy_up
        if fstype == "devpts":
            gid = next((option[4:] for option in data if option.startswith("gid=")), "")
            data = without_unmapped_group(data, gid.isdigit() and self.group_is_mapped(int(gid)))
        read_only_later = fstype == "tmpfs" and bool(flags & MountFlag.RDONLY) and (copy_up or target == "/dev")
        if read_only_later:
            flags &= ~MountFlag.RDONLY
        fallback = _FALLBACK.get(fstype)
        is_cgroup = fstype in ("cgroup", "cgroup2")
        self.steps.append(
            steps.MountFilesystem(
                "cgroup2" if is_cgroup else fstype,
                mount.source or fstype,
                target,
                flags,
                ",".join(data),
                copy_up and fstype == "tmpfs",
                fallback,
                is_cgroup and not self.facts.cgroup_mounted,
            )
        )
        if options.set_recursive & MountAttr.RDONLY or read_only_later:
            self.late.append(steps.ReadOnly(target))

    def devices(self) -> None:
        device_mount = next((m for m in self.spec.mounts if normalize(m.destination) == "/dev"), None)
        if device_mount is not None and (device_mount.type == "bind" or parse_options(device_mount.options).bind):
            return  # the host's own /dev, complete as it is
        taken = {normalize(mount.destination) for mount in self.spec.mounts}
        nodes = tuple((f"dev/{name}", self.take(f"/dev/{name}", False, "device", shared=True)) for name in NODES)
        self.steps.append(
            steps.Devices(
                tuple(node for node in nodes if "/" + node[0] not in taken),
                tuple(link for link in LINKS if "/" + link[0] not in taken),
            )
        )
        for device in self.spec.linux.devices:
            path = normalize(device.path)
            if path not in {f"/dev/{name}" for name in (*NODES, "ptmx", "console")}:
                self.steps.append(steps.Device(self.take(device.path, False, "device"), path))

    def sysctls(self) -> None:
        for key, value in self.spec.linux.sysctl.items():
            dotted = key.replace("/", ".")
            kind = next((kind for prefix, kind in _SYSCTL_NAMESPACE if dotted.startswith(prefix)), None)
            if kind is None or ".." in key:
                raise UsageError(f"the kernel parameter {key} is not one of a container's own namespaces")
            if not self.has(kind):
                raise UsageError(f"the kernel parameter {key} would change the host: the {kind.value} namespace is its")
            self.steps.append(steps.Sysctl(key, value))

    def filesystem(self) -> None:
        linux = self.spec.linux
        root = self.take(self.rootfs, True, "root filesystem")
        for mount in self.spec.mounts:
            self.mount(mount)
        self.devices()
        if linux.masked_paths:
            null = self.take("/dev/null", False, "device", shared=True)
            self.steps.extend(steps.Mask(path, null) for path in dict.fromkeys(linux.masked_paths))
        self.steps.extend(steps.ReadOnly(path) for path in dict.fromkeys(linux.readonly_paths))
        self.steps.extend(self.late)
        self.sysctls()
        self.early.append(steps.AttachRoot(root, self.rootfs))


def compile(
    spec: Spec,
    *,
    rootfs: str,
    facts: HostFacts,
    ids: IdMaps | None = None,
    seccomp: Program | None = None,
    die_with_parent: bool = True,
    reaper: bool = False,
    make_cwd: bool = False,
) -> Plan:
    """The steps that make the container of `spec` over the directory `rootfs`.

    `ids` are the maps of its own user namespace, None where it shares the caller's. Raises UsageError for a
    config.json that contradicts itself.
    """
    compiler = _Compiler(spec, rootfs, ids, facts)
    linux, process = spec.linux, spec.process
    mount_namespace = linux.namespace(NamespaceType.MOUNT)
    if mount_namespace is None or mount_namespace.path:
        raise UsageError("a container without a mount namespace of its own is not supported")
    compiler.filesystem()
    early: list[Step] = []
    if ids is None:
        early.append(steps.Propagation(MountFlag.SLAVE | MountFlag.REC))
    early.extend(compiler.early)
    if ids is not None and 0 in ids.uids and 0 in ids.gids:
        early.append(steps.BecomeRoot())
    middle = compiler.steps
    middle.append(steps.Keyring())
    if compiler.has(NamespaceType.UTS) and (spec.hostname is not None or spec.domainname is not None):
        middle.append(steps.Names(spec.hostname, spec.domainname))
    network = linux.namespace(NamespaceType.NETWORK)
    if network is not None and not network.path:
        middle.append(steps.Loopback())
    terminal = process is not None and process.terminal
    middle.append(steps.Session())
    if terminal and process is not None:
        middle.append(steps.Terminal("dev/pts/ptmx", "dev/console", process.console_size))
    middle.extend(steps.RunHook(hook, "createContainer") for hook in spec.hooks.create_container)
    if spec.root is not None and spec.root.readonly:
        middle.append(steps.RestrictRoot())
    middle.append(steps.Pivot(_propagation(linux.rootfs_propagation)))
    if process is None:
        return Plan((*early, *middle), ())
    create, start = _process(
        process, facts, ids, seccomp=seccomp, die_with_parent=die_with_parent, reaper=reaper, make_cwd=make_cwd
    )
    hooks = tuple(steps.RunHook(hook, "startContainer") for hook in spec.hooks.start_container)
    return Plan((*early, *middle, *create), (*hooks, *start))


def compile_exec(
    process: Process,
    *,
    facts: HostFacts,
    ids: IdMaps | None = None,
    seccomp: Program | None = None,
    die_with_parent: bool = True,
) -> Plan:
    """The steps of a process that has joined a running container's namespaces; `ids` are the container's maps."""
    head: list[Step] = [steps.BecomeRoot()] if ids is not None and 0 in ids.uids and 0 in ids.gids else []
    head += [steps.Keyring(), steps.Session()]
    if process.terminal:
        head.append(steps.Terminal("dev/pts/ptmx", None, process.console_size))
    create, start = _process(process, facts, ids, seccomp=seccomp, die_with_parent=die_with_parent)
    return Plan((*head, *create), tuple(start))


def _propagation(name: str | None) -> MountFlag:
    if not name:
        return MountFlag.NONE
    found = parse_options((name,)).propagation
    if not found:
        raise UsageError(f"rootfsPropagation {name!r} is not a mount propagation")
    return found[0]


def environment(process: Process) -> tuple[str, ...]:
    """The process's environment; HOME is left to whoever wrote config.json."""
    for entry in process.env:
        if "=" not in entry or entry.startswith("="):
            raise UsageError(f"the environment entry {entry!r} is not NAME=VALUE")
    return process.env


def _check_mapped(number: int, ids: IdMap, what: str) -> None:
    if number not in ids:
        raise UsageError(
            f"the command is to run with {what} id {number}, which is not among the container's {ids.size} ids",
            hint="run it as another user, or ask for more subordinate ids in /etc/subuid and /etc/subgid",
        )


def _process(
    process: Process,
    facts: HostFacts,
    ids: IdMaps | None,
    *,
    seccomp: Program | None,
    die_with_parent: bool,
    reaper: bool = False,
    make_cwd: bool = False,
) -> tuple[list[Step], list[Step]]:
    """The steps that turn the child into the process: those before the message Created, and those after START."""
    if not process.args or not process.args[0]:
        raise UsageError("config.json names no command")
    if not posixpath.isabs(process.cwd):
        raise UsageError(f"the working directory {process.cwd!r} is not absolute")
    env = environment(process)
    sets = process.capabilities or Capabilities()
    every = (1 << facts.last_capability + 1) - 1
    bounding = capabilities.mask(sets.bounding)
    permitted = capabilities.mask(sets.permitted) & every
    effective = capabilities.mask(sets.effective) & permitted
    inheritable = capabilities.mask(sets.inheritable) & every
    ambient = capabilities.mask(sets.ambient) & permitted & inheritable
    early_filter = seccomp is not None and not process.no_new_privileges
    held = capabilities.SYS_ADMIN if early_filter else 0
    user = process.user
    groups = user.additional_gids
    if ids is not None:
        _check_mapped(user.uid, ids.uids, "user")
        _check_mapped(user.gid, ids.gids, "group")
        # An image's /etc/group may list the user in groups that this container does not have.
        groups = tuple(gid for gid in groups if gid in ids.gids)

    create: list[Step] = []
    if process.oom_score_adj is not None:
        create.append(steps.OomScore(process.oom_score_adj))
    if process.rlimits:
        create.append(steps.Limits(process.rlimits))
    drop = tuple(number for number in range(facts.last_capability + 1) if not bounding >> number & 1)
    if drop:
        create.append(steps.BoundingSet(drop))
    if make_cwd:
        create.append(steps.Directory(process.cwd, True))
    create.append(
        steps.Become(
            user.uid,
            user.gid,
            groups,
            facts.can_set_groups,
            user.umask,
            effective | held,
            permitted | held,
            inheritable,
        )
    )
    if not make_cwd:
        create.append(steps.Directory(process.cwd, False))
    path = next((entry[5:] for entry in env if entry.startswith("PATH=")), DEFAULT_PATH)
    create.append(steps.LookUp(process.args[0], path))

    final = steps.SetCapabilities(
        effective, permitted, inheritable, tuple(n for n in range(facts.last_capability + 1) if ambient >> n & 1)
    )
    start: list[Step] = []
    if early_filter and seccomp is not None:
        start.append(steps.Filter(seccomp))
    start.append(final)
    if process.no_new_privileges:
        start.append(steps.NoNewPrivileges())
    if die_with_parent:
        start.append(steps.DieWithParent())
    if seccomp is not None and not early_filter:
        start.append(steps.Filter(seccomp))
    if reaper:
        start.append(steps.Reaper())
    start.append(steps.Execute(process.args, env))
    return create, start
