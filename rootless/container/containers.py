"""A container on disk: what it was created with, what became of it, and who looks after it.

    <data>/containers/<id>/container.json   Record: written once, by create
                           upper/ work/     the writable layer
                           ctr.log          what it printed (logs.py)
                           state.json       State: how it ended last
                           config.json      the OCI configuration of its last start
    <data>/containers/names/<name>          symlink whose text is the id: taking a name is one atomic call
    <runtime>/containers/<id>/lock          held by the supervisor for as long as the container lives (lock.py)
                             /control       its socket (control.py)
                             /state.json    State while it lives
                             /config.json   the OCI configuration it runs with; hosts, resolv.conf ... that it names

What only a living container needs is in the runtime directory, which is in memory: making files is the greater part
of the work on the disk, and a container that is removed at its end has made six there. There is no database and no
lock over all containers, so parallel starts do not wait for each other.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from ..errors import ContainerError, HostError, UsageError
from ..settings import Settings
from . import debris, lock
from .record import Record, State

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
_ID = re.compile(r"[0-9a-f]{64}\Z")

T = TypeVar("T", bound=msgspec.Struct)


class Container:
    """One container directory. Cheap to make; reads its files when asked."""

    def __init__(self, settings: Settings, id: str) -> None:
        self.settings = settings
        self.id = id
        self.path = f"{settings.containers}/{id}"
        self.live = f"{settings.live}/{id}"
        self.claim: int | None = None
        """The descriptor of its lock between its creation and its start, when both are one command (claim.py)."""

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    @property
    def log_path(self) -> str:
        return f"{self.path}/ctr.log"

    @property
    def control_path(self) -> str:
        return f"{self.live}/control"

    def record(self) -> Record:
        """Raises ContainerError when the container is gone or its record is damaged."""
        return _read(f"{self.path}/container.json", Record, self.id)

    def is_alive(self) -> bool:
        """Whether a supervisor looks after it now."""
        return lock.is_held(f"{self.live}/lock")

    @property
    def config_path(self) -> str:
        """config.json: of the container as it runs, or of its last start."""
        live = f"{self.live}/config.json"
        return live if os.path.exists(live) else f"{self.path}/config.json"

    def state(self) -> State:
        """The state as it truly is: a container whose supervisor has gone is not running, whatever its file says."""
        live = self.live_state()
        if live is not None and self.is_alive():
            return live
        last = self.last_state()  # read after the question above: the supervisor writes it before it leaves
        if live is not None and (last is None or last.started_at != live.started_at):
            return msgspec.structs.replace(live, status="exited", pid=0, exit_code=137)
        return last or State(status="created")

    def live_state(self) -> State | None:
        """What the supervisor says, or said before it died; None when there is none."""
        try:
            return _read(f"{self.live}/state.json", State, self.id)
        except FileNotFoundError:
            return None

    def last_state(self) -> State | None:
        """How it ended last; None before its first end."""
        try:
            return _read(f"{self.path}/state.json", State, self.id)
        except FileNotFoundError:
            return None

    def write_live_state(self, state: State) -> None:
        self.write_live("state.json", msgspec.json.encode(state))

    def write_last_state(self, state: State) -> None:
        _write(f"{self.path}/state.json", msgspec.json.encode(state))

    def write_live(self, name: str, content: bytes) -> str:
        """Writes a file that lives as long as the supervisor, and returns its path."""
        path = f"{self.live}/{name}"
        _write(path, content)
        return path

    def keep_config(self) -> None:
        """Keeps the configuration of a start that is over, for `inspect`."""
        try:
            with open(f"{self.live}/config.json", "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return  # it did not come that far
        _write(f"{self.path}/config.json", content)

    def forget_live(self) -> None:
        """Removes what only a living container needs."""
        debris.discard(self.live)

    def end_life(self, *, mount: str) -> None:
        """As `forget_live`, for a supervisor, which has a root filesystem mounted in there."""
        debris.discard_afterwards(self.live, mount=mount)

    def forget(self, *, mount: str | None = None) -> None:
        """Removes everything of a container that is not alive.

        With `mount` it is its supervisor that asks, see `end_life`; what takes time is done afterwards then. What only
        a living container has goes last: when that is there and nobody holds its lock, the next command goes on with
        this (sweep.py).
        """
        try:
            name = self.record().name
        except (ContainerError, FileNotFoundError):
            name = ""  # damaged: its name is free for whoever wants it (Containers._take_name)
        (debris.discard if mount is None else debris.discard_afterwards)(self.path)
        if name:
            _release_name(self.settings, name, self.id)
        if mount is None:
            self.forget_live()
        else:
            self.end_life(mount=mount)


class Containers:
    """All containers of one store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def create(self, record: Record, *, claim: Callable[[Container], int] | None = None) -> Container:
        """Makes the container's directory and takes its name. Raises ContainerError when the name is in use.

        `claim` takes the claim to look after it first, so that there is never a container to be run at once that
        nobody looks after: when its maker dies, sweep knows that it was to be removed.
        """
        container = Container(self.settings, record.id)
        if claim is not None:
            container.claim = claim(container)
        fresh = debris.fresh(self.settings.containers, record.id)
        try:
            os.makedirs(f"{self.settings.containers}/names", mode=0o700, exist_ok=True)
            for directory in (fresh, f"{fresh}/upper", f"{fresh}/work"):
                os.mkdir(directory, 0o755)
            with open(f"{fresh}/container.json", "wb") as file:
                file.write(msgspec.json.encode(record))
            os.rename(fresh, container.path)
            self._take_name(record.name, record.id)
        except BaseException as error:
            debris.discard(fresh)
            container.forget()
            if container.claim is not None:
                os.close(container.claim)
            if isinstance(error, OSError):
                raise HostError(f"cannot make the container's directory {container.path}: {error.strerror}") from error
            raise
        return container

    def _take_name(self, name: str, id: str) -> None:
        link = f"{self.settings.containers}/names/{name}"
        while True:
            try:
                os.symlink(id, link)
                return
            except FileExistsError:
                try:
                    owner = os.readlink(link)
                except FileNotFoundError:
                    continue
                if not os.path.isdir(f"{self.settings.containers}/{owner}"):
                    # The container was removed and its remover killed before it gave the name back.
                    _release_name(self.settings, name, owner)
                    continue
                raise _name_in_use(name, owner) from None

    def clear_up(self) -> None:
        """Removes what killed commands left: unfinished directories, names of containers that are gone."""
        debris.clear(self.settings.containers)
        names = f"{self.settings.containers}/names"
        try:
            for name in os.listdir(names):
                owner = os.readlink(f"{names}/{name}")
                if not os.path.isdir(f"{self.settings.containers}/{owner}"):
                    _release_name(self.settings, name, owner)
        except FileNotFoundError:
            return  # there never was a container, or another command is doing the same

    def check_name_is_free(self, name: str) -> None:
        """Raises ContainerError when a container has the name now. Only `create` takes it for sure."""
        try:
            owner = os.readlink(f"{self.settings.containers}/names/{name}")
        except FileNotFoundError:
            return
        if os.path.isdir(f"{self.settings.containers}/{owner}"):
            raise _name_in_use(name, owner)

    def ids(self) -> list[str]:
        try:
            return sorted(filter(is_id, os.listdir(self.settings.containers)))
        except FileNotFoundError:
            return []

    def __iter__(self) -> Iterator[Container]:
        """Every container that has a record, oldest first."""
        found = []
        for id in self.ids():
            container = Container(self.settings, id)
            try:
                found.append((container.record().created, container))
            except (FileNotFoundError, ContainerError):
                continue  # being created or removed at this moment
        return iter([container for _, container in sorted(found, key=lambda pair: pair[0])])

    def find(self, text: str) -> Container:
        """By name, id, or an unambiguous beginning of an id. Raises ContainerError otherwise."""
        if _NAME.match(text):
            try:
                id = os.readlink(f"{self.settings.containers}/names/{text}")
                if os.path.isdir(f"{self.settings.containers}/{id}"):
                    return Container(self.settings, id)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG):
                    raise
        matches = [id for id in self.ids() if id.startswith(text)] if re.fullmatch(r"[0-9a-f]{1,64}", text) else []
        if len(matches) == 1:
            return Container(self.settings, matches[0])
        if matches:
            raise ContainerError(
                f'more than one container id begins with "{text}"', hint="give more of the id, or the container's name"
            )
        raise ContainerError(f'no container with name or ID "{text}" found: no such container')


