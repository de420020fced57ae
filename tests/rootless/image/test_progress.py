"""What a pull prints."""

from __future__ import annotations

import io
import os
import pty

from rootless.image.progress import Bars, Lines, progress_for
from rootless.oci.digest import Digest

LAYER = Digest.of(b"")


def test_lines() -> None:
    out = io.StringIO()
    with progress_for(out) as progress:
        assert isinstance(progress, Lines)
        progress.message("Pulling x")
        progress.start(LAYER, 10)
        progress.advance(LAYER, 10)
        progress.finish(LAYER, "done")
    assert out.getvalue() == f"Pulling x\nLayer {LAYER.short} done\n"


def test_quiet() -> None:
    out = io.StringIO()
    with progress_for(out, quiet=True) as progress:
        progress.message("Pulling x")
        progress.finish(LAYER, "done")
    assert out.getvalue() == ""


def test_bars_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        with progress_for(terminal) as progress:
            assert isinstance(progress, Bars)
            progress.message("Pulling [x]")
            progress.start(LAYER, 10)
            progress.advance(LAYER, 10)
            progress.finish(LAYER, "done")
        terminal.flush()
        shown = b""
        while b"\x1b[?25h" not in shown:
            shown += os.read(ours, 100_000)
    os.close(ours)
    assert b"Pulling [x]" in shown and LAYER.short.encode() in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h")  # the cursor is back
