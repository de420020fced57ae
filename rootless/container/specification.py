"""From a container's record to the config.json of this start: what depends on the mounted image is decided here.

Users and groups are looked up in the image's own files, /etc/hosts and /etc/resolv.conf are written from the host's of
this moment, volumes are made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from msgspec import structs

from ..errors import CommandNotRunnable, HostError, UsageError
from ..oci import runtime as documents
from ..oci.runtime import Mount, NamespaceType, Rlimit, Seccomp, Spec
from ..runtime import capabilities, facts, seccomp
from ..runtime import spec as runtime_spec
from ..runtime.idmap import IdMap, IdMaps
from ..runtime.rootdir import RootDir
from ..runtime.user import Resolved, parse_group, parse_passwd, resolve_user
from . import etcfiles, network
from .containers import Container
from .record import MountPoint, Record
from .sharing import NOTHING, Shared
from .volumes import Volume, chown_tree

_UNLIMITED = 2**64 - 1
_ACCOUNTS_LIMIT = 16 << 20  # bytes of /etc/passwd or /etc/group


def ids_of(record: Record) -> IdMaps:
    """The container's id maps in E ids, in lines that the kernel takes here."""
    return IdMaps(IdMap.of(*record.uid_map), IdMap.of(*record.gid_map)).split_for(IdMaps.of_self())


def write(container: Container, record: Record, ids: IdMaps, rootfs: str, shared: Shared = NOTHING) -> Spec:
    """Makes the configuration and writes it into the bundle. Raises UsageError, ContainerError, HostError."""
    options = record.options
    with RootDir.at(rootfs) as root:
        try:
            found = resolve_user(root, record.user or _own_id(record), extra_groups=options.groups)
        except UsageError as error:
            raise CommandNotRunnable(error.message, hint=error.hint) from None  # as what Podman leaves with
        accounts = _accounts(container, record, root, found)
    user = structs.replace(
        found.user, additional_gids=tuple(dict.fromkeys((found.user.gid, *found.user.additional_gids)))
    )
    environment = dict(entry.partition("=")[::2] for entry in record.environment)
    environment.setdefault("HOME", found.home)
    is_host = record.network.mode == "host" or shared.is_host
    new = runtime_spec.NEW - ({NamespaceType.NETWORK} if is_host else frozenset()) - shared.joined.keys()
    last = facts.read().last_capability
    made = runtime_spec.default_spec(
        args=record.command,
        env=environment,
        ids=ids,
        rootfs=rootfs,
        cwd=record.working_directory,
        user=user,
        hostname=record.hostname,
        terminal=record.terminal,
        readonly_rootfs=record.read_only,
        mounts=(*_own_files(container, record, shared), *accounts, *_mounts(container, record, ids, user)),
        cap_add=options.cap_add,
        cap_drop=options.cap_drop,
        privileged=options.privileged,
        no_new_privileges=options.no_new_privileges,
        seccomp=_filter(record, last),
        rlimits=_limits(record),
        new=new,
        joined=shared.joined,
        shm_size=record.shm_size,
        mask=options.masks,
        unmask=options.unmasks,
        last_capability=last,
        init=facts.find_init() if record.init else None,
    )
    container.write_live("config.json", documents.encode(made))
    return made


def _own_id(record: Record) -> str:
    """With keep-id a container runs as its user unless told otherwise, as Podman's do."""
    if not record.user_namespace.startswith("keep-id"):
        return ""
    uid = next((line[0] for line in record.uid_map if line[1] == 0), 0)
    gid = next((line[0] for line in record.gid_map if line[1] == 0), 0)
    return f"{uid}:{gid}"


def _filter(record: Record, last: int) -> Seccomp | None:
    profile = _profile(record, last)
    only = _only_ids(record)
    if record.options.ignore_chown_errors and only is not None:
        return seccomp.ignoring_chown_errors(profile, *only)
    return profile


def _only_ids(record: Record) -> tuple[int, int] | None:
    """The user and the group of a container that has one of each."""
    if [size for *_, size in (*record.uid_map, *record.gid_map)] != [1, 1]:
        return None
    return record.uid_map[0][0], record.gid_map[0][0]


def _profile(record: Record, last: int) -> Seccomp | None:
    options = record.options
    if options.seccomp_profile == "unconfined" or options.privileged:
        return None
    chosen = frozenset(capabilities.select(options.cap_add, options.cap_drop, last=last))
    profile = None
    if options.seccomp_profile:
        try:
            with open(options.seccomp_profile, "rb") as file:
                profile = seccomp.parse_profile(file.read(4 << 20), options.seccomp_profile)
        except OSError as error:
            raise UsageError(f"cannot read the seccomp profile {options.seccomp_profile}: {error.strerror}") from None
    return seccomp.default_for(chosen, profile)


