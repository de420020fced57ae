"""The sentence at the end of a command that fails."""

from __future__ import annotations

from rootless.cli.failure import explain
from rootless.errors import ImageError


def test_hostile_names_do_not_reach_the_terminal() -> None:
    error = ImageError("the file \x1b]0;title\x07 in a layer\nis \u202ebackwards", hint="look at \x9b2J")
    text, code = explain(ExceptionGroup("tasks", [error, ImageError("caf\u00e9 \udcff")]))
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text and "\x9b" not in text
    assert text.split("\n")[0] == "Error: the file \\x1b]0;title\\x07 in a layer"
    assert text.endswith("Error: caf\u00e9 \udcff")
    assert code == 125
