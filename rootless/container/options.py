"""What the user asked for when making a container: the flags of `run` and `create`, parsed and checked."""

from __future__ import annotations

import msgspec


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One port of the host that leads into the container; with `path`, a socket of AF_UNIX there."""

    host_ip: str
    host_port: int
    container_port: int
    protocol: str
    path: str = ""


class Link(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user-mode network's end in the container, and what leaves it on the host's side. "" means: as it comes.

    `outbound` is a host's address to send from, or the name of the host's interface; `outbound6` the same for IPv6.
    `egress` are rules (netns.egress) in the order typed, `pcap` the absolute path of a capture.
    """

    mtu: int = 65520
    cidr: str = "10.0.2.0/24"
    ipv6: bool = True
    interface: str = "tap0"
    mac: str = ""
    outbound: str = ""
    outbound6: str = ""
    egress: tuple[str, ...] = ()
    pcap: str = ""


class MountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One -v, --mount or --tmpfs. `type` is bind, volume or tmpfs; an empty `source` of a volume makes it anonymous.

    `options` are mount options as in config.json (ro, nosuid, rprivate, size=64m ...). `copy` fills a new volume from
    the image. `chown` gives the source to the container's user (Podman's U).
    """

    type: str
    source: str
    destination: str
    options: tuple[str, ...] = ()
    copy: bool = True
    chown: bool = False


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One --ulimit. `name` is the kernel's, RLIMIT_NOFILE; -1 means unlimited."""

    name: str
    soft: int
    hard: int


class CreateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`None` means: as the image says."""

    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    name: str = ""
    interactive: bool = False
    terminal: bool = False
    remove: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    mounts: tuple[MountRequest, ...] = ()
    working_directory: str | None = None
    user: str | None = None
    groups: tuple[str, ...] = ()
    hostname: str = ""
    read_only: bool = False
    read_only_tmpfs: bool = True
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp_profile: str = ""  # "", "unconfined", or a path
    ignore_chown_errors: bool = False
    masks: tuple[str, ...] = ()
    unmasks: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    publish_all: bool = False
    network: str = "user"
    network_target: str = ""  # with the network `container` whose, by name or id, with `ns` the path
    host_loopback: bool = False
    link: Link = Link()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    add_hosts: tuple[str, ...] = ()
    init: bool = False
    platform: str = ""
    layer_count: int | None = None  # so many from the bottom; negative: without so many from the top
    layer: str = ""  # the beginning of a single one's digest
    pull: str = "missing"
    user_namespace: str = "host"
    stop_signal: int | None = None
    stop_timeout: int = 10
    labels: tuple[tuple[str, str], ...] = ()
    limits: tuple[Limit, ...] = ()
    shm_size: int = 65536000
    quiet: bool = False
    storage_driver: str = "auto"
    create_command: tuple[str, ...] = ()
