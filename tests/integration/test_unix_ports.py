"""`-p unix:PATH:PORT` of a container."""

from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]

SERVE = "while :; do nc -l -p 80 -e sh -c 'read line; echo got $line'; done"


def ask(path: Path) -> bytes:
    """What the server says; it may not listen yet."""
    for _ in range(500):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            try:
                sock.connect(str(path))
                sock.sendall(b"this\n")
                answer = sock.recv(100)
            except ConnectionError:
                answer = b""
        if answer:
            return answer
        threading.Event().wait(0.02)
    return b""


def test_a_socket_leads_to_the_container_and_goes_with_it(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    auto_box("run", "-d", "--name", "server", "-p", f"unix:{path}:80", demo, "sh", "-c", SERVE)
    try:
        assert [ask(path) for _ in range(3)] == [b"got this\n"] * 3
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert f"unix:{path}" in auto_box.text("ps", "--no-trunc")
    finally:
        auto_box("rm", "-f", "-t", "0", "server")
    assert os.listdir(tmp_path) == []


def test_a_name_in_use_is_an_error_of_the_command(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        result = auto_box("run", "--rm", "-p", f"unix:{path}:80", demo, "true", check=False)
    assert result.returncode != 0 and b"taken" in result.stderr
    assert path.exists()
    path.unlink()
