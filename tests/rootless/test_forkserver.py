"""When an engine leaves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rootless import forkserver
from rootless.forkserver import Endpoint, ForkServer


def test_an_engine_is_left_alone_when_its_login_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "_CGROUPS", str(tmp_path))
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        path = next(line[4:].rstrip("\n") for line in file if line.startswith("0::/"))
    group = tmp_path / path
    with socket.socket() as listener:
        server = ForkServer(Endpoint(listener, "", -1))
        server._spare = os.getppid()
        assert not server._is_left_alone()
        group.mkdir(parents=True, exist_ok=True)
        for others, expected in (("", True), ("1\n", False), ("0\n", False)):
            (group / "cgroup.procs").write_text(f"{os.getpid()}\n{server._spare}\n{others}")
            assert server._is_left_alone() is expected
