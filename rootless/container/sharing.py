"""A network that is there already: another container's, or the namespace at a path.

namespaces(7): entering a network namespace takes power over the user namespace that owns it. A container's is below
the engine's; and a container whose ids are mapped like the other's shares its user namespace too, so that its root has
the same power over the network as the other's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from .. import syscalls
from ..errors import ContainerError, HostError
from ..oci.runtime import NamespaceType
from ..settings import Settings
from ..syscalls import Clone
from . import control
from .containers import Container, Containers
from .control import NotAlive
from .record import Network, Record

_NS_GET_USERNS = 0xB701  # ioctl_ns(2)
_NS_GET_NSTYPE = 0xB703
_FILES = ("hosts", "resolv.conf")
_LOW_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


class Shared(msgspec.Struct, frozen=True):
    """`joined` are paths of open namespaces, good for this process and its children while they are open. `files` are
    the other container's own, by their names in /etc. `is_host` is for a container that has the host's network."""

    joined: dict[NamespaceType, str] = {}
    files: dict[str, str] = {}
    is_host: bool = False


NOTHING = Shared()


def find(settings: Settings, name: str) -> Record:
    """The container whose network is to be shared. Raises ContainerError."""
    try:
        return Containers(settings).find(name).record()
    except ContainerError as error:
        raise ContainerError(f"cannot share the network of a container: {error.message}", hint=error.hint) from None


@contextmanager
def entered(container: Container, record: Record) -> Iterator[Shared]:
    """Keeps open what the container shares. Raises ContainerError, HostError."""
    network = record.network
    if network.mode not in ("container", "ns"):
        yield NOTHING
        return
    fds: dict[NamespaceType, int] = {}
    try:
        if network.mode == "ns":
            fds[NamespaceType.NETWORK] = _open(network.target)
            yield Shared(joined=_paths(fds))
        else:
            yield _of_container(container.settings, record, fds)
    finally:
        for fd in fds.values():
            os.close(fd)


def _paths(fds: dict[NamespaceType, int]) -> dict[NamespaceType, str]:
    return {kind: f"/proc/self/fd/{fd}" for kind, fd in fds.items()}


def _of_container(settings: Settings, record: Record, fds: dict[NamespaceType, int]) -> Shared:
    theirs = find(settings, record.network.target)
    other = Container(settings, theirs.id)
    try:
        pidfd, *spaces = control.join(other)
    except NotAlive:
        raise ContainerError(
            f"cannot share the network of container {theirs.name}: it is not running",
            hint=f"start it with: rcontain start {theirs.name}",
        ) from None
    try:
        kinds = {} if theirs.network.mode == "host" else {NamespaceType.NETWORK: "net"}
        if kinds and (record.uid_map, record.gid_map) == (theirs.uid_map, theirs.gid_map):
            kinds[NamespaceType.USER] = "user"
        pid = other.state().pid
        for kind, name in kinds.items():
            fds[kind] = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        if kinds and NamespaceType.USER not in kinds:
            _open_low_ports(fds[NamespaceType.NETWORK])
        signal.pidfd_send_signal(pidfd, 0)  # it has not made place for another process of that number
    except OSError as error:
        raise ContainerError(
            f"cannot share the network of container {theirs.name}: {error.strerror}",
            hint="see whether it has just ended with: rcontain ps -a",
        ) from error
    finally:
        for fd in (pidfd, *spaces):
            os.close(fd)
    paths = {name: f"{(owner(settings, record.network) or other).live}/{name}" for name in _FILES}
    return Shared(
        joined=_paths(fds),
        files={name: path for name, path in paths.items() if os.path.exists(path)},
        is_host=theirs.network.mode == "host",
    )


def _open_low_ports(namespace: int) -> None:
    """Lets everybody in a network namespace bind ports below 1024: whose user namespace is another than the one that
    it belongs to has no capability there, though its own root may expect so. Nothing is lost where that fails."""
    child = os.fork()
    if not child:
        try:
            syscalls.setns(namespace, Clone.NEWNET)
            with open(_LOW_PORTS, "w", encoding="ascii") as file:
                file.write("0")
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostError(f"cannot open the network namespace {path}: {error.strerror}") from error
    try:
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) != Clone.NEWNET:
            raise HostError(f"{path} is a namespace, but not of a network", hint="name one such as /proc/PID/ns/net")
        os.close(fcntl.ioctl(fd, _NS_GET_USERNS))
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EPERM:
            raise HostError(
                f"cannot enter the network namespace {path}: it belongs to another user namespace than yours here",
                hint="one that a container of rcontain has can be entered",
            ) from None
        raise HostError(f"{path} is not a namespace", hint="name one such as /proc/PID/ns/net") from None
    except HostError:
        os.close(fd)
        raise
    return fd


def dependents(containers: Containers, container: Container) -> list[Container]:
    """The containers that have the network of this one, without those that have theirs."""
    found = []
    for other in containers:
        try:
            network = other.record().network
        except (ContainerError, FileNotFoundError):
            continue  # it has just been removed
        if network.mode == "container" and network.target == container.id:
            found.append(other)
    return found


def owner(settings: Settings, network: Network) -> Container | None:
    """The container whose network this one has, through others if need be; None for a network of its own, and where
    that container is gone."""
    found = None
    try:
        while network.mode == "container":  # each was there before the one that names it: there is an end
            found = Containers(settings).find(network.target)
            network = found.record().network
    except (ContainerError, FileNotFoundError):
        return None
    return found
