"""rcontain inspect."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from rootless.container.options import Link, Published
from rootless.container.record import Network, State
from rootless.image.store import Store
from rootless.oci import runtime
from tests.kit.images import Layout, file, pack, tar

from .conftest import EXITED, HELLO, MOUNTS, NAME, PORTS, RUNNING, CommandLine


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


def test_the_network_is_the_containers_own(cli: CommandLine) -> None:
    link = Link(cidr="192.168.7.0/24", ipv6=False, mac="02:00:00:00:00:07", egress=("deny",))
    path = Published(host_ip="", host_port=0, container_port=90, protocol="tcp", path="/run/x")
    web = cli.container("web", RUNNING, network=Network(mode="user", link=link, published=(*PORTS, path)))
    cli.container("guest", RUNNING, network=Network(mode="container", target=web.id))
    cli.container("alone", RUNNING, network=Network(mode="none"))
    told, guest, alone = cli.json("inspect", "web", "guest", "alone")
    own = told["NetworkSettings"]
    assert (own["Gateway"], own["IPAddress"], own["IPPrefixLen"]) == ("192.168.7.2", "192.168.7.100", 24)
    assert (own["MacAddress"], own["GlobalIPv6Address"], own["IPv6Gateway"]) == ("02:00:00:00:00:07", "", "")
    assert own["Ports"]["90/tcp"] == [{"HostIp": "", "HostPort": "unix:/run/x"}]
    assert told["HostConfig"]["Egress"] == ["deny"] and told["HostConfig"]["NetworkMode"] == "user"
    assert guest["NetworkSettings"] == own and guest["HostConfig"]["NetworkMode"] == f"container:{web.id}"
    assert alone["NetworkSettings"]["IPAddress"] == "" and alone["NetworkSettings"]["Networks"] == {}
    assert "unix:/run/x->90/tcp" in cli.lines("ps", "-a", "--filter", "name=web", "--format", "{{.Ports}}")[0]
    assert cli.lines("ps", "-aq", "--no-trunc", "--filter", f"network=container:{web.id}") == [guest["Id"]]


def test_a_network_whose_process_has_died(cli: CommandLine) -> None:
    """Its ports lead nowhere any more; what was asked for is still known."""
    state = structs.replace(RUNNING, published=(), error="the process has died", warnings=("a warning",))
    cli.container("web", state, alive=True, network=Network(mode="user", published=PORTS))
    (told,) = cli.json("inspect", "web")
    assert (told["State"]["Error"], told["State"]["Warnings"]) == ("the process has died", ["a warning"])
    assert told["NetworkSettings"]["Ports"] == {} and "80/tcp" in told["HostConfig"]["PortBindings"]
    assert cli.lines("ps", "--format", "{{.Ports}}.") == ["."]


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


def test_an_images_less_common_settings(cli: CommandLine) -> None:
    config = {
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30000000000, "Retries": 3},
        "OnBuild": ["RUN true"],
        "Shell": ["/bin/sh", "-ec"],
    }
    Layout(cli.settings.data).image("localhost/x:latest", [pack(tar([file("a")]))], config)
    shown = cli.json("image", "inspect", "x")[0]["Config"]
    assert {name: shown[name] for name in config} == config
    cli.images()
    assert not config.keys() & cli.json("image", "inspect", HELLO)[0]["Config"].keys()
    assert cli.lines("image", "inspect", "-f", "{{.Config.OnBuild}}", HELLO) == ["[]"]
