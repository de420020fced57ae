"""The engine: on demand, shared, replaced, stopped, and done without. Many commands at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.residue import engine_pid, residue
from tests.kit.command import CHECKOUT, Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


def await_end(command: Rcontain) -> bool:
    deadline = time.monotonic() + 20
    while engine_pid(command) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_it_starts_on_demand_and_stays(rcontain: Rcontain, demo: str) -> None:
    assert engine_pid(rcontain) is None
    assert rcontain.text("engine", "status") == "No engine is running." and engine_pid(rcontain) is None
    assert rcontain.text("engine", "stop") == "No engine is running." and engine_pid(rcontain) is None
    rcontain("run", "--rm", "-q", demo, "true")
    engine = engine_pid(rcontain)
    assert engine is not None and f"pid {engine}" in rcontain.text("engine", "status")
    rcontain("run", "--rm", demo, "true")
    assert engine_pid(rcontain) == engine
    rcontain("engine", "stop")
    assert await_end(rcontain)
    assert not [name for name in os.listdir(rcontain.runtime / "rcontain") if name.endswith(".sock")]


def test_containers_outlive_it(rcontain: Rcontain, demo: str) -> None:
    """Its successor joins the namespaces of what lives."""
    rcontain("run", "-d", "-q", "--name", "going", demo, "sleep", "1000")
    rcontain("engine", "stop")
    assert await_end(rcontain)
    assert rcontain.text("exec", "going", "echo", "alive") == "alive"
    assert rcontain.text("--no-engine", "exec", "going", "echo", "alive") == "alive"
    rcontain("rm", "-f", "-t", "0", "going")


def test_without_an_engine(rcontain: Rcontain, demo: str) -> None:
    assert rcontain.text("--no-engine", "run", "--rm", "-q", demo, "echo", "alone") == "alone"
    done = rcontain("--no-engine", "run", "--rm", demo, "sh", "-c", "exit 7", check=False)
    assert done.returncode == 7
    done = rcontain("run", "--rm", demo, "echo", "alone", env={"RCONTAIN_NO_ENGINE": "1"})
    assert done.stdout == b"alone\n"
    identifier = rcontain.text("--no-engine", "run", "-d", "--name", "alone", demo, "sleep", "1000")
    assert rcontain.text("ps", "-q", "--no-trunc") == identifier
    rcontain("rm", "-f", "-t", "0", "alone")
    rcontain("engine", "stop")
    assert await_end(rcontain)
    rcontain("--no-engine", "images")
    assert engine_pid(rcontain) is None


def test_where_no_socket_can_be(rcontain: Rcontain, demo: str) -> None:
    """A runtime directory that cannot be had: commands do their own work."""
    rcontain.environment["XDG_RUNTIME_DIR"] = ""
    rcontain.environment["TMPDIR"] = "/nonexistent"
    try:
        assert rcontain.text("run", "--rm", "-q", demo, "echo", "works") == "works"
    finally:
        rcontain("engine", "stop")
        rcontain.environment["XDG_RUNTIME_DIR"] = str(rcontain.runtime)
        shutil.rmtree(f"/tmp/rcontain-{os.getuid()}", ignore_errors=True)


def test_another_version_has_an_engine_of_its_own(rcontain: Rcontain, demo: str, tmp_path: Path) -> None:
    """After an upgrade the next command is served by the new code, and the old engine leaves."""
    rcontain("run", "--rm", "-q", demo, "true")
    old = engine_pid(rcontain)
    assert old is not None
    code = tmp_path / "upgraded"
    for package in ("rootless", "fuse", "netns"):
        shutil.copytree(CHECKOUT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(CHECKOUT / "pyproject.toml", code)
    subprocess.run(
        [
            sys.executable,
            str(CHECKOUT / "contrib/install-launcher"),
            "--python",
            sys.executable,
            "--code",
            str(code),
            str(tmp_path / "bin"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    rcontain.launcher = tmp_path / "bin/rcontain"
    assert rcontain.text("run", "--rm", demo, "echo", "new") == "new"
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{old}/exe") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert old not in rcontain.processes()


def limited(rcontain: Rcontain, *arguments: str) -> bytes:
    """The output of a command whose caller has at most 200 open files."""
    words = ["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", *rcontain.words(*arguments)]
    done = subprocess.run(
        words, env=rcontain.environment, cwd=rcontain.home, capture_output=True, check=True, timeout=60
    )
    return done.stdout


def test_limits_of_the_one_who_started_it_bind_nobody_else(rcontain: Rcontain, demo: str) -> None:
    """What a process may not exceed, an engine that it started may not either: so there is one for each."""
    assert limited(rcontain, "run", "--rm", "-q", demo, "sh", "-c", "ulimit -Hn") == b"200\n"
    assert int(rcontain.text("run", "--rm", demo, "sh", "-c", "ulimit -Hn")) > 200
    limited(rcontain, "engine", "stop")


def test_twenty_starts_at_once(auto_box: Rcontain, demo: str) -> None:
    before = time.monotonic()
    running = [
        subprocess.Popen(
            auto_box.words("run", "--rm", demo, "sh", "-c", f"echo {number}; exit {number}"),
            env=auto_box.environment,
            cwd=auto_box.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(20)
    ]
    outcomes = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == list(range(20)), outcomes
    assert [out for out, _ in outcomes] == [b"%d\n" % number for number in range(20)]
    assert time.monotonic() - before < 60


def test_twenty_containers_beside_each_other(auto_box: Rcontain, demo: str) -> None:
    running = [
        subprocess.Popen(
            auto_box.words("run", "-d", "--name", f"one-{number}", demo, "sleep", "1000"),
            env=auto_box.environment,
            cwd=auto_box.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(20)
    ]
    outcomes = [process.communicate(timeout=60) for process in running]
    assert all(process.returncode == 0 for process in running), outcomes
    assert len(auto_box.text("ps", "-q").split()) == 20
    assert len(auto_box.text("rm", "-a", "-f", "-t", "0").split()) == 20


def test_twenty_first_commands_at_once(rcontain: Rcontain, demo: str) -> None:
    """Without an engine and without the image: one engine comes of it, and one pull."""
    running = [
        subprocess.Popen(
            rcontain.words("run", "--rm", "-q", demo, "echo", "first"),
            env=rcontain.environment,
            cwd=rcontain.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(20)
    ]
    outcomes = [process.communicate(timeout=100) for process in running]
    assert outcomes == [(b"first\n", b"")] * 20
    assert residue(rcontain) == []


def test_one_name_for_many_at_once(auto_box: Rcontain, demo: str) -> None:
    """Exactly one gets it."""
    running = [
        subprocess.Popen(
            auto_box.words("create", "--name", "only", demo),
            env=auto_box.environment,
            cwd=auto_box.home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(8)
    ]
    errors = [process.communicate(timeout=60)[1] for process in running]
    assert sorted(process.returncode for process in running) == [0] + [125] * 7
    assert all(b"already in use" in error for error in errors if error)
    auto_box("rm", "only")
