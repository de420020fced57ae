"""`rcontain login` and `logout` against registries that ask for passwords, next to what Podman and skopeo write."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.terminal import Terminal
from tests.kit.command import Rcontain
from tests.kit.podman import podman
from tests.kit.registry import registry
from tests.kit.tokenserver import token_server

pytestmark = [pytest.mark.registry, pytest.mark.userns]
PASSWORD = "s3cret-Passw0rd"
# htpasswd -nbB -C 5 user s3cret-Passw0rd
HTPASSWD = "user:$2y$05$qOqN0uSyrePOXtDw8L8oouN5Lzd2l3uD/aB4S0PRAXDVhUw5ZuoMi"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry that lets `user` in."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "htpasswd").write_text(HTPASSWD + "\n")
    with registry(str(directory), htpasswd=str(directory / "htpasswd")) as address:
        yield address


def log_in(
    rcontain: Rcontain, address: str, password: str = PASSWORD, *flags: str
) -> subprocess.CompletedProcess[bytes]:
    words = ("login", "-u", "user", "--password-stdin", *flags, address)
    return rcontain(*words, input=password.encode() + b"\n", check=False)


def auth_file(rcontain: Rcontain) -> Path:
    return rcontain.runtime / "containers/auth.json"


def test_a_login_and_a_logout(rcontain: Rcontain, guarded: str) -> None:
    done = log_in(rcontain, guarded, "wrong")
    assert done.returncode == 125 and b"invalid username/password" in done.stderr
    assert not auth_file(rcontain).exists()
    assert b"not logged into" in rcontain("login", "--get-login", guarded, check=False).stderr
    done = log_in(rcontain, f"https://{guarded}/v1/")
    assert (done.returncode, done.stdout) == (0, b"Login Succeeded!\n"), done.stderr
    assert stat.S_IMODE(auth_file(rcontain).stat().st_mode) == 0o600
    assert rcontain.text("login", "--get-login", guarded) == "user"
    again = rcontain("login", guarded)
    assert b"Existing credentials are valid. Already logged in to " + guarded.encode() in again.stdout
    fails = rcontain("pull", f"{guarded}/none", check=False)
    assert b"none" in fails.stderr and b"log in" not in fails.stderr
    assert rcontain.text("logout", guarded) == f"Removed login credentials for {guarded}"
    assert rcontain("logout", guarded, check=False).returncode == 125
    log_in(rcontain, guarded)
    rcontain("logout", "--all")
    assert json.loads(auth_file(rcontain).read_text()) == {"auths": {}}


def test_tokens(rcontain: Rcontain, tmp_path: Path) -> None:
    with token_server(str(tmp_path)) as tokens, registry(str(tmp_path), tokens=tokens) as address:
        tokens.users["user"] = PASSWORD
        assert b"invalid username/password" in log_in(rcontain, address, "wrong").stderr
        assert log_in(rcontain, address).returncode == 0
        assert {asked.user for asked in tokens.asked} == {"user"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("-u", "user", "-p", PASSWORD, "x.example"), "use --password-stdin"),
        (("--password-stdin", "x.example"), "needs --username"),
        (("x.example/a:1",), "tag or a digest"),
        (("x.example",), "no terminal"),
        ((), "which registry is missing"),
        (("UP_PER",), "malformed"),
        (("--authfile", "a", "--compat-auth-file", "b", "x.example"), "either"),
    ],
)
def test_what_is_refused(rcontain: Rcontain, words: tuple[str, ...], reason: str) -> None:
    done = rcontain("login", *words, check=False)
    assert done.returncode == 125 and reason in done.stderr.decode()
    assert PASSWORD.encode() not in done.stdout + done.stderr


def test_at_a_terminal(rcontain: Rcontain, guarded: str) -> None:
    with Terminal(rcontain.words("login", guarded), rcontain.environment, str(rcontain.home)) as terminal:
        terminal.expect("Username: ")
        terminal.type("user\n")
        terminal.expect("Password: ")
        assert not echoes(terminal)
        terminal.type(PASSWORD + "\n")
        terminal.expect("Login Succeeded!")
        assert terminal.ends() and terminal.status == 0
        assert PASSWORD.encode() not in terminal.seen


# With --no-engine there is one process; if that is killed nobody is left.
@pytest.mark.parametrize(("how", "flags"), [("interrupt", ()), ("kill", ()), ("interrupt", ("--no-engine",))])
def test_the_echo_comes_back(rcontain: Rcontain, guarded: str, how: str, flags: tuple[str, ...]) -> None:
    words = rcontain.words(*flags, "login", "-u", "user", guarded)
    with Terminal(words, rcontain.environment, str(rcontain.home)) as terminal:
        terminal.expect("Password: ")
        assert not echoes(terminal)
        if how == "interrupt":
            terminal.type("\x03")
        else:
            os.kill(terminal.pid, 9)
        deadline = time.monotonic() + 10
        while not echoes(terminal) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert echoes(terminal)
        assert terminal.ends() and terminal.status != 0


def echoes(terminal: Terminal) -> bool:
    return bool(termios.tcgetattr(terminal.fd)[3] & termios.ECHO)


def test_the_password_is_nowhere_else(rcontain: Rcontain, guarded: str) -> None:
    """Not in a message, a log, a command line or a file but the one; there as base64 only."""
    for flags in ((), ("--log-level", "debug")):
        for password in (PASSWORD, PASSWORD + "-wrong"):
            words = rcontain.words(*flags, "login", "-u", "user", "--password-stdin", guarded)
            with subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=rcontain.environment
            ) as process:
                assert process.stdin is not None
                for argv in rcontain.processes().values():
                    assert PASSWORD not in argv
                out, err = process.communicate(password.encode(), timeout=30)
                assert PASSWORD.encode() not in out + err
    done = rcontain("--log-level", "debug", "pull", f"{guarded}/none", check=False)
    assert PASSWORD.encode() not in done.stdout + done.stderr
    for path in rcontain.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_podman_and_skopeo_read_ours(rcontain: Rcontain, guarded: str) -> None:
    log_in(rcontain, guarded)
    file = str(auth_file(rcontain))
    for program in ("podman", "skopeo"):
        words = ("login", "--authfile", file, "--get-login", guarded)
        shown = podman(*words, environment=rcontain.environment, program=program)
        assert shown.stdout == b"user\n", shown.stderr
    gone = podman("logout", "--authfile", file, guarded, environment=rcontain.environment, program="skopeo")
    assert gone.returncode == 0, gone.stderr
    assert b"not logged into" in rcontain("login", "--get-login", guarded, check=False).stderr


@pytest.mark.parametrize("program", ["podman", "skopeo"])
def test_we_read_theirs(rcontain: Rcontain, guarded: str, program: str) -> None:
    words = ("login", "--tls-verify=false", "-u", "user", "--password-stdin", guarded)
    done = podman(*words, environment=rcontain.environment, input=PASSWORD.encode(), program=program)
    assert done.returncode == 0, done.stderr
    assert rcontain.text("login", "--get-login", guarded) == "user"
    assert b"Already logged in" in rcontain("login", guarded).stdout
    rcontain("logout", guarded)
    shown = podman("login", "--get-login", guarded, environment=rcontain.environment, program=program)
    assert shown.returncode != 0


def test_for_some_repositories_only(rcontain: Rcontain, guarded: str) -> None:
    assert log_in(rcontain, f"{guarded}/team").returncode == 0
    assert list(json.loads(auth_file(rcontain).read_text())["auths"]) == [f"{guarded}/team"]
    assert rcontain.text("login", "--get-login", f"{guarded}/team/app") == "user"
    assert rcontain("login", "--get-login", guarded, check=False).returncode == 125


def test_files_of_ones_own(rcontain: Rcontain, guarded: str) -> None:
    assert log_in(rcontain, guarded, PASSWORD, "--authfile", "own.json").returncode == 0
    assert (rcontain.home / "own.json").exists() and not auth_file(rcontain).exists()
    assert rcontain.text("login", "--authfile", "own.json", "--get-login", guarded) == "user"
    verbose = log_in(rcontain, guarded, PASSWORD, "--compat-auth-file", ".docker/config.json", "-v")
    assert verbose.stdout.endswith(f"Used: {rcontain.home}/.docker/config.json\n".encode())
    assert rcontain.text("login", "--get-login", guarded) == "user"
    hint = rcontain("logout", guarded, check=False).stderr
    assert b".docker/config.json, which `login` does not write" in hint
