"""Completion: click's protocol through main.run, and the scripts in real shells."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from .conftest import RUNNING, CommandLine


def complete(cli: CommandLine, line: str) -> list[str]:
    """What the bash script gets for a line with the cursor at its end."""
    result = cli(env={"_RCONTAIN_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": ""})
    assert (result.code, result.err) == (0, "")
    return [word.partition(",")[2] for word in result.out.splitlines()]


@pytest.fixture
def full(cli: CommandLine) -> CommandLine:
    cli.images()
    cli.container("web", RUNNING, alive=True)
    cli.container("worker")
    return cli


def test_verbs_and_flags(full: CommandLine) -> None:
    assert complete(full, "rcontain im") == ["import", "images", "image"]
    assert {"ls", "logs"} <= set(complete(full, "rcontain container l"))
    assert complete(full, "rcontain ps --no-") == ["--no-trunc"]
    assert complete(full, "rcontain --storage-driver ") == ["auto", "overlay", "packed", "fuse"]
    assert complete(full, "rcontain completion ") == ["bash", "zsh", "fish"]


def test_names(full: CommandLine) -> None:
    assert sorted(complete(full, "rcontain logs w")) == ["web", "worker"]
    assert complete(full, "rcontain inspect wo") == ["worker"]
    assert complete(full, "rcontain rmi hel") == ["hello:latest"]
    assert complete(full, "rcontain rmi registry.example.org/team/demo:") == ["1"]
    assert complete(full, "rcontain run --rm -it hel") == ["hello:latest"]
    assert complete(full, "rcontain exec -it wo") == ["worker"]
    assert complete(full, "rcontain container rm wo") == ["worker"]
    assert complete(full, "rcontain --root /nowhere logs w") == []
    assert complete(full, "rcontain run --network container:wo") == ["worker"]


def test_files_are_the_shells_business(full: CommandLine) -> None:
    line = {"_RCONTAIN_COMPLETE": "bash_complete", "COMP_WORDS": "rcontain run --env-file ", "COMP_CWORD": ""}
    assert full(env=line).out == "file,\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rcontain run -v ", ["file,"]),
        ("rcontain run -v /srv:", []),
        ("rcontain --root ", ["dir,"]),
        ("rcontain run --network n", ["plain,none", "plain,ns:"]),
        ("rcontain run --egress d", ["plain,deny", "plain,deny="]),
        ("rcontain run --userns k", ["plain,keep-id"]),
        ("rcontain run --cap-add CAP_NET_R", ["plain,CAP_NET_RAW"]),
        ("rcontain kill -s HU", ["plain,HUP"]),
        ("rcontain help ru", ["plain,run"]),
        ("rcontain help image unt", ["plain,untag"]),
        ("rcontain help run ", []),
        ("rcontain help nosuch ", []),
    ],
)
def test_words_that_are_known_beforehand(full: CommandLine, line: str, expected: list[str]) -> None:
    asked = {"_RCONTAIN_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": ""}
    assert full(env=asked).out.splitlines() == expected


def test_nonsense_completes_to_nothing(full: CommandLine) -> None:
    for line in ("", "rcontain bogus x", "rcontain ps --format '", "rcontain --bogus ", "rcontain help x y "):
        complete(full, line)
    assert full(env={"_RCONTAIN_COMPLETE": "tcsh_complete"}).code == 1
    assert full(env={"_RCONTAIN_COMPLETE": "bash"}).code == 1


def test_clicks_own_protocol(full: CommandLine) -> None:
    words = {"COMP_WORDS": "rcontain logs we", "COMP_CWORD": "2"}
    assert full(env={"_RCONTAIN_COMPLETE": "bash_complete", **words}).out == "plain,web\n"
    told = full(env={"_RCONTAIN_COMPLETE": "zsh_complete", **words}).out
    assert told == "plain\nweb\nregistry.example.org/team/demo:1 (running)\n"
    fish = {"COMP_WORDS": "rcontain logs we", "COMP_CWORD": "we"}
    assert full(env={"_RCONTAIN_COMPLETE": "fish_complete", **fish}).out.startswith("plain,web\t")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(cli: CommandLine, shell: str) -> None:
    text = cli("completion", shell).out
    assert f"_RCONTAIN_COMPLETE={shell}_complete" in text
    assert cli(env={"_RCONTAIN_COMPLETE": f"{shell}_source"}).out == text


def test_in_bash(cli: CommandLine, tmp_path: Path) -> None:
    """The script in a real bash, with a stand-in for rcontain that answers for an image name with a colon."""
    bash = shutil.which("bash")
    assert bash, "bash is an essential package of Debian"
    (tmp_path / "rcontain").write_text('#!/bin/sh\nprintf "plain,%s\\n" "[$COMP_WORDS]" "$_RCONTAIN_COMPLETE x y"\n')
    (tmp_path / "rcontain").chmod(0o755)
    (tmp_path / "script").write_text(cli("completion", "bash").out)
    typed = textwrap.dedent("""\
        source "$1/script"
        COMP_LINE="rcontain rmi localhost/a:1 more" COMP_POINT=26
        _rcontain_completion "$1/rcontain"
        printf '%s\\n' "${COMPREPLY[@]}"
        complete -p rcontain
    """)
    done = subprocess.run(
        [bash, "--norc", "-c", typed, "bash", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "[rcontain rmi localhost/a:1]",
        "bash_complete x y",
        "complete -o nosort -F _rcontain_completion rcontain",
    ]