def _limits(record: Record) -> Sequence[Rlimit]:
    return [
        Rlimit(
            type=limit.name,
            soft=_UNLIMITED if limit.soft < 0 else limit.soft,
            hard=_UNLIMITED if limit.hard < 0 else limit.hard,
        )
        for limit in record.options.limits
    ]


def _own_files(container: Container, record: Record, shared: Shared) -> list[Mount]:
    """/etc/hosts, /etc/hostname and /etc/resolv.conf, unless the user mounts something there."""
    taken = {point.destination for point in record.mounts}
    if any(point.destination == "/etc" and "ro" in point.options for point in record.mounts):
        return []  # there is no place for them
    wanted, addresses = record.network, network.addresses(record.network)
    read = etcfiles.read_host_file
    contents = {
        "hosts": etcfiles.hosts(read("/etc/hosts"), wanted, addresses, hostname=record.hostname, name=record.name),
        "hostname": record.hostname + "\n",
        "resolv.conf": etcfiles.resolv_conf(read("/etc/resolv.conf"), wanted, addresses),
    }
    mounts = []
    for name, content in contents.items():
        if f"/etc/{name}" not in taken:
            source = shared.files.get(name) or container.write_live(name, content.encode())
            mounts.append(_bind(source, f"/etc/{name}", ("rprivate", "nosuid", "nodev", "noexec")))
    # How programs find out that they are in a container: Podman's file, with nothing in it.
    mounts.append(_bind(container.write_live("containerenv", b""), "/run/.containerenv", ("rprivate", "ro")))
    return mounts


def _accounts(container: Container, record: Record, root: RootDir, found: Resolved) -> list[Mount]:
    """/etc/passwd and /etc/group with a line for a user that the image does not know, as Podman adds it."""
    uid, gid = found.user.uid, found.user.gid
    taken = {point.destination for point in record.mounts}
    additions = []
    passwd, group = (root.read(path, _ACCOUNTS_LIMIT) for path in ("/etc/passwd", "/etc/group"))
    if passwd is not None and all(account.uid != uid for account in parse_passwd(passwd)):
        line = etcfiles.passwd_line(uid, gid, name=_account_name(record, uid), home=record.working_directory)
        additions.append(("passwd", passwd, line))
    if group is not None and gid != 0 and all(entry.gid != gid for entry in parse_group(group)):
        additions.append(("group", group, etcfiles.group_line(gid, name=_account_name(record, gid))))
    mounts = []
    for name, content, line in additions:
        if f"/etc/{name}" not in taken and "/etc" not in taken:
            separator = b"" if not content or content.endswith(b"\n") else b"\n"
            source = container.write_live(name, content + separator + line.encode())
            mounts.append(_bind(source, f"/etc/{name}", ("rprivate", "nosuid", "nodev", "noexec")))
    return mounts


def _account_name(record: Record, id: int) -> str:
    return os.environ.get("USER") or str(id) if record.user_namespace.startswith("keep-id") else str(id)


def _bind(source: str, destination: str, options: tuple[str, ...]) -> Mount:
    return Mount(destination=destination, type="bind", source=source, options=("rbind", *options))


def _mounts(container: Container, record: Record, ids: IdMaps, user: documents.User) -> list[Mount]:
    mounts = []
    for point in record.mounts:
        options = tuple(
            option for option in point.options if option not in ("nocopy", "anonymous", "U", "rw", "z", "Z")
        )
        if point.type == "tmpfs":
            mounts.append(Mount(destination=point.destination, type="tmpfs", source="tmpfs", options=options))
            continue
        source = point.source
        if point.type == "volume":
            source = Volume(container.settings, point.name).path
        elif not os.path.exists(source):
            raise HostError(f"cannot mount {source}: no such file or directory", hint="create it first")
        if "U" in point.options:
            _give_away(source, ids, user)
        if not {"rprivate", "private", "rshared", "shared", "rslave", "slave"} & set(options):
            options = ("rprivate", *options)
        mounts.append(_bind(source, point.destination, options))
    return mounts


def _give_away(source: str, ids: IdMaps, user: documents.User) -> None:
    uid, gid = ids.uids.outside(user.uid), ids.gids.outside(user.gid)
    if uid is None or gid is None:
        raise UsageError(f"cannot give {source} to user {user.uid}:{user.gid}: the container has no such id")
    try:
        chown_tree(source, uid, gid)
    except OSError as error:
        raise HostError(f"cannot give {source} to user {user.uid}:{user.gid}: {error.strerror}") from error


def ensure_volumes(container: Container, record: Record, rootfs: str) -> None:
    """Makes the volumes that are not there yet, and fills new ones from the image."""
    for point in record.mounts:
        if point.type == "volume":
            _ensure(container, point, rootfs)


def _ensure(container: Container, point: MountPoint, rootfs: str) -> None:
    volume = Volume(container.settings, point.name)
    volume.ensure(anonymous="anonymous" in point.options)
    if "nocopy" not in point.options:
        volume.fill(rootfs, point.destination)
