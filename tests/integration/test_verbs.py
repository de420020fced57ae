"""create, start, stop, kill, rm, ps, logs, exec, wait, inspect, images, rmi, info, version: from one to the next."""

from __future__ import annotations

import json
import subprocess
import time
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

LOOP = "trap 'echo stopping; exit 7' TERM; echo up; while :; do sleep 0.05; done"


def await_log(box: Rcontain, name: str, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in box.text("logs", name):
        assert time.monotonic() < deadline, f"{text!r} does not come"


def test_a_life(box: Rcontain, demo: str) -> None:
    identifier = box.text("run", "-d", "--name", "life", demo, "sh", "-c", LOOP)
    assert len(identifier) == 64 and int(identifier, 16) >= 0
    await_log(box, "life", "up")
    assert box.text("ps", "-q", "--no-trunc") == identifier
    assert box.text("ps", "--format", "{{.Names}} {{.State}} {{.Image}}") == f"life running {demo}:latest"
    assert box.text("inspect", "-f", "{{.State.Running}} {{.State.Status}}", identifier[:5]) == "true running"
    assert box.text("stop", "life") == "life"
    assert box.text("logs", "life") == "up\nstopping"
    assert box.text("ps", "-q") == "" and box.text("ps", "-aq") == identifier[:12]
    assert box.text("inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "life") == "7 exited"
    assert box.text("start", "life") == "life"
    assert box.text("kill", "-s", "TERM", "life") == "life"
    assert box.text("wait", "life") == "7"
    assert box.text("logs", "life").split() == ["up", "stopping"] * 2
    assert box.text("rm", "life") == "life"
    assert box.text("ps", "-aq") == ""


def test_detached_output_ends(box: Rcontain, demo: str) -> None:
    """`$(rcontain run -d …)`: nothing that goes on has the caller's streams."""
    started = time.monotonic()
    box("run", "-d", "--rm", "--name", "quiet", demo, "sleep", "30")
    assert time.monotonic() - started < 20
    box("rm", "-f", "-t", "0", "quiet")


def test_stop_kills_what_does_not_listen(auto_box: Rcontain, demo: str) -> None:
    auto_box("run", "-d", "--name", "deaf", demo, "sleep", "1000")
    auto_box("stop", "-t", "0", "deaf")
    assert auto_box.text("inspect", "-f", "{{.State.ExitCode}}", "deaf") == "137"
    auto_box("rm", "deaf")


def test_stop_signal_and_timeout_of_the_container(auto_box: Rcontain, demo: str) -> None:
    script = "trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done"
    auto_box("run", "-d", "--name", "own", "--stop-signal", "USR1", "--stop-timeout", "30", demo, "sh", "-c", script)
    await_log(auto_box, "own", "up")
    auto_box("stop", "own")
    assert auto_box.text("inspect", "-f", "{{.State.ExitCode}}", "own") == "3"
    auto_box("rm", "own")


def test_create_prints_the_id_and_starts_nothing(auto_box: Rcontain, demo: str) -> None:
    identifier = auto_box.text("create", "--name", "made", demo, "echo", "hello")
    assert auto_box.text("ps", "-a", "--format", "{{.Status}}").lower() == "created"
    assert auto_box.text("logs", "made") == ""
    assert auto_box.text("start", "-a", "made") == "hello"
    assert auto_box.text("rm", identifier[:12]) == identifier[:12]


def test_attached_start_takes_input_and_gives_the_exit_code(auto_box: Rcontain, demo: str) -> None:
    auto_box("create", "-i", "--name", "fed", demo, "sh", "-c", "cat; exit 8")
    done = auto_box("start", "-ai", "fed", input=b"food\n", check=False)
    assert (done.returncode, done.stdout) == (8, b"food\n")
    auto_box("rm", "fed")


def test_exec(box: Rcontain, demo: str) -> None:
    box("run", "-d", "--name", "target", "-e", "A=image", "-w", "/srv", demo, "sleep", "1000")
    try:
        done = box("exec", "target", "sh", "-c", "echo out; echo err >&2; exit 9", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (9, b"out\n", b"err\n")
        assert box("exec", "-i", "target", "cat", input=b"fed").stdout == b"fed"
        assert box.text("exec", "target", "sh", "-c", "pwd; echo $A; cat /proc/1/comm") == "/srv\nimage\nsleep"
        assert (
            box.text(
                "exec",
                "-e",
                "A=exec",
                "-w",
                "/etc",
                "-u",
                "user",
                "target",
                "sh",
                "-c",
                "pwd; echo $A; id -u; echo $HOME",
            )
            == "/etc\nexec\n1000\n/home/user"
        )
        assert box("exec", "target", "sh", "-c", "kill -9 $$", check=False).returncode == 137
        box("exec", "-d", "target", "touch", "/made")
        box("exec", "target", "sh", "-c", "until [ -e /made ]; do sleep 0.02; done")
        status = box.text(
            "exec", "target", "sh", "-c", "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; ls /proc/self/fd"
        )
        assert "00000000800405fb" in status and "Seccomp:\t2" in status and status.split()[-4:] == ["0", "1", "2", "3"]
        assert box.text("exec", "target", "readlink", "/proc/self/ns/pid") == box.text(
            "exec", "target", "readlink", "/proc/1/ns/pid"
        )
    finally:
        box("rm", "-f", "-t", "0", "target")


def test_exec_ends_with_the_container(auto_box: Rcontain, demo: str) -> None:
    auto_box("run", "-d", "--rm", "--name", "target", demo, "sleep", "1000")
    with auto_box.started("exec", "target", "sh", "-c", "echo up; sleep 1000") as running:
        assert running.stdout is not None and running.stdout.readline() == b"up\n"
        auto_box("kill", "target")
        assert running.wait(20) == 137


def test_logs_follow(auto_box: Rcontain, demo: str) -> None:
    auto_box(
        "run", "-d", "--name", "talker", demo, "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done; echo err >&2"
    )
    done = auto_box("logs", "-f", "talker")
    assert (done.stdout, done.stderr) == (b"1\n2\n3\n", b"err\n")
    assert auto_box.text("logs", "--tail", "2", "talker") == "3"
    auto_box("rm", "talker")


def test_wait(auto_box: Rcontain, demo: str) -> None:
    auto_box("run", "-d", "--name", "brief", demo, "sh", "-c", "sleep 0.3; exit 6")
    assert auto_box.text("wait", "brief", "brief") == "6\n6"
    auto_box("rm", "brief")


def test_rm_by_force_and_all(auto_box: Rcontain, demo: str) -> None:
    running = auto_box.text("run", "-d", "--name", "one", demo, "sleep", "1000")
    created = auto_box.text("create", "--name", "two", demo)
    assert set(auto_box.text("rm", "-a", "-f", "-t", "0").split()) == {running, created}
    assert auto_box("rm", "-f", "nosuch").stderr == b""


def test_inspect_is_podmans_document(auto_box: Rcontain, demo: str) -> None:
    auto_box("create", "--name", "seen", "-p", "127.0.0.1:18080:80", "-v", "/tmp:/t:ro", "-e", "X=1", demo, "echo")
    document = json.loads(auto_box.text("inspect", "seen"))[0]
    assert document["Name"] == "seen" and document["Path"] == "echo" and document["Args"] == []
    assert document["Config"]["Cmd"] == ["echo"] and "X=1" in document["Config"]["Env"]
    assert document["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}]}
    mount = document["Mounts"][0]
    assert (mount["Type"], mount["Source"], mount["Destination"], mount["RW"]) == ("bind", "/tmp", "/t", False)
    auto_box("rm", "seen")


def test_images_tag_and_rmi(rcontain: Rcontain, demo: str) -> None:
    identifier = rcontain.text("pull", "-q", demo)
    assert rcontain.text("images", "-q", "--no-trunc") == f"sha256:{identifier}"
    rcontain("tag", demo, "local/copy:v1")
    names = rcontain.text("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert f"{demo}:latest" in names and any(name.endswith("local/copy:v1") for name in names) and len(names) == 2
    assert rcontain.text("run", "--rm", "local/copy:v1", "echo", "tagged") == "tagged"
    rcontain("rmi", "local/copy:v1")
    assert rcontain.text("run", "--rm", identifier[:12], "echo", "by id") == "by id"
    rcontain("rmi", demo)
    assert rcontain.text("images", "-q") == ""
    for directory in ("blobs/sha256", "layers"):
        assert list((rcontain.data / "rcontain" / directory).iterdir()) == []


def test_the_store_is_an_image_layout(rcontain: Rcontain, demo: str, tmp_path: Path) -> None:
    """Other tools can read it."""
    rcontain("pull", "-q", demo)
    store = f"oci:{rcontain.data}/rcontain:{demo}:latest"
    done = subprocess.run(["skopeo", "inspect", "--raw", store], capture_output=True)
    assert done.returncode == 0 and json.loads(done.stdout)["layers"], done.stderr


def test_info_and_version(auto_box: Rcontain) -> None:
    document = json.loads(auto_box.text("info", "--format", "json"))
    assert document["store"]["graphRoot"] == str(auto_box.data / "rcontain")
    assert auto_box.text("version", "--format", "{{.Client.Version}}") in auto_box.text("--version")


def test_restart(auto_box: Rcontain, demo: str) -> None:
    auto_box("run", "-d", "--name", "again", demo, "sh", "-c", LOOP)
    await_log(auto_box, "again", "up")
    assert auto_box.text("restart", "again") == "again"
    assert auto_box.text("ps", "--format", "{{.Names}}") == "again"
    auto_box("rm", "-f", "-t", "0", "again")
