"""Named volumes: directories that outlive containers.

<data>/volumes/<name>/_data       what the container sees
<data>/volumes/<name>/anonymous   there for a volume that goes with its container
<data>/volumes/<name>/filled      there once the image's content has been copied in, or was not wanted
"""

from __future__ import annotations

import os
import shutil

from .. import syscalls
from ..errors import HostError
from ..image.removal import remove_tree
from ..settings import Settings


class Volume:
    """One volume; `path` is its content."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.name = name
        self._base = f"{settings.volumes}/{name}"
        self.path = f"{self._base}/_data"

    def ensure(self, *, anonymous: bool) -> None:
        """Makes it unless it is there."""
        try:
            os.makedirs(self.path, mode=0o755, exist_ok=True)
            if anonymous:
                self._mark("anonymous")
        except OSError as error:
            raise HostError(f"cannot create the volume {self.name} at {self._base}: {error.strerror}") from error

    @property
    def is_anonymous(self) -> bool:
        return os.path.exists(f"{self._base}/anonymous")

    def fill(self, rootfs: str, destination: str) -> None:
        """Copies what the image has at `destination` into a volume that is new, owners and modes included."""
        if os.path.exists(f"{self._base}/filled") or os.listdir(self.path):
            return
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            inside = destination.lstrip("/")
            source = syscalls.openat2(root, inside, os.O_PATH | os.O_DIRECTORY, resolve=syscalls.Resolve.IN_ROOT)
        except (FileNotFoundError, NotADirectoryError):
            self._mark("filled")
            return
        finally:
            os.close(root)
        try:
            origin = f"/proc/self/fd/{source}"
            shutil.copytree(origin, self.path, symlinks=True, dirs_exist_ok=True, copy_function=_copy_with_owner)
            for directory, names, _ in os.walk(self.path):
                relative = os.path.relpath(directory, self.path)
                _copy_owner(os.path.join(origin, relative), directory)
                for name in names:
                    path = os.path.join(directory, name)
                    if os.path.islink(path):
                        _copy_owner(os.path.join(origin, relative, name), path)
        except (OSError, shutil.Error) as error:
            raise HostError(f"cannot fill the volume {self.name} from the image's {destination}: {error}") from error
        finally:
            os.close(source)
        self._mark("filled")

    def remove(self) -> None:
        remove_tree(self._base)

    def _mark(self, name: str) -> None:
        with open(f"{self._base}/{name}", "wb"):
            pass


def chown_tree(path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid, follow_symlinks=False)
    for directory, names, files in os.walk(path):
        for name in names + files:
            os.chown(os.path.join(directory, name), uid, gid, follow_symlinks=False)


def _copy_with_owner(source: str, target: str) -> str:
    shutil.copy2(source, target, follow_symlinks=False)
    _copy_owner(source, target)
    return target


def _copy_owner(source: str, target: str) -> None:
    status = os.lstat(source) if os.path.islink(source) and not source.startswith("/proc/self/fd/") else os.stat(source)
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not os.path.islink(target):
        os.chmod(target, status.st_mode & 0o7777)
