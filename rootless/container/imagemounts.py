"""Images that are mounted where their user sees them: $XDG_RUNTIME_DIR/rcontain/mounts/<store>/<image id>/

    rootfs        the mount point
    server        the pid of the process that looks after the mount; its lock is held as long as that lives
    mount.json    the image, its names, how often it has been mounted; there once the mount answers

The process is no child of ours (fuse/layermount.py), and outlives the command and the engine. It clears the directory
away when the mount goes. What is left of one that was killed is found here.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass

import msgspec

from ..errors import HostError
from ..image.lock import FileLock
from ..image.newfile import new_file
from ..settings import Settings
from . import lock

_SERVER = "server"
_STATE = "mount.json"
_POINT = "rootfs"
_PATIENCE = 10.0  # seconds for a server to leave; it has nothing to write


class MountState(msgspec.Struct, frozen=True, kw_only=True):
    """What mount.json says."""

    image: str
    """The image's id."""
    names: tuple[str, ...]
    mountpoint: str
    pid: int
    count: int
    """How many `image unmount` it takes."""


@dataclass(frozen=True, slots=True)
class ImageMount:
    """One image's directory, whether it is mounted or not."""

    path: str

    @property
    def mountpoint(self) -> str:
        return f"{self.path}/{_POINT}"

    @property
    def is_alive(self) -> bool:
        """Whether somebody looks after it."""
        return lock.is_held(f"{self.path}/{_SERVER}")

    def state(self) -> MountState | None:
        """None where the mount is not, or not yet, or no longer there."""
        try:
            with open(f"{self.path}/{_STATE}", "rb") as file:
                return msgspec.json.decode(file.read(), type=MountState)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def prepare(self) -> None:
        """Makes the mount point."""
        try:
            os.makedirs(self.mountpoint, 0o700, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot make the mount point {self.mountpoint}: {error.strerror}") from error

    def record(self, image: str, names: tuple[str, ...], count: int) -> MountState:
        """Writes mount.json. Raises HostError where the mount has gone meanwhile, or there is no room."""
        state = MountState(image=image, names=names, mountpoint=self.mountpoint, pid=self._pid(), count=count)
        try:
            with new_file(f"{self.path}/{_STATE}", 0o600) as file:
                file.write(msgspec.json.encode(state))
        except FileNotFoundError:
            raise HostError(f"the mount at {self.mountpoint} has just been taken away", hint="try again") from None
        except OSError as error:
            raise HostError(f"cannot write {self.path}/{_STATE}: {error.strerror}") from error
        return state

    def end(self) -> None:
        """Has the mount taken away by the one who looks after it, and waits for that. HostError if it does not end."""
        deadline = time.monotonic() + _PATIENCE
        told = False
        while self.is_alive:
            pid = self._pid()
            if pid and not told:
                told = True
                try:
                    os.kill(pid, signal.SIGTERM)
                except ProcessLookupError:
                    pass  # it has just left
            if time.monotonic() > deadline:
                raise HostError(f"cannot unmount {self.mountpoint}: process {pid}, which serves it, does not end")
            time.sleep(0.01)
        self.discard()

    def discard(self) -> None:
        """Removes the directory of what is not mounted."""
        try:
            for name in os.listdir(self.path):
                (os.rmdir if name == _POINT else os.unlink)(f"{self.path}/{name}")
            os.rmdir(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError(
                f"cannot remove {self.path}: {error.strerror}",
                hint=f"if something is mounted there: fusermount3 -u -z {self.mountpoint}",
            ) from error

    def _pid(self) -> int:
        """0 where nobody has written it yet."""
        try:
            with open(f"{self.path}/{_SERVER}", "rb") as file:
                return int(file.read(20) or b"0")
        except (FileNotFoundError, ValueError):
            return 0


class ImageMounts:
    """Those of the images of one store."""

    def __init__(self, settings: Settings) -> None:
        # Several stores share a runtime directory, and an image's id is the same in all of them.
        store = hashlib.blake2s(os.fsencode(settings.data), digest_size=4).hexdigest()
        self.path = f"{settings.runtime}/mounts/{store}"

    def changing(self) -> FileLock:
        """To hold while a mount comes or goes."""
        os.makedirs(self.path, 0o700, exist_ok=True)
        return FileLock(f"{self.path}/lock")

    def of(self, image_id: str) -> ImageMount:
        return ImageMount(f"{self.path}/{image_id}")

    def all(self) -> list[ImageMount]:
        """Every directory, in the order of ids."""
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        return [ImageMount(f"{self.path}/{name}") for name in names if name != "lock"]

    def mounted(self) -> dict[str, MountState]:
        """What is mounted now, by the image's id."""
        states = [(one, one.state()) for one in self.all()]
        return {state.image: state for one, state in states if state is not None and one.is_alive}


def mounted_ids(settings: Settings) -> frozenset[str]:
    """The ids of the images that are mounted."""
    return frozenset(ImageMounts(settings).mounted())
