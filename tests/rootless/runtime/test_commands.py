"""`rcontain-oci` as a plain user runs it: runc's commands over a bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.userns import in_namespaces

pytestmark = pytest.mark.userns
CHECKOUT = Path(__file__).resolve().parents[3]

CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["sleep", "1000"],
        "env": ["PATH=/bin", "A=b"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs"},
    "hostname": "bundle",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
    ],
    "annotations": {"org.example": "yes"},
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
}


class Runtime:
    """The command with a root directory and a bundle of the test's own."""

    def __init__(self, bundle: Path, root: Path) -> None:
        self.bundle = bundle
        self.root = root
        self.config: dict[str, Any] = json.loads(json.dumps(CONFIG))

    def save(self) -> None:
        (self.bundle / "config.json").write_text(json.dumps(self.config))

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        self.save()
        return subprocess.run(
            [sys.executable, "-m", "rootless.runtime", "--root", str(self.root), *words],
            cwd=self.bundle, text=True, capture_output=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, **options,
        )  # fmt: skip

    def quietly(self, *words: str) -> subprocess.CompletedProcess[str]:
        """For commands that leave a process behind, which would hold pipes open."""
        self.save()
        with open(self.bundle / "out", "w+") as out, open(self.bundle / "err", "w+") as err:
            code = subprocess.run(
                [sys.executable, "-m", "rootless.runtime", "--root", str(self.root), *words],
                cwd=self.bundle, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60, check=False,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            ).returncode  # fmt: skip
        texts = [(self.bundle / name).read_text() for name in ("out", "err")]
        return subprocess.CompletedProcess(words, code, *texts)

    def status(self, container: str) -> str:
        return str(json.loads(self("state", container).stdout)["status"])


@pytest.fixture
def oci(rootfs: Path, tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(rootfs.parent, tmp_path / "state")
    yield runtime
    for name in runtime("list", "-q").stdout.split():
        runtime("delete", "--force", name)


def test_run(oci: Runtime) -> None:
    oci.config["process"]["args"] = ["sh", "-c", "echo $A; hostname; id -u; cat /proc/self/uid_map; exit 5"]
    done = oci("run", "one")
    assert done.returncode == 5, done.stderr
    assert done.stdout.splitlines()[:3] == ["b", "bundle", "0"]
    assert len(done.stdout.splitlines()) > 4, "the whole range of subordinate ids is mapped"
    assert oci("list", "-q").stdout == ""


def test_run_with_host_ids_of_its_own(oci: Runtime) -> None:
    """What `runc spec --rootless` writes: the caller alone, named by its host id."""
    for kind, own in (("uid", os.getuid()), ("gid", os.getgid())):
        oci.config["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": own, "size": 1}]
    oci.config["linux"]["namespaces"].append({"type": "user"})
    oci.config["process"]["args"] = ["cat", "/proc/self/uid_map"]
    done = oci("run", "one")
    assert done.stdout.split() == ["0", "0", "1"], done.stderr
    oci.config["linux"]["uidMappings"][0]["hostID"] = 4
    assert "host id 4" in oci("run", "one").stderr


def test_life_cycle(oci: Runtime, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    made = oci.quietly("create", "--pid-file", str(pid_file), "two")
    assert made.returncode == 0, made.stderr
    state = json.loads(oci("state", "two").stdout)
    assert (state["status"], state["id"], state["bundle"]) == ("created", "two", str(oci.bundle))
    assert state["pid"] == int(pid_file.read_text()) and state["annotations"] == {"org.example": "yes"}
    assert "exists already" in oci("create", "two").stderr
    assert oci("start", "two").returncode == 0
    assert oci.status("two") == "running"
    assert "is running, not created" in oci("start", "two").stderr
    assert json.loads(oci("ps", "-f", "json", "two").stdout) == [state["pid"]]
    assert "sleep 1000" in oci("ps", "two").stdout
    assert "stop it first" in oci("delete", "two").stderr
    pidfd = os.pidfd_open(state["pid"])
    assert oci("kill", "two", "KILL").returncode == 0
    import select

    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    assert oci.status("two") == "stopped"
    assert "is not running" in oci("kill", "two").stderr
    assert oci("delete", "two").returncode == 0
    assert "does not exist" in oci("state", "two").stderr
    assert oci("delete", "--force", "two").returncode == 0


def test_exec(oci: Runtime) -> None:
    oci.quietly("run", "-d", "three")
    done = oci("exec", "-e", "B=c", "--cwd", "/srv", "three", "sh", "-c", "echo $A$B; pwd; hostname; exit 3")
    assert (done.returncode, done.stdout) == (3, "bc\n/srv\nbundle\n"), done.stderr
    assert oci("exec", "-u", "1000:33", "three", "id", "-g").stdout == "33\n"
    assert oci("exec", "three", "nosuch").returncode == 127
    process = {"args": ["sh", "-c", "grep NoNewPrivs /proc/self/status"], "env": ["PATH=/bin"], "cwd": "/"}
    (oci.bundle / "p.json").write_text(json.dumps({**process, "noNewPrivileges": True}))
    assert oci("exec", "-p", "p.json", "three").stdout.split() == ["NoNewPrivs:", "1"]
    assert oci("exec", "-t", "three", "tty").stdout.strip() == "/dev/pts/0"
    oci("delete", "-f", "three")
    assert "does not exist" in oci("exec", "three", "id").stderr


def test_errors_exit_and_are_logged(oci: Runtime, tmp_path: Path) -> None:
    oci.config["process"]["args"] = ["nosuch"]
    log = tmp_path / "log"
    done = oci("--log", str(log), "--log-format", "json", "create", "four")
    assert done.returncode == 1 and "executable file `nosuch` not found in $PATH" in done.stderr
    line = json.loads(log.read_text())
    assert line["level"] == "error" and "not found in $PATH: No such file or directory" in line["msg"]
    assert oci("run", "four").returncode == 127
    assert oci("list", "-q").stdout == "", "nothing half-made stays"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(ociVersion="2.0"), "version '2.0'"),
        (lambda c: c.update(process=None), "needs both"),
        (lambda c: c["root"].update(path="nowhere"), "is not a directory"),
        (lambda c: c["process"].update(args=3), "Expected `array`"),
        (lambda c: c["process"].update(terminal=True), "--console-socket"),
        (
            lambda c: c["mounts"].append({"destination": "/x", "type": "bind", "source": "/no/such"}),
            "bind source /no/such",
        ),
    ],
)
def test_bad_bundles(oci: Runtime, change: Callable[[dict[str, Any]], None], says: str) -> None:
    change(oci.config)
    done = oci("create", "five")
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
    assert oci("list", "-q").stdout == ""


