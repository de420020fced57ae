"""docs/man/rcontain.1.md is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from .conftest import CommandLine

PAGE = Path(__file__).parents[3] / "docs/man/rcontain.1.md"


def test_the_page_is_in_step_with_the_commands(cli: CommandLine) -> None:
    manual = cli("help", "--all").out
    for heading in ("## CONTAINERS", "## IMAGES", "### rcontain run\n", "### rcontain engine stop\n", "## EXIT STATUS"):
        assert heading in manual
    assert PAGE.read_text(encoding="utf-8") == manual, "make it anew: rcontain help --all > docs/man/rcontain.1.md"
