"""The engine as a process: serves its first client, listens, leaves when idle. Its names."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rootless import client, request
from rootless.request import LIMITS, Request
from tests.kit.command import CHECKOUT


@contextmanager
def engine(root: Path, *, idle: float, mode: str = "serve") -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """An engine's process that leaves after `idle` seconds, and the connection it begins with."""
    ours, theirs = socket.socketpair()
    program = (
        f"import sys; sys.path[:0] = {[str(CHECKOUT), *(path for path in sys.path if 'site-packages' in path)]!r};"
        f"from rootless import forkserver; forkserver.IDLE_SECONDS = {idle};"
        "from rootless.engine import main; main()"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "XDG_RUNTIME_DIR": str(root)}
    with ours:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", program, str(theirs.fileno()), mode],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        theirs.close()
        with process:
            try:
                yield process, ours
            finally:
                process.kill()


def ask(connection: socket.socket, root: Path, *argv: bytes) -> tuple[int, bytes]:
    """Sends a command; its exit code and output."""
    reading, writing = os.pipe()
    null, cwd = os.open(os.devnull, os.O_RDWR), os.open(root, os.O_RDONLY)
    fds = [null, writing, writing, cwd]
    environment = [b"HOME=" + os.fsencode(root), b"XDG_RUNTIME_DIR=" + os.fsencode(root), b"PATH=/usr/bin:/bin"]
    limits = [resource.getrlimit(number) for number in range(LIMITS)]
    socket.send_fds(
        connection, [Request(list(argv), os.fsencode(root), environment, 0o022, 0, limits, fds).to_bytes()], fds
    )
    for fd in (null, writing, cwd):
        os.close(fd)
    connection.settimeout(60)
    code = -1
    while message := connection.recv(2):
        if message[:1] == request.EXIT:
            code = message[1]
            break
    with os.fdopen(reading, "rb") as output:
        return code, output.read()


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rc-engine-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.userns
def test_it_leaves_when_nobody_has_come_for_a_while(root: Path) -> None:
    with engine(root, idle=0.3) as (process, connection):
        code, output = ask(connection, root, b"--version")
        assert (code, output.split()[:2]) == (0, [b"rcontain", b"version"])
        assert process.wait(60) == 0
    assert not list((root / "rcontain").glob("*.sock"))


@pytest.mark.userns
def test_it_serves_others_by_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(root, idle=60) as (process, connection):
        assert ask(connection, root, b"--version")[0] == 0
        name = next((root / "rcontain").glob("*.sock"))
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(str(name))
                assert ask(other, root, b"nonsense")[0] == 125
        with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as rude:
            silent.connect(str(name))
            rude.connect(str(name))
            rude.sendall(b"\xff\xff\xff\xffGET / HTTP/1.1\r\n\r\n")
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(str(name))
                assert ask(other, root, b"--version")[0] == 0
        assert process.poll() is None
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
        assert client.runtime_directory() == str(name.parent) and client.engine_name() == name.stem


@pytest.mark.userns
def test_one_command_only(root: Path) -> None:
    with engine(root, idle=60, mode="once") as (process, connection):
        assert ask(connection, root, b"--version")[0] == 0
        assert process.wait(60) == 0
    assert not list(root.glob("rcontain/*.sock"))
