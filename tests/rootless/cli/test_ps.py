"""rcontain ps."""

from __future__ import annotations

import pytest

from rootless.container.record import Network, State

from .conftest import EXITED, MOUNTS, PORTS, RUNNING, CommandLine


@pytest.fixture
def three(cli: CommandLine) -> CommandLine:
    cli.container("old", EXITED, labels={"team": "a", "tier": "web"})
    cli.container(
        "web", RUNNING, alive=True, network=Network(mode="user", published=PORTS), mounts=MOUNTS, labels={"team": "b"}
    )
    cli.container("new", image_name="docker.io/library/hello:latest", image_id="ff" * 32, command=("/hello",))
    return cli


def names(cli: CommandLine, *argv: str) -> list[str]:
    return cli.lines("ps", "--format", "{{.Names}}", *argv)


def test_only_what_runs_and_newest_first(three: CommandLine) -> None:
    assert names(three) == ["web"]
    assert names(three, "-a") == ["new", "web", "old"]
    assert names(three, "-n", "2") == ["new", "web"]
    assert names(three, "-l") == ["new"]
    assert three.lines("container", "ls", "--format", "{{.Names}}") == ["web"]


def test_the_table(three: CommandLine) -> None:
    heading, new, web, old = three.lines("ps", "-a")
    assert heading.split("  ")[0] == "CONTAINER ID"
    columns = {title: heading.index(title) for title in ("IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")}
    assert old[columns["STATUS"] :].startswith("Exited (3) ")
    assert new[columns["STATUS"] :].startswith("Created")
    assert web[columns["STATUS"] :].startswith("Up ")
    assert web[columns["COMMAND"] :].startswith("/bin/sh -c echo h...  ")
    assert web[columns["PORTS"] :].startswith("0.0.0.0:8080->80/tcp, [::1]:53->53/udp  ")
    assert new[columns["NAMES"] :] == "new"
    assert three.lines("ps", "-a", "--noheading") == [new, web, old]


def test_ids(three: CommandLine) -> None:
    short = three.lines("ps", "-aq")
    full = three.lines("ps", "-aq", "--no-trunc")
    assert [len(id) for id in short + full] == [12] * 3 + [64] * 3
    assert short == [id[:12] for id in full]
    assert three.lines("ps", "--noheading", "--no-trunc")[0].startswith(full[1])
    assert "echo hello to everybody" in three.lines("ps", "--noheading", "--no-trunc")[0]


def test_json_has_podmans_names(three: CommandLine) -> None:
    new, web, old = three.json("ps", "-a", "--format", "json")
    assert web["Names"] == ["web"]
    assert web["State"] == "running"
    assert web["Ports"][0] == {"host_ip": "", "container_port": 80, "host_port": 8080, "range": 1, "protocol": "tcp"}
    assert web["Pid"] == 4242
    assert web["Mounts"] == ["/data", "/var/x", "/scratch"]
    assert (old["Exited"], old["ExitCode"], old["ExitedAt"]) == (True, 3, 1_700_000_005)
    assert new["StartedAt"] == -62135596800
    assert new["ImageID"] == "ff" * 32
    assert {"Command", "CreatedAt", "Created", "Id", "Image", "Labels", "Networks", "Status"} <= new.keys()


