"""rcontain save."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .conftest import HELLO, NAME, CommandLine


def test_names_and_formats(cli: CommandLine, tmp_path: Path) -> None:
    cli.images()
    for format_ in ("docker-archive", "oci-archive", "oci-dir", "docker-dir"):
        out = tmp_path / format_
        assert cli("save", "--format", format_, "-o", str(out), NAME).code == 0
        listing = subprocess.run(["tar", "-tf", out], capture_output=True, text=True).stdout.split()
        names = set(listing) if out.is_file() else set(os.listdir(out))
        assert names & {"manifest.json", "index.json"}
    assert (tmp_path / "docker-dir/version").read_text() == "Directory Transport Version: 1.1\n"
    assert cli("save", "-m", "-o", str(tmp_path / "two.tar"), NAME, HELLO).code == 0


def test_what_is_wrong(cli: CommandLine, tmp_path: Path) -> None:
    cli.images()
    for words, said in (
        ((NAME, "--format", "oci-dir"), "name it with -o"),
        (("-o", str(tmp_path), NAME), "is a directory"),
        (("-o", str(tmp_path / "x"), "nothing"), "no image"),
        (("-o", str(tmp_path / "x"), "--format", "docker-dir", NAME, HELLO), "holds one image"),
        (("-o", str(tmp_path / "x"), "--format", "zip", NAME), "zip"),
        (("-o", str(tmp_path / "x")), "IMAGE"),
    ):
        result = cli("save", *words)
        assert result.code == 125 and said in result.err
    assert os.listdir(tmp_path) == [] or "x" not in os.listdir(tmp_path)
