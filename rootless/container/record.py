"""What is known of a container: how it was made (Record) and what became of it (State)."""

from __future__ import annotations

import msgspec

from .options import CreateOptions, Link, Published


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """`mode` is user, none, host, container or ns; `target` the id of the container or the path of the namespace."""

    mode: str
    target: str = ""
    host_loopback: bool = False
    """The gateway's address leads to the host's 127.0.0.1, and not only to its other addresses."""
    link: Link = Link()
    published: tuple[Published, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    add_hosts: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As --network takes it."""
        return f"{self.mode}:{self.target}" if self.target else self.mode


class MountPoint(msgspec.Struct, frozen=True, kw_only=True):
    """A mount that the user asked for, as `inspect` shows it."""

    type: str
    source: str
    destination: str
    options: tuple[str, ...] = ()
    name: str = ""


class RecordedLayer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of the image, as image.model.Layer, so that a start need not read the image's documents again."""

    diff_id: str
    blob: str
    media_type: str
    size: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a container was created with. Times are RFC 3339 with nanoseconds, in UTC."""

    id: str
    name: str
    created: str
    image_id: str
    image_name: str
    image_digest: str
    layers: tuple[RecordedLayer, ...]
    """Bottom first."""
    command: tuple[str, ...]
    entrypoint: tuple[str, ...]
    hostname: str
    storage_driver: str
    uid_map: tuple[tuple[int, int, int], ...]
    gid_map: tuple[tuple[int, int, int], ...]
    user_namespace: str
    network: Network
    options: CreateOptions
    """What was asked for; the fields above are what came of it and of the image."""
    environment: tuple[str, ...] = ()
    working_directory: str = "/"
    exposed_ports: tuple[str, ...] = ()
    mounts: tuple[MountPoint, ...] = ()
    labels: dict[str, str] = {}
    user: str = ""
    terminal: bool = False
    open_stdin: bool = False
    init: bool = False
    remove: bool = False
    read_only: bool = False
    stop_signal: int = 15
    stop_timeout: int = 10
    shm_size: int = 65536000
    create_command: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a container. `status` is Podman's: created, running, stopping, exited."""

    status: str
    pid: int = 0
    pid_start: int = 0
    boot_id: str = ""
    supervisor: int = 0
    started_at: str = ""
    finished_at: str = ""
    exit_code: int = 0
    error: str = ""
    published: tuple[Published, ...] | None = None
    """The ports as they are bound, with the numbers that the kernel chose; None before the first start."""
    warnings: tuple[str, ...] = ()
    """What the network's process had to say, oldest first."""
