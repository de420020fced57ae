"""Keeping the interpreter that runs us out of reach of containers that could write to it.

A container's command may be `#!/proc/self/exe`: then execve runs this process's own program once more, inside the
container, and from there its file can be opened for writing (CVE-2019-5736). That fails for a program that the user
may not write, as /usr/bin/python3. Where the user may (an interpreter in a home directory; root), `protect` starts the
program again from a sealed copy in memory.

Standard library only: this runs before anything else is imported.
"""

from __future__ import annotations

import fcntl
import os
import sys
from typing import Final

_OWN: Final = "/proc/self/exe"
_NAME: Final = "rcontain-interpreter"
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def is_protected() -> bool:
    """Whether this process's program cannot be written by its user."""
    return os.readlink(_OWN).startswith(f"/memfd:{_NAME}") or not os.access(_OWN, os.W_OK, effective_ids=True)


def protect() -> None:
    """Where needed, execute this same command again from a sealed copy of the interpreter (memfd_create(2)).

    Returns where nothing is to be done. Raises OSError. To be called first thing, with one thread.
    """
    if is_protected():
        return
    copy = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(_OWN, "rb") as own:
        left = os.fstat(own.fileno()).st_size
        while left > 0:
            left -= os.sendfile(copy, own.fileno(), None, left)
    os.fchmod(copy, 0o555)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(copy, sys.orig_argv, os.environ)