@pytest.mark.parametrize("words", [("state", "../x"), ("kill", "x", "NOSIG"), ("run", "-b", "/no/such", "x")])
def test_bad_command_lines(oci: Runtime, words: tuple[str, ...]) -> None:
    if words[0] == "kill":
        oci.quietly("run", "-d", "x")
    done = oci(*words)
    assert done.returncode != 0 and done.stderr.startswith("rcontain-oci: ") and "Traceback" not in done.stderr


def test_dry_run(oci: Runtime) -> None:
    done = oci("run", "--dry-run", "x")
    assert done.stdout.startswith("create:\n") and "execute sleep 1000" in done.stdout
    assert oci("list", "-q").stdout == ""


def test_features() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rootless.runtime", "features"], cwd=CHECKOUT, capture_output=True, check=True
    )
    features = json.loads(done.stdout)
    assert "user" in features["linux"]["namespaces"] and "rro" in features["mountOptions"]


def test_hooks(oci: Runtime) -> None:
    trace = oci.bundle / "trace"
    (oci.bundle / "rootfs/hook").write_text("#!/bin/sh\n/bin/cat >/dev/null; echo $1 >>/tmp/inside\n")
    (oci.bundle / "rootfs/hook").chmod(0o755)

    def outside(name: str) -> dict[str, Any]:
        return {"path": "/bin/sh", "args": ["sh", "-c", f"cat >>{trace}; echo :{name} >>{trace}"], "env": ["PATH=/bin"]}

    oci.config["hooks"] = {
        name: [outside(name)] for name in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    }
    oci.config["hooks"]["startContainer"] = [{"path": "/hook", "args": ["hook", "startContainer"]}]
    oci.config["process"]["args"] = ["cat", "/tmp/inside"]
    done = oci("run", "six")
    assert (done.returncode, done.stdout) == (0, "startContainer\n"), done.stderr
    lines = trace.read_text().splitlines()
    names = [line.partition("}:")[2] for line in lines]
    assert names == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    assert json.loads(lines[0].partition(":prestart")[0])["status"] == "creating"
    oci.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    assert "cannot run the createRuntime hook /bin/false" in oci("run", "six").stderr


def test_as_root_of_a_user_namespace(oci: Runtime) -> None:
    """As Podman calls it: no user namespace in config.json, none made."""
    oci.config["process"]["args"] = ["sh", "-c", "readlink /proc/self/ns/user; cat /proc/self/status"]

    def work() -> tuple[str, str]:
        done = oci("run", "seven")
        assert done.returncode == 0, done.stderr
        return os.readlink("/proc/self/ns/user"), done.stdout

    around, out = in_namespaces(work)
    assert out.splitlines()[0] == around
    assert "CapEff:\t0000000000000020" in out and "NoNewPrivs:\t1" in out


def test_signals_reach_a_foreground_container(oci: Runtime) -> None:
    oci.config["process"]["args"] = [
        "sh",
        "-c",
        "trap 'echo got; exit 4' TERM; echo ready; while :; do sleep 0.05; done",
    ]
    oci.save()
    running = subprocess.Popen(
        [sys.executable, "-m", "rootless.runtime", "--root", str(oci.root), "run", "eight"],
        cwd=oci.bundle, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGTERM)
    assert running.communicate(timeout=20)[0] == "got\n"
    assert running.returncode == 4
