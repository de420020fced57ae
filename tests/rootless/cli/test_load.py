"""rcontain load."""

from __future__ import annotations

from pathlib import Path

from .conftest import NAME, CommandLine


def test_what_save_wrote(cli: CommandLine, tmp_path: Path) -> None:
    cli.images()
    path = str(tmp_path / "a.tar")
    assert cli("save", "-o", path, NAME).code == 0
    assert cli("rmi", "-f", NAME).code == 0
    result = cli("--storage-driver", "fuse", "load", "-i", path)
    assert (result.code, result.out) == (0, f"Loaded image: {NAME}\n")
    assert cli("image", "load", "-q", "-i", path).err == ""


def test_what_is_wrong(cli: CommandLine, tmp_path: Path) -> None:
    cli.images()
    assert "cannot open" in cli("load", "-i", str(tmp_path / "missing")).err
    assert "neither an image layout" in cli("load", "-i", str(tmp_path)).err
    (tmp_path / "text").write_text("text")
    assert cli("load", "-i", str(tmp_path / "text")).code == 125
