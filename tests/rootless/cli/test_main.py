"""Global flags, verbs, help, and how commands end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import click
import pytest

from rootless import __version__
from rootless.cli import main
from rootless.cli.command import Command, LazyGroup, Verb, as_click_reads
from rootless.cli.failure import explain
from rootless.errors import CommandNotFound, HostError, UsageError

from .conftest import CommandLine


def every_verb(group: LazyGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Verb]]:
    for name, verb in group.verbs.items():
        yield (*path, name), verb
        command = verb.load()
        if isinstance(command, LazyGroup):
            yield from every_verb(command, (*path, name))


def test_no_arguments_show_the_help(cli: CommandLine) -> None:
    result = cli()
    assert result.code == 0
    assert "Containers:\n  run " in result.out
    assert result.out == cli("--help").out


@pytest.mark.parametrize("path", [path for path, _ in every_verb(main.cli)], ids=" ".join)
def test_every_verb_has_help(cli: CommandLine, path: tuple[str, ...]) -> None:
    result = cli(*path, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: rcontain {' '.join(path)} ")
    assert cli("help", *path).out == result.out


def test_every_verb_is_told_in_a_line_with_examples() -> None:
    for path, verb in every_verb(main.cli):
        command = verb.load()
        short = command.get_short_help_str(limit=200)
        assert 5 < len(short) < 75, path
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert param.help, (path, param.name)
        if isinstance(command, Command):
            assert command.examples, path
            assert all(line.split()[0] in ("rcontain", "source") for line, _ in command.examples), path


def test_version(cli: CommandLine) -> None:
    assert cli("-v").out == f"rcontain version {__version__}\n"
    assert cli("--version").out == f"rcontain version {__version__}\n"
    assert cli.lines("version", "--format", "{{.Client.Version}}") == [__version__]
    assert cli.json("version", "-f", "json")["Client"]["Version"] == __version__


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pss"], "unrecognized command `rcontain pss`\n\nDid you mean this?\n\tps\n\nTry 'rcontain --help'"),
        (["container", "xyzzy"], "unrecognized command `rcontain container xyzzy`\nTry 'rcontain container --help'"),
        (["ps", "--quiett"], "unknown flag: --quiett; did you mean --quiet?\nSee 'rcontain ps --help'"),
        (["--bogus", "ps"], "unknown flag: --bogus\nSee 'rcontain --help'"),
        (["ps", "-y"], "unknown shorthand flag: -y\nSee"),
        (["ps", "--sort", "x"], "invalid argument for the \"--sort\" flag: 'x' is not one of"),
        (["ps", "--format"], "option '--format' requires an argument"),
        (["ps", "surplus"], "got unexpected extra argument (surplus)\nSee 'rcontain ps --help'"),
        (["container", "exists"], "missing argument: CONTAINER"),
        (["--storage-driver", "zfs", "ps"], 'invalid argument for the "--storage-driver" flag'),
        (["help", "ps", "x"], "`rcontain ps` has no command `x`"),
        (["logs"], "specify at least one container name or ID to log"),
        (["pull", "-a", "x:1"], "x:1 is not a repository on a registry"),
        (["pull", "UPPER/Case"], "is malformed"),
        (["run", "--ip", "10.0.2.7", "x"], "unknown flag: --ip\nSee 'rcontain run --help'"),
        (["pull", "--tls-verify=perhaps", "x"], "flag: 'perhaps' is neither true nor false"),
        (["stop", "-t", "soon", "x"], "invalid argument for the \"--time\" flag: 'soon' is not a whole number"),
        (["nosuch"], "unrecognized command `rcontain nosuch`\nTry 'rcontain --help'"),
    ],
)
def test_wrong_use_is_one_sentence_and_125(cli: CommandLine, argv: list[str], message: str) -> None:
    result = cli(*argv)
    assert result.code == 125
    assert result.out == ""
    assert result.err.startswith(f"Error: {message}") or message in result.err
    assert "Traceback" not in result.err


def test_a_noun_alone_shows_its_help(cli: CommandLine) -> None:
    assert cli("image").out.startswith("Usage: rcontain image ")


def test_root_and_driver_change_the_settings(cli: CommandLine) -> None:
    cli.container("one")
    assert cli.lines("ps", "-a", "--noheading", "--format", "{{.Names}}") == ["one"]
    assert cli.lines("--root", "elsewhere", "ps", "-aq") == []
    told = cli.json("--root", "elsewhere", "--storage-driver", "fuse", "info", "--format", "json")
    assert told["store"]["graphRoot"] == f"{cli.root}/elsewhere"
    assert told["store"]["graphDriverName"] == "fuse"


def test_info(cli: CommandLine) -> None:
    cli.images()
    cli.container("one")
    told = cli.json("--storage-driver", "fuse", "system", "info", "--format", "json")
    assert told["store"]["imageStore"] == {"number": 2}
    assert told["store"]["containerStore"]["stopped"] == 1
    assert told["host"]["kernel"] == os.uname().release
    text = cli("--storage-driver", "fuse", "info").out
    assert "  graphDriverName: fuse\n  graphDriverReason: asked for\n" in text
    assert cli.lines("--storage-driver", "fuse", "info", "-f", "{{.Host.Security.Rootless}}") in (["true"], ["false"])


class TestExplain:
    def test_an_error_of_ours(self) -> None:
        assert explain(CommandNotFound("no such command")) == ("Error: no such command", 127)
        assert explain(HostError("it is broken", hint="mend it")) == ("Error: it is broken; mend it", 125)

    def test_an_error_of_ours_in_a_group(self) -> None:
        group = BaseExceptionGroup("", [ValueError("echo"), ExceptionGroup("", [UsageError("cause")])])
        assert explain(group) == ("Error: cause", 125)

    def test_interrupts(self) -> None:
        assert explain(KeyboardInterrupt()) == ("", 130)
        assert explain(BaseExceptionGroup("", [KeyboardInterrupt(), UsageError("late")])) == ("", 130)
        terminated = KeyboardInterrupt()
        terminated.number = 15  # type: ignore[attr-defined]
        assert explain(terminated) == ("", 143)

    def test_a_closed_pipe_is_quiet(self) -> None:
        assert explain(BrokenPipeError(errno.EPIPE, "Broken pipe")) == ("", 141)

    def test_the_unexpected_is_a_sentence_and_a_traceback_on_request(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError("division by zero")

        with pytest.raises(ZeroDivisionError) as caught:
            fail()
        text, code = explain(caught.value)
        assert code == 125
        assert text.startswith("Error: unexpected ZeroDivisionError: division by zero; run the command with --log")
        text, _ = explain(caught.value, debug=True)
        assert text.startswith("Traceback")
        assert text.endswith("Error: unexpected ZeroDivisionError: division by zero")

    def test_an_operating_system_error_names_the_file(self) -> None:
        error = OSError(errno.ENOSPC, "No space left on device", "/srv/x")
        assert explain(error)[0].startswith("Error: /srv/x: No space left on device; free some space")
        assert explain(OSError(errno.EIO, ""))[0] == (
            "Error: Input/output error; run the command with --log-level debug to see where"
        )


def test_a_failing_command_says_so_and_shows_where_on_request(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("rootless.cli.ps.ps", broken)
    result = cli("ps")
    assert (result.code, result.out) == (125, "")
    assert result.err.count("\n") == 1
    result = cli("--log-level", "debug", "ps")
    assert "Traceback" in result.err
    assert result.err.endswith("Error: unexpected RuntimeError: a bug\n")


def test_the_exit_code_is_what_the_command_returns(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootless.cli.ps.ps", click.Command("ps", callback=lambda: 42))
    assert cli("ps").code == 42


def test_preload_imports_every_verb() -> None:
    main.preload()


BOOLEANS = click.Command(
    "x",
    params=[
        click.Option(["-d", "--detach"], is_flag=True),
        click.Option(["-e", "--env"]),
        click.Option(["--rm"], is_flag=True),
    ],
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--rm=true -d=false image", "--rm image"),
        ("-d=true -dd=false -de=true image", "-de=true image"),
        ("--rm=1 --env --rm=false image", "--rm --env --rm=false image"),
        ("-de --rm=true --rm=true", "-de --rm=true --rm"),
        ("--env=--rm=true --rm=maybe", "--env=--rm=true --rm=maybe"),
        ("image --rm=true", "image --rm=true"),
        ("-- --rm=true", "-- --rm=true"),
        ("-e", "-e"),
        ("", ""),
    ],
)
def test_go_booleans(words: str, expected: str) -> None:
    assert as_click_reads(BOOLEANS, words.split(), interspersed=False) == expected.split()


def test_go_booleans_of_flags_that_are_on_by_default() -> None:
    command = Command("x", params=[click.Option(["--all/--no-all"], default=True)])
    for words, expected in (("--all=false a", "--no-all a"), ("--all=true a", "--all a"), ("--all a", "--all a")):
        assert as_click_reads(command, words.split(), interspersed=False) == expected.split()


def test_go_booleans_after_arguments() -> None:
    assert as_click_reads(BOOLEANS, ["a", "--rm=false", "b"], interspersed=True) == ["a", "b"]
