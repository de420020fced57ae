"""A command line of one's own: `run` in this process, with a session that stands for the engine's."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import trio

from rootless.cli import main
from rootless.container import afterwards, lock
from rootless.container.containers import Container, Containers, new_id
from rootless.container.options import CreateOptions, Published
from rootless.container.record import MountPoint, Network, Record, State
from rootless.container.timestamps import rfc3339
from rootless.settings import Settings, from_environment
from tests.kit.images import Layout, directory, file, pack, tar

T = TypeVar("T")
NAME = "registry.example.org/team/demo:1"
HELLO = "docker.io/library/hello:latest"
START = 1_700_000_000 * 10**9


class FakeSession:
    def __init__(self, environment: Mapping[str, str], cwd: str) -> None:
        self.environment = environment
        self.cwd = cwd
        self.settings = from_environment(environment)

    def is_terminal(self, fd: int) -> bool:
        return False

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        return trio.run(function, *args)


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str


class CommandLine:
    """`cli("ps", "-a")` runs a command and gives its Result."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capture = capture
        self.environment = {
            "HOME": str(root),
            "XDG_DATA_HOME": str(root / "data"),
            "XDG_RUNTIME_DIR": str(root / "run"),
            "PATH": os.environ["PATH"],
        }
        (root / "run").mkdir(mode=0o700)
        self.settings: Settings = from_environment(self.environment)
        os.makedirs(self.settings.data)
        self._made = 0
        self._locks: list[int] = []

    def __call__(self, *argv: str, env: Mapping[str, str] | None = None) -> Result:
        self._capture.readouterr()
        session = FakeSession({**self.environment, **(env or {})}, str(self.root))
        code = main.run(list(argv), session)
        afterwards.run()
        out, err = self._capture.readouterr()
        return Result(code, out, err)

    def lines(self, *argv: str) -> list[str]:
        """The lines of a command that must succeed."""
        result = self(*argv)
        assert (result.code, result.err) == (0, "")
        return result.out.splitlines()

    def json(self, *argv: str) -> Any:
        result = self(*argv)
        assert (result.code, result.err) == (0, "")
        return msgspec.json.decode(result.out)

    def images(self) -> None:
        """Two small images in the store: NAME with two layers, HELLO with one."""
        layout = Layout(self.settings.data)
        base = pack(tar([directory("etc"), file("etc/motd", b"hello\n")]))
        layout.image(
            NAME,
            [base, pack(tar([file("etc/more", b"more\n")]))],
            {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": {"team": "a"}},
        )
        layout.image(HELLO, [base], {"Entrypoint": ["/hello"]})

    def container(self, name: str, state: State | None = None, *, alive: bool = False, **fields: Any) -> Container:
        """A container in the store, made a second after the one before. With `alive` this process is its supervisor."""
        self._made += 1
        record = {
            "id": new_id(),
            "name": name,
            "created": rfc3339(START + self._made * 10**9),
            "image_id": "ab" * 32,
            "image_name": NAME,
            "image_digest": f"sha256:{'cd' * 32}",
            "layers": (),
            "command": ("/bin/sh", "-c", "echo hello to everybody"),
            "entrypoint": ("/bin/sh",),
            "hostname": "box",
            "storage_driver": "fuse",
            "uid_map": ((0, 0, 1), (1, 1, 65536)),
            "gid_map": ((0, 0, 1), (1, 1, 65536)),
            "user_namespace": "host",
            "network": Network(mode="user"),
            "options": CreateOptions(image=NAME),
            **fields,
        }
        container = Containers(self.settings).create(Record(**record))
        running = state is not None and state.status in ("running", "stopping")
        if running or alive:
            os.makedirs(container.live)
        if state is not None:
            (container.write_live_state if running else container.write_last_state)(state)
        if alive:
            held = lock.hold(f"{container.live}/lock")
            assert held is not None
            self._locks.append(held)
        return container

    def let_go(self) -> None:
        while self._locks:
            os.close(self._locks.pop())


RUNNING = State(status="running", pid=4242, started_at=rfc3339(START), supervisor=4241)
EXITED = State(status="exited", exit_code=3, started_at=rfc3339(START), finished_at=rfc3339(START + 5 * 10**9))
PORTS = (
    Published(host_ip="", host_port=8080, container_port=80, protocol="tcp"),
    Published(host_ip="::1", host_port=53, container_port=53, protocol="udp"),
)
MOUNTS = (
    MountPoint(type="bind", source="/srv/data", destination="/data", options=("ro", "rbind", "rprivate")),
    MountPoint(type="volume", source="/v/x/_data", destination="/var/x", options=("rw",), name="x"),
    MountPoint(type="tmpfs", source="tmpfs", destination="/scratch", options=("size=1m",)),
)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with tempfile.TemporaryDirectory(prefix="rc-cli-") as root:
        line = CommandLine(Path(root), capfd)
        yield line
        line.let_go()
