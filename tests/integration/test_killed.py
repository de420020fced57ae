"""kill -9 of the client, the supervisor and the engine at any moment; Ctrl-C at any moment.

Afterwards the next command works and nothing is left: no mount, process, network namespace, temporary file, container.
The moments are seeded, so that a failure can be repeated.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.residue import engine_pid, engine_processes, residue
from tests.kit.command import Rcontain
from tests.kit.images import demo_layout
from tests.kit.registry import Answer, FakeRegistry, Request, fake_registry

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]

MOMENTS = 20
LONGEST = 0.12  # seconds; a start takes about 0.03 and its end as long


def begin(box: Rcontain, *arguments: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        box.words(*arguments),
        env=box.environment,
        cwd=box.home,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


def moments(name: str) -> list[float]:
    chosen = random.Random(name)
    return [chosen.uniform(0, LONGEST) for _ in range(MOMENTS)]


def settle(box: Rcontain, demo: str) -> None:
    """What a user does next: it works, and clears up what the dead left; containers with --rm are gone by then."""
    assert box.text("run", "--rm", demo, "echo", "next") == "next"
    deadline = time.monotonic() + 10
    while box.text("ps", "-q") and time.monotonic() < deadline:
        time.sleep(0.02)  # a container whose client was killed goes on until it ends
    assert box.text("ps", "-a", "--format", "{{.Names}} {{.Status}}") == ""
    box("rm", "-a", "-f", "-t", "0")
    left = residue(box)
    assert not left, "\n".join(left)


def sessions(box: Rcontain) -> list[int]:
    """The processes that look after commands: children of the engine with its name, but the one forked ahead."""
    engine, at_home = engine_pid(box), engine_processes(box)
    found = []
    for pid in box.processes():
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == engine and pid not in at_home:
            found.append(pid)
    return found


def kill_quietly(pid: int | None) -> None:
    """And wait: a process that is killed lives until the kernel gets round to it."""
    if pid is not None:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], 10)
        os.close(process)


def test_the_client_killed_at_any_moment(box: Rcontain, demo: str, driver: str) -> None:
    """With the client its command ends, or, once it runs in a container, goes on until that ends."""
    for moment in moments(f"client {driver}"):
        process = begin(box, "run", "--rm", demo, "sleep", "0.05")
        time.sleep(moment)
        process.kill()
        process.wait()
    settle(box, demo)


def test_the_client_interrupted_at_any_moment(box: Rcontain, demo: str, driver: str) -> None:
    """Ctrl-C: at most one sentence, and the code that a shell expects."""
    for moment in moments(f"interrupt {driver}"):
        process = begin(box, "run", "--rm", "--init", demo, "sleep", "0.05", stderr=subprocess.PIPE)
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode in (0, 130, -signal.SIGINT), (process.returncode, said)
        assert said.count(b"\n") <= 1 and b"Traceback" not in said, said
    settle(box, demo)


def test_the_supervisor_killed_at_any_moment(box: Rcontain, demo: str, driver: str) -> None:
    for moment in moments(f"supervisor {driver}"):
        process = begin(box, "run", "--rm", demo, "sleep", "0.05", stderr=subprocess.PIPE)
        time.sleep(moment)
        for pid in sessions(box):
            kill_quietly(pid)
        _, said = process.communicate(timeout=20)
        assert process.returncode in (0, 125, 137), (process.returncode, said)
    settle(box, demo)


def test_the_engine_killed_at_any_moment(box: Rcontain, demo: str, driver: str) -> None:
    """What it has forked goes on; a command that it had not begun is begun again by its successor."""
    for moment in moments(f"engine {driver}"):
        process = begin(box, "run", "--rm", demo, "sleep", "0.05", stderr=subprocess.PIPE)
        time.sleep(moment)
        kill_quietly(engine_pid(box))
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, (moment, process.returncode, said)
    settle(box, demo)


@pytest.mark.parametrize("helper", ["fuse", "net", "init"])
def test_a_helper_killed(box: Rcontain, demo: str, driver: str, helper: str) -> None:
    """Without its root filesystem or first process a container ends; without its network it goes on."""
    if helper == "fuse" and driver == "overlay":
        helper = "net"
    box("run", "-d", "--name", "victim", "-p", "127.0.0.1::80", demo, "sleep", "1000")
    assert "->80/tcp" in box.text("ps", "--format", "{{.Ports}}")
    if helper == "init":
        kill_quietly(int(box.text("inspect", "-f", "{{.State.Pid}}", "victim")))
    else:
        found = [pid for pid in box.processes() if _comm(pid) == f"rc-{helper}"]
        assert len(found) == 1
        kill_quietly(found[0])
    if helper == "net":
        while "network has died" not in box.text("inspect", "-f", "{{.State.Error}}", "victim"):
            pass
        assert box.text("exec", "victim", "echo", "alive") == "alive"
        assert box.text("ps", "--format", "{{.Ports}} {{.State}}").split() == ["running"]
        assert box.text("inspect", "-f", "{{json .NetworkSettings.Ports}}", "victim") == "{}"
        assert b"network has died" in box("network", "flows", "victim", check=False).stderr
    else:
        # 128 + SIGKILL, or + SIGBUS where the program itself could not be read any more
        assert box.text("wait", "victim") in ("137", "135" if helper == "fuse" else "137")
    box("rm", "-f", "-t", "0", "victim")
    settle(box, demo)


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_container_outlives_client_and_engine(box: Rcontain, demo: str) -> None:
    box(
        "run", "-d", "--name", "survivor", demo, "sh", "-c", "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done"
    )
    while box.text("logs", "survivor") != "up":
        pass
    kill_quietly(engine_pid(box))
    assert box.text("exec", "survivor", "echo", "still here") == "still here"
    assert box.text("ps", "--format", "{{.Names}} {{.State}}") == "survivor running"
    box("stop", "survivor")
    assert box.text("inspect", "-f", "{{.State.ExitCode}}", "survivor") == "4"
    box("rm", "survivor")


def test_a_dead_supervisor_is_seen_at_once(box: Rcontain, demo: str) -> None:
    """`ps` never says that a container runs when nobody looks after it, and its processes are gone."""
    box("run", "-d", "--name", "orphan", demo, "sh", "-c", "sleep 1000 & sleep 1000")
    kill_quietly(int(box.text("inspect", "-f", "{{.State.SupervisorPid}}", "orphan")))
    assert box.text("ps", "-q") == ""
    assert box.text("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "orphan") == "exited 137"
    assert box.text("start", "orphan") == "orphan"
    box("rm", "-f", "-t", "0", "orphan")


def test_all_killed_at_once(box: Rcontain, demo: str) -> None:
    """As when the machine loses power, but for the boot id."""
    for name in ("a", "b", "c"):
        box("run", "-d", "--name", name, demo, "sleep", "1000")
    for pid in box.processes():
        kill_quietly(pid)
    assert sorted(box.text("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()) == [
        "a exited",
        "b exited",
        "c exited",
    ]
    assert box.text("start", "a") == "a"
    box("rm", "-a", "-f", "-t", "0")


def slow(request: Request) -> Answer | None:
    """Lets nobody have a blob too quickly, so that there is a middle to interrupt."""
    if "/blobs/" in request.path:
        time.sleep(0.03)
    return None


@pytest.fixture(scope="module")
def slow_registry(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    layout = str(tmp_path_factory.mktemp("slow"))
    demo_layout(layout, "latest")
    with fake_registry(layout, slow) as fake:
        yield fake


@pytest.mark.parametrize(
    "end",
    [
        lambda process, box: process.send_signal(signal.SIGINT),
        lambda process, box: process.kill(),
        lambda process, box: [kill_quietly(pid) for pid in sessions(box)],
    ],
    ids=["interrupt", "client", "session"],
)
def test_a_pull_ended_at_any_moment(
    box: Rcontain, demo: str, driver: str, slow_registry: FakeRegistry, end: Callable[..., object]
) -> None:
    """Nothing half-done: the image is there whole, or not at all, and the next pull has it."""
    image = f"{slow_registry.address}/slow"
    for moment in [2.5 * moment for moment in moments(f"pull {driver}")[:8]]:
        box("rmi", image, check=False)
        process = begin(box, "pull", image)
        time.sleep(moment)
        end(process, box)
        assert process.wait(20) in (0, 130, 125, -signal.SIGKILL, -signal.SIGINT)
        if image in box.text("images"):
            assert box.text("run", "--rm", "--pull", "never", image, "cat", "/etc/motd") == "three layers"
    assert box.text("run", "--rm", image, "cat", "/etc/motd") == "three layers"
    box("rmi", image)
    settle(box, demo)
