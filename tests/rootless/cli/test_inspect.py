"""rcontain inspect."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.container.record import Network, State
from rootless.image.store import Store
from rootless.oci import runtime

from .conftest import EXITED, MOUNTS, NAME, PORTS, RUNNING, CommandLine


@pytest.fixture
def web(cli: CommandLine) -> CommandLine:
    cli.images()
    container = cli.container(
        "web",
        RUNNING,
        alive=True,
        network=Network(mode="user", published=PORTS, dns=("9.9.9.9",)),
        mounts=MOUNTS,
        labels={"team": "a"},
        stop_signal=2,
        environment=("A=1",),
        exposed_ports=("80/tcp", "81/tcp"),
    )
    spec = runtime.Spec(
        process=runtime.Process(
            args=("/bin/sh",), env=("A=1", "HOME=/"), capabilities=runtime.Capabilities(bounding=("CAP_KILL",))
        ),
        mounts=(runtime.Mount(destination="/etc/hosts", source="/x/hosts"),),
    )
    Path(container.path, "config.json").write_bytes(runtime.encode(spec))
    return cli


def test_a_container(web: CommandLine) -> None:
    (told,) = web.json("inspect", "web")
    assert told["Name"] == "web"
    assert (told["Path"], told["Args"]) == ("/bin/sh", ["-c", "echo hello to everybody"])
    assert told["Config"]["Entrypoint"] == ["/bin/sh"]
    assert told["Config"]["Cmd"] == ["-c", "echo hello to everybody"]
    state = told["State"]
    assert (state["Status"], state["Running"], state["Pid"], state["ExitCode"]) == ("running", True, 4242, 0)
    assert state["StartedAt"] == "2023-11-14T22:13:20.000000000Z"
    assert state["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert told["NetworkSettings"]["Ports"]["80/tcp"] == [{"HostIp": "0.0.0.0", "HostPort": "8080"}]
    assert told["HostConfig"]["PortBindings"]["53/udp"] == [{"HostIp": "::1", "HostPort": "53"}]
    assert told["Config"]["ExposedPorts"].keys() == {"80/tcp", "81/tcp", "53/udp"}
    assert told["Config"]["StopSignal"] == "SIGINT"
    assert told["Config"]["Env"] == ["A=1", "HOME=/"]
    bind, volume = told["Mounts"]
    assert (bind["Type"], bind["Source"], bind["Destination"], bind["RW"]) == ("bind", "/srv/data", "/data", False)
    assert (bind["Propagation"], bind["Options"]) == ("rprivate", ["rbind"])
    assert (volume["Type"], volume["Name"], volume["RW"]) == ("volume", "x", True)
    assert volume["Source"] == f"{web.settings.volumes}/x/_data"
    assert told["HostConfig"]["Tmpfs"] == {"/scratch": "size=1m"}
    assert told["HostConfig"]["Binds"] == ["/srv/data:/data:ro,rbind,rprivate", "x:/var/x:rw"]
    assert told["BoundingCaps"] == ["CAP_KILL"]
    assert told["HostsPath"] == "/x/hosts"
    assert told["ImageName"] == NAME


def test_by_beginning_of_the_id_and_without_a_start(cli: CommandLine) -> None:
    container = cli.container("new", environment=("B=2",))
    (told,) = cli.json("container", "inspect", container.id[:10])
    assert told["Id"] == container.id
    assert told["State"]["Status"] == "created"
    assert told["Config"]["Env"] == ["B=2"]
    assert told["HostsPath"] == ""


def test_exited_and_killed(cli: CommandLine) -> None:
    cli.container("done", EXITED)
    cli.container("gone", RUNNING)
    template = "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.State.Pid}}"
    assert cli.lines("inspect", "-f", template, "done", "gone") == ["exited false 3 0", "exited false 137 0"]


def test_an_image(web: CommandLine) -> None:
    (told,) = web.json("inspect", NAME)
    assert told["Id"] == Store(web.settings.data).resolve(NAME).id
    assert told["RepoTags"] == [NAME]
    assert told["Config"] == {
        "User": "",
        "ExposedPorts": {},
        "Env": ["PATH=/bin"],
        "Entrypoint": [],
        "Cmd": ["/bin/sh"],
        "Volumes": {},
        "WorkingDir": "",
        "Labels": {"team": "a"},
        "StopSignal": "",
    }
    assert len(told["RootFS"]["Layers"]) == 2
    assert told["Created"] == "2024-01-02T03:04:05.678901234Z"
    assert told["History"][0] == {"created": "2024-01-02T03:04:05Z", "created_by": "layer 0"}
    assert web.lines("image", "inspect", "-f", "{{.Os}} {{.ID}}", told["Id"][:8]) == [f"linux {told['Id']}"]


def test_types(web: CommandLine) -> None:
    web("tag", NAME, "web")
    assert web.lines("inspect", "-f", "{{.Name}}", "web") == ["web"]
    assert web.lines("inspect", "--type", "image", "-f", "{{index .RepoTags 0}}", "web") == [NAME]
    result = web("inspect", "--type", "container", NAME)
    assert (result.code, result.out) == (125, "[]\n")
    assert "no such container" in result.err
    assert web("image", "inspect", "nothing").err.startswith("Error: ")
    assert web("inspect", "--type", "pod", "web").code == 125


def test_what_is_found_is_shown_and_what_is_not_is_said(web: CommandLine) -> None:
    result = web("inspect", "-f", "{{.Name}}", "nope", "web")
    assert (result.code, result.out) == (125, "web\n")
    assert result.err == 'Error: no such object: "nope"\n'
    assert web("inspect", "nope").out == "[]\n"
    assert web("inspect").code == 125


def test_a_damaged_container(cli: CommandLine) -> None:
    container = cli.container("broken")
    Path(container.path, "config.json").write_bytes(b"[")
    result = cli("inspect", "broken")
    assert result.code == 125
    assert "config.json is damaged" in result.err
    Path(container.path, "container.json").write_bytes(b"[")
    assert "is damaged" in cli("inspect", "broken").err


def test_latest_and_size(cli: CommandLine) -> None:
    cli.container("one")
    container = cli.container("two", State(status="created"))
    with open(f"{container.path}/upper/f", "wb") as file:
        file.write(b"four")
    (told,) = cli.json("inspect", "--latest", "--size")
    assert (told["Name"], told["SizeRw"]) == ("two", 4)