def test_templates(three: CommandLine) -> None:
    assert three.lines("ps", "--format", "{{len .ID}} {{.State}}") == ["12 running"]
    assert three.lines("ps", "--format", "{{json .Labels}}") == ['{"team":"b"}']
    assert three.lines("ps", "--format", '{{.Labels.team}} {{index .Labels "none"}}.') == ["b ."]
    assert three.lines("ps", "--format", '{{.Label "team"}}{{.Label "none"}}') == ["b"]
    assert three.lines("ps", "--format", 'table {{.Label "team"}}') == ["LABEL", "b"]
    assert "a method wants one argument" in three("ps", "--format", "{{.Label}}").err
    table = three.lines("ps", "-a", "--format", r"table {{.Names}}\t{{.Status}}")
    assert table[0] == "NAMES       STATUS"
    assert table[1] == "new         Created"
    assert three.lines("ps", "-a", "--format", "{{range .}}{{.Names}},{{end}}") == ["new,web,old,"]
    result = three("ps", "--format", "{{.Bogus}}")
    assert result.code == 125
    assert "there is no field .Bogus in ContainerSummary; the fields are AutoRemove, Command" in result.err


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["name=e"], ["new", "web"]),
        (["name=^old$"], ["old"]),
        (["status=exited"], ["old"]),
        (["status=exited", "status=created"], ["new", "old"]),
        (["label=team"], ["web", "old"]),
        (["label=team=a"], ["old"]),
        (["label=team=a", "label=tier=db"], []),
        (["exited=3"], ["old"]),
        (["exited=0"], []),
        (["ancestor=hello"], ["new"]),
        (["ancestor=docker.io/library/hello:latest"], ["new"]),
        (["ancestor=registry.example.org/team/demo"], ["web", "old"]),
        (["ancestor=fffff"], ["new"]),
        (["before=web"], ["old"]),
        (["since=web"], ["new"]),
        (["volume=x"], ["web"]),
        (["network=user", "name=w"], ["new", "web"]),
    ],
)
def test_filters(three: CommandLine, filters: list[str], expected: list[str]) -> None:
    assert names(three, "-a", *(word for text in filters for word in ("--filter", text))) == expected


def test_a_status_filter_implies_all(three: CommandLine) -> None:
    assert names(three, "--filter", "status=exited") == ["old"]


@pytest.mark.parametrize(
    "text", ["bogus=1", "name", "status=flying", "exited=many", "name=(", "since=nobody", "label!=a"]
)
def test_wrong_filters(three: CommandLine, text: str) -> None:
    result = three("ps", "--filter", text)
    assert (result.code, result.out) == (125, "")
    assert result.err.startswith("Error: ")


@pytest.mark.parametrize(
    ("key", "expected"),
    [("names", ["new", "old", "web"]), ("status", ["new", "old", "web"]), ("created", ["new", "web", "old"])],
)
def test_sort(three: CommandLine, key: str, expected: list[str]) -> None:
    assert names(three, "-a", "--sort", key) == expected


def test_size(three: CommandLine) -> None:
    container = three.container("fat")
    with open(f"{container.path}/upper/file", "wb") as file:
        file.write(bytes(12_345))
    assert three.lines("ps", "-a", "-s", "--filter", "name=fat", "--format", "{{.Size}}") == ["12.3kB (virtual 12.3kB)"]
    assert three.json("ps", "-as", "--filter", "name=fat", "--format", "json")[0]["Size"] == {
        "rootFsSize": 12345,
        "rwSize": 12345,
    }


def test_a_container_whose_supervisor_was_killed_has_exited(cli: CommandLine) -> None:
    cli.container("gone", RUNNING)
    assert names(cli) == []
    assert cli.lines("ps", "-a", "--format", "{{.State}} {{.ExitCode}}") == ["exited 137"]


def test_bound_ports_come_from_the_state(cli: CommandLine) -> None:
    state = State(status="running", published=(PORTS[0],))
    cli.container("web", state, alive=True)
    assert cli.lines("ps", "--format", "{{.Ports}}") == ["0.0.0.0:8080->80/tcp"]


def test_ports_that_the_image_exposes(cli: CommandLine) -> None:
    cli.container("web", network=Network(mode="user", published=PORTS), exposed_ports=("80/tcp", "81", "53/tcp"))
    (shown,) = cli.lines("ps", "-a", "--format", "{{.Ports}}")
    assert shown == "0.0.0.0:8080->80/tcp, [::1]:53->53/udp, 81/tcp, 53/tcp"


def test_a_damaged_container_does_not_hide_the_others(three: CommandLine) -> None:
    broken = three.container("broken")
    with open(f"{broken.path}/container.json", "w") as file:
        file.write("{")
    assert names(three, "-a") == ["new", "web", "old"]


def test_what_a_label_says_cannot_change_the_terminal(cli: CommandLine) -> None:
    cli.container("a", command=("\x1b[31mred\nline",))
    (line,) = cli.lines("ps", "-a", "--noheading")
    assert r"\x1b[31mred\nline" in line