def _release_name(settings: Settings, name: str, id: str) -> None:
    link = f"{settings.containers}/names/{name}"
    try:
        if os.readlink(link) == id:
            os.unlink(link)
    except FileNotFoundError:
        pass  # somebody was quicker


def _name_in_use(name: str, owner: str) -> ContainerError:
    return ContainerError(
        f'the container name "{name}" is already in use by {owner}',
        hint="remove that container, choose another --name, or use --replace",
    )


def is_id(text: str) -> bool:
    """Whether this is a whole container id."""
    return _ID.match(text) is not None


def new_id() -> str:
    return secrets.token_hex(32)


def check_name(name: str) -> str:
    """Raises UsageError unless `name` may be a container's name."""
    if not _NAME.match(name) or len(name) > 255:
        raise UsageError(
            f'the container name "{name}" is not valid',
            hint="names match [a-zA-Z0-9][a-zA-Z0-9_.-]* and are at most 255 long",
        )
    return name


def _read(path: str, type: type[T], id: str) -> T:
    with open(path, "rb") as file:
        content = file.read()
    try:
        return msgspec.json.decode(content, type=type)
    except msgspec.MsgspecError as error:
        raise ContainerError(
            f"the file {path} of container {id[:12]} is damaged: {error}",
            hint=f"remove it with: rcontain rm -f {id[:12]}",
        ) from error


def _write(path: str, content: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.rename(temporary, path)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error
