"""What `rcontain-oci` remembers of its containers between commands: one directory each below `--root`.

    <root>/<id>/record.json     who and where it is
    <root>/<id>/config.json     the specification that it was made from
    <root>/<id>/start           the socket that its first process waits at until `start`

Nothing trusts a pid alone: a record names the process's start time too, so another process of that number is not it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket

import msgspec

from rootless.errors import ContainerError, HostError, UsageError
from rootless.oci.runtime import Spec, State, Status, decode, encode
from rootless.processes import process_state
from rootless.runtime.idmap import IdMaps

_ID = re.compile(r"[A-Za-z0-9_+.\-]+")


class Record(msgspec.Struct, frozen=True):
    """record.json. `start_time` is in clock ticks since boot, field 22 of proc_pid_stat(5)."""

    id: str
    pid: int
    start_time: int
    bundle: str
    rootfs: str
    created: str
    ids: IdMaps | None
    started: bool = False


def default_root() -> str:
    """Where containers are remembered unless --root says otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0 and not runtime:
        return "/run/rcontain-oci"
    if not runtime:
        raise HostError("XDG_RUNTIME_DIR is not set", hint="set it, or name a directory with --root")
    return f"{runtime}/rcontain/oci"


class Ledger:
    """The directory of all containers."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"Ledger({self.root!r})"

    def path(self, container: str, name: str = "") -> str:
        """A path of one container. Raises UsageError for what is no id."""
        if not _ID.fullmatch(container) or container in (".", "..") or len(container) > 1024:
            raise UsageError(f"{container!r} is not a container id", hint="use letters, digits and _+-.")
        return f"{self.root}/{container}/{name}".rstrip("/")

    def claim(self, container: str, spec: bytes) -> None:
        """Make the container's directory. Raises ContainerError where the id is in use."""
        directory = self.path(container)
        os.makedirs(self.root, 0o700, exist_ok=True)
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            raise ContainerError(f"the container {container} exists already") from None
        with open(f"{directory}/config.json", "wb") as file:
            file.write(spec)

    def write(self, record: Record) -> None:
        """Save a record, whole or not at all."""
        path = self.path(record.id, "record.json")
        with open(path + ".new", "wb") as file:
            file.write(msgspec.json.encode(record))
        os.rename(path + ".new", path)

    def read(self, container: str) -> Record:
        """Raises ContainerError where there is no such container."""
        try:
            with open(self.path(container, "record.json"), "rb") as file:
                return msgspec.json.decode(file.read(), type=Record)
        except FileNotFoundError:
            raise ContainerError(f"the container {container} does not exist") from None
        except msgspec.DecodeError as error:
            raise ContainerError(f"the record of the container {container} is damaged: {error}") from error

    def spec(self, container: str) -> Spec:
        """The specification that the container was made from."""
        with open(self.path(container, "config.json"), "rb") as file:
            return decode(file.read(), Spec)

    def forget(self, container: str) -> None:
        """Remove the container's directory; none is no error."""
        shutil.rmtree(self.path(container), ignore_errors=True)

    def containers(self) -> list[str]:
        """The ids of all containers."""
        try:
            return sorted(name for name in os.listdir(self.root) if os.path.exists(f"{self.root}/{name}/record.json"))
        except FileNotFoundError:
            return []

    def listen(self, container: str) -> socket.socket:
        """The socket that `start` will connect to. The name may be longer than a socket's address."""
        gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directory = os.open(self.path(container), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            gate.bind(f"/proc/self/fd/{directory}/start")
            gate.listen(1)
        finally:
            os.close(directory)
        return gate

    def connect(self, container: str) -> socket.socket:
        """Reach the first process that waits for `start`. Raises ContainerError where none does."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directory = os.open(self.path(container), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            channel.connect(f"/proc/self/fd/{directory}/start")
        except (ConnectionRefusedError, FileNotFoundError):
            channel.close()
            raise ContainerError(f"the container {container} is not waiting to be started") from None
        finally:
            os.close(directory)
        return channel


def status(record: Record) -> Status:
    """What became of the container."""
    found = process_state(record.pid)
    if found is None or found.ended or found.start_time != record.start_time:
        return Status.STOPPED
    return Status.RUNNING if record.started else Status.CREATED


def state(record: Record, spec: Spec) -> State:
    """The document that `state` prints and hooks read."""
    now = status(record)
    return State(
        id=record.id,
        status=now,
        pid=record.pid if now is not Status.STOPPED else 0,
        bundle=record.bundle,
        annotations=spec.annotations,
    )


def state_json(record: Record, spec: Spec) -> bytes:
    """`state` with runc's additions: rootfs, created, owner."""
    document = msgspec.to_builtins(msgspec.json.decode(encode(state(record, spec))))
    document |= {"ociVersion": spec.oci_version, "rootfs": record.rootfs, "created": record.created, "owner": ""}
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def open_first_process(record: Record) -> int | None:
    """A pidfd of the container's first process, or None where it has ended."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    if status(record) is Status.STOPPED:
        os.close(pidfd)
        return None
    return pidfd
