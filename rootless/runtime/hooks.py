"""Hooks: programs that config.json wants run at points of the life cycle (config.md, "POSIX-platform Hooks")."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterable

from rootless.errors import ContainerError
from rootless.oci.runtime import Hook, State, encode

_SHOWN = 500
"""Characters of a failed hook's error output that are shown."""


def execute(hook: Hook, state: bytes) -> None:
    """Run one hook here, with `state` on its standard input. Raises OSError that says how it failed."""
    try:
        done = subprocess.run(
            hook.args or (hook.path,),
            executable=hook.path,
            env=dict(entry.split("=", 1) for entry in hook.env if "=" in entry),
            input=state,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=hook.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"it did not end within {hook.timeout} s") from error
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()[-_SHOWN:]
        raise OSError(errno.EIO, f"it ended with status {done.returncode}" + (f": {text}" if text else ""))


def run(hooks: Iterable[Hook], kind: str, state: State) -> None:
    """Run hooks of the runtime's namespaces in order. Raises ContainerError at the first that fails."""
    for hook in hooks:
        try:
            execute(hook, encode(state))
        except OSError as error:
            raise ContainerError(f"cannot run the {kind} hook {hook.path}: {error.strerror}") from error
