"""Where things are, and what the user chose, read once from the environment."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import HostError, UsageError

STORAGE_DRIVERS = ("auto", "overlay", "packed", "fuse")


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths are absolute. `data` may be on a network file system; `runtime` is local to this node and boot."""

    data: str
    runtime: str
    home: str
    storage_driver: str = "auto"
    log_level: str = "warning"

    @property
    def containers(self) -> str:
        return f"{self.data}/containers"

    @property
    def volumes(self) -> str:
        return f"{self.data}/volumes"

    @property
    def live(self) -> str:
        """One directory for each container that a supervisor looks after: its lock and its control socket."""
        return f"{self.runtime}/containers"


def from_environment(environment: Mapping[str, str], *, root: str | None = None) -> Settings:
    """The settings of a user whose environment this is. Raises UsageError when no home directory is known."""
    home = environment.get("HOME") or ""
    if not home.startswith("/"):
        home = _home_of(int(environment.get("RCONTAIN_UID") or os.getuid()))
    data = root or _data_home(environment, home)
    driver = environment.get("RCONTAIN_STORAGE_DRIVER", "auto")
    if driver not in STORAGE_DRIVERS:
        raise UsageError(
            f"RCONTAIN_STORAGE_DRIVER={driver!r} is not a storage driver",
            hint=f"use one of {', '.join(STORAGE_DRIVERS)}",
        )
    return Settings(
        data=os.path.abspath(data), runtime=runtime_directory(environment), home=home, storage_driver=driver
    )


def _home_of(uid: int) -> str:
    """From the password file; `uid` is the one on the host."""
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        raise UsageError(
            f"there is no HOME variable, and user {uid} is not in the password file",
            hint="set HOME to your home directory",
        ) from None


def _data_home(environment: Mapping[str, str], home: str) -> str:
    base = environment.get("XDG_DATA_HOME", "")
    if not base.startswith("/"):
        base = f"{home}/.local/share"  # XDG Base Directory: a relative path is to be ignored
    return f"{base}/rcontain"


def runtime_directory(environment: Mapping[str, str]) -> str:
    """`$XDG_RUNTIME_DIR/rcontain`, or a directory of our own below /tmp that nobody else can have prepared.

    Raises HostError when the fallback exists and is not exclusively ours.
    """
    base = environment.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/") and os.access(base, os.W_OK | os.X_OK):
        path = f"{base}/rcontain"
    else:
        path = f"/tmp/rcontain-{environment.get('RCONTAIN_UID') or os.getuid()}"
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        _verify_private(path)
    except OSError as error:
        raise HostError(
            f"cannot create the runtime directory {path}: {error.strerror}",
            hint="set XDG_RUNTIME_DIR to a directory of yours",
        ) from error
    return path


def _verify_private(path: str) -> None:
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise HostError(
            f"the runtime directory {path} is not a directory that only you can use",
            hint="remove it, or set XDG_RUNTIME_DIR to a directory of yours with mode 0700",
        )
