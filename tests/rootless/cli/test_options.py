"""The flags of run and create, and the options that they become."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rootless.cli.options import creation_flags, creation_options
from rootless.container.options import CreateOptions
from rootless.errors import UsageError
from tests.rootless.cli.conftest import FakeSession


@pytest.fixture
def options(tmp_path: Path) -> Any:
    """`options("-e", "A=1")`: what these flags mean; raises what is wrong with them."""
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "FROM_HOST": "host"}

    def parse(*argv: str) -> CreateOptions:
        found: list[CreateOptions] = []

        @click.command()
        @creation_flags
        def command(**flags: Any) -> None:
            found.append(creation_options(FakeSession(environment, str(tmp_path)), "image", ("cmd",), flags))

        result = CliRunner().invoke(command, list(argv), standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return found[0]

    return parse


def test_defaults(options: Any) -> None:
    made = options()
    assert (made.image, made.command, made.entrypoint, made.user, made.working_directory) == (
        "image",
        ("cmd",),
        None,
        None,
        None,
    )
    assert (made.network, made.pull, made.user_namespace, made.shm_size) == ("user", "missing", "host", 65536000)
    assert not (made.remove or made.terminal or made.interactive or made.read_only or made.privileged or made.init)


def test_environment(options: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("A=file\n# no\n\nB=b=c\r\nFROM_HOST\nABSENT\n")
    made = options("--env-file", "file", "-e", "A=flag", "-e", "C=")
    assert dict(made.environment) == {"A": "flag", "B": "b=c", "FROM_HOST": "host", "C": ""}


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1b", 1), ("2k", 2048), ("3m", 3 << 20), ("1G", 1 << 30), ("64MB", 64 << 20), ("1KiB", 1024)],
)
def test_sizes(options: Any, text: str, size: int) -> None:
    assert options("--shm-size", text).shm_size == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1.5m", "1x", "lots", "1 2"])
def test_malformed_sizes(options: Any, text: str) -> None:
    with pytest.raises(UsageError):
        options("--shm-size", text)


def test_limits(options: Any) -> None:
    limits = options(
        "--ulimit", "nofile=1:2", "--ulimit", "core=0", "--ulimit", "stack=unlimited", "--ulimit", "cpu=5:-1"
    ).limits
    assert [(limit.name, limit.soft, limit.hard) for limit in limits] == [
        ("RLIMIT_NOFILE", 1, 2),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_STACK", -1, -1),
        ("RLIMIT_CPU", 5, -1),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nofile",
        "nofile=",
        "nofile=a",
        "nofile=2:1",
        "nofile=unlimited:1",
        "nonsense=1",
        "nofile=1:2:3",
        "nofile=-2",
    ],
)
def test_malformed_limits(options: Any, text: str) -> None:
    with pytest.raises(UsageError):
        options("--ulimit", text)


def test_stop_signal(options: Any) -> None:
    assert options("--stop-signal", "USR1").stop_signal == signal.SIGUSR1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cmd", ("cmd",)),
        ('["a", "b c"]', ("a", "b c")),
        ("", ()),
        ("/bin/sh -c", ("/bin/sh -c",)),
        ("[not json", ("[not json",)),
    ],
)
def test_entrypoint(options: Any, text: str, expected: tuple[str, ...]) -> None:
    assert options("--entrypoint", text).entrypoint == expected


def test_security(options: Any, tmp_path: Path) -> None:
    made = options(
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "seccomp=profile.json",
        "--security-opt",
        "mask=/a:/b",
        "--security-opt",
        "unmask=ALL",
        "--security-opt",
        "label=disable",
    )
    assert made.no_new_privileges and made.seccomp_profile == str(tmp_path / "profile.json")
    assert made.masks == ("/a", "/b") and made.unmasks == ("ALL",)
    assert not made.ignore_chown_errors
    assert options("--security-opt", "ignore-chown-errors").ignore_chown_errors
    assert options("--security-opt", "no-new-privileges:true").no_new_privileges
    assert not options("--security-opt", "no-new-privileges=false").no_new_privileges


def test_hosts_and_addresses(options: Any) -> None:
    made = options(
        "--add-host",
        "a:192.0.2.1",
        "--add-host",
        "b:[2001:db8::1]",
        "--add-host",
        "c=host-gateway",
        "--dns",
        "2001:db8::53",
    )
    assert made.add_hosts == ("a:192.0.2.1", "b:2001:db8::1", "c:host-gateway") and made.dns == ("2001:db8::53",)


def test_labels(options: Any, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("a=file\nb\n")
    assert dict(options("--label-file", "labels", "-l", "a=flag", "-l", "c=d=e").labels) == {
        "a": "flag",
        "b": "",
        "c": "d=e",
    }


def test_ports_have_no_effect_without_a_network(options: Any) -> None:
    assert options("--network", "none", "-p", "80:80").published == ()


@pytest.mark.parametrize(
    "argv",
    [
        ["-v", "/tmp:/x", "--tmpfs", "/x/"],
        ["-p", "80:80", "-p", "80:81"],
        ["-w", "x"],
        ["--network-pcap", ""],
        ["-h", "a_b"],
        ["-h", "-a"],
        ["--network", "x"],
        ["--dns", "localhost"],
        ["--add-host", ":192.0.2.1"],
        ["--add-host", "a:b"],
        ["-e", "="],
        ["-l", "=x"],
        ["--name", ".x"],
        ["--env-file", "/no/such"],
        ["--security-opt", "nonsense=1"],
    ],
)
def test_flags_that_cannot_be(options: Any, argv: list[str]) -> None:
    with pytest.raises(UsageError):
        options(*argv)


def test_some_of_the_layers(options: Any) -> None:
    assert (options().layer_count, options().layer) == (None, "")
    assert options("--layers", "-2").layer_count == options("--layers=-2").layer_count == -2
    assert options("--layer", "2db31d6780fd").layer == "2db31d6780fd"
    with pytest.raises(click.BadParameter):
        options("--layers", "two")
