"""Finding a container's command in its $PATH, and executing it."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from rootless import syscalls
from rootless.runtime import steps
from rootless.runtime.context import Context, Refused
from rootless.runtime.messages import Fault
from rootless.syscalls import CloseRange


def _own_program() -> tuple[int, int]:
    found = os.stat("/proc/self/exe")
    return found.st_dev, found.st_ino


_OWN_PROGRAM: Final = _own_program()


def look_up(context: Context, step: steps.LookUp) -> None:
    if "/" in step.name:
        context.executable = _checked(step.name, step.name)
        return
    refused: Refused | None = None
    for directory in step.path.split(":"):
        path = f"{directory or '.'}/{step.name}"
        try:
            context.executable = _checked(path, step.name)
            return
        except Refused as error:
            if error.fault is Fault.NOT_RUNNABLE and refused is None:
                refused = error
    raise refused or Refused(
        Fault.NOT_FOUND, f"executable file `{step.name}` not found in $PATH: No such file or directory", errno.ENOENT
    )


def _checked(path: str, name: str) -> str:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise Refused(Fault.NOT_FOUND, f"executable file `{name}` not found: No such file or directory", 2) from None
    except OSError as error:
        raise Refused(Fault.NOT_RUNNABLE, f"cannot reach `{path}`: {error.strerror}", error.errno or 0) from None
    if (found.st_dev, found.st_ino) == _OWN_PROGRAM:
        raise Refused(Fault.NOT_RUNNABLE, f"`{path}` is the container engine's own program", errno.EACCES)
    if not stat.S_ISREG(found.st_mode):
        raise Refused(Fault.NOT_RUNNABLE, f"the path `{path}` is not a regular file: Permission denied", errno.EACCES)
    if not os.access(path, os.X_OK, effective_ids=True):
        raise Refused(Fault.NOT_RUNNABLE, f"the path `{path}` is not executable: Permission denied", errno.EACCES)
    return path


def execute(context: Context, step: steps.Execute) -> None:
    # Past the channel nothing is open that execve would keep; this catches what a step may have left.
    syscalls.close_range(context.first_closed, flags=CloseRange.CLOEXEC)
    try:
        os.execve(context.executable, step.args, _environment(step.env))
    except OSError as error:
        if error.errno == errno.ENOENT:
            why = f"exec `{context.executable}`: its interpreter is missing: No such file or directory"
            raise Refused(Fault.NOT_FOUND, why, errno.ENOENT) from None
        raise Refused(Fault.NOT_RUNNABLE, f"exec `{context.executable}`: {error.strerror}", error.errno or 0) from None


def _environment(entries: tuple[str, ...]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in entries)
