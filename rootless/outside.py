"""What only a process outside of the engine's namespaces can do: mount where the user sees it.

The session asks its client (request.OUTSIDE), and this is the client's side: it runs one program, ours, with the words
that came. Imported by the client when it is asked, so: the standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys

_PROGRAM = "import sys; sys.path.insert(0, {home!r}); from fuse.layermount import main; sys.exit(main())"


def run(words: list[str]) -> tuple[int, bytes]:
    """`fuse.layermount` with these words, until it returns: its exit status and what it had to say."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM.format(home=home), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        return 1, f"{sys.executable} cannot be started: {error.strerror}".encode()
    return done.returncode & 0xFF, done.stdout.strip()
