"""`network flows`, with a supervisor that answers from this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rootless.container import control
from rootless.container.containers import Container
from rootless.container.control import Message
from rootless.container.record import Network
from tests.rootless.cli.conftest import RUNNING, CommandLine

DOCUMENT = b"""{"flows": [
  {"protocol": "tcp", "direction": "out", "container": "10.0.2.100:40000", "far": "192.0.2.7:443",
   "name": "a.example", "state": "established", "received": 1500000, "sent": 120, "since": 65.5},
  {"protocol": "udp", "direction": "in", "container": "10.0.2.100:53", "far": "[fd00::2]:9", "name": null,
   "state": "unreplied", "received": 7, "sent": 0, "since": 0.25}],
 "denied": [{"protocol": "tcp", "far": "192.0.2.9", "port": 25, "count": 3}]}"""


@contextmanager
def answering(container: Container, document: bytes | None, error: str = "") -> Iterator[None]:
    """One question after the other, until told to end."""
    listener = control.listen(container)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            message, _ = control.receive(connection)
            assert message == Message(op="flows")
            if document is None:
                control.send(connection, Message(error=error))
                return
            fd = os.memfd_create("flows")
            os.write(fd, document)
            os.lseek(fd, 0, os.SEEK_SET)
            control.send(connection, Message(op="flows"), [fd])
            os.close(fd)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()


@pytest.fixture
def web(cli: CommandLine) -> Container:
    return cli.container("web", RUNNING, alive=True)


def test_a_table(cli: CommandLine, web: Container) -> None:
    with answering(web, DOCUMENT):
        heading, *rows = cli.lines("network", "flows", "web")
    titles = ["PROTOCOL", "DIRECTION", "CONTAINER", "FAR", "END", "NAME", "STATE", "RECEIVED", "SENT", "AGE"]
    assert heading.split() == titles
    assert "192.0.2.7:443" in rows[0] and "a.example" in rows[0] and "1.5MB" in rows[0] and "120B" in rows[0]
    assert "[fd00::2]:9" in rows[1] and " - " in rows[1] and len(rows) == 2


def test_for_programs(cli: CommandLine, web: Container) -> None:
    with answering(web, DOCUMENT):
        told = cli.json("network", "flows", "--format", "json", "web")
    assert [flow["received"] for flow in told] == [1500000, 7] and told[1]["name"] is None
    with answering(web, DOCUMENT):
        assert cli.lines("network", "flows", "--format", "{{.Far}} {{.State}}", "web")[0] == "192.0.2.7:443 established"


def test_what_was_refused(cli: CommandLine, web: Container) -> None:
    with answering(web, DOCUMENT):
        assert cli.lines("network", "flows", "--denied", "--noheading", "web")[0].split() == [
            "tcp",
            "192.0.2.9",
            "25",
            "3",
        ]


def test_the_network_of_another(cli: CommandLine, web: Container) -> None:
    cli.container("guest", RUNNING, network=Network(mode="container", target=web.id))
    with answering(web, DOCUMENT):
        assert len(cli.lines("network", "flows", "guest")) == 3


@pytest.mark.parametrize("document", [b"", b"[]", b'{"flows": [7], "denied": []}', b"\xff"])
def test_an_answer_that_is_none(cli: CommandLine, web: Container, document: bytes) -> None:
    with answering(web, document):
        result = cli("network", "flows", "web")
    assert result.code == 125 and "cannot be read" in result.err and result.err.count("\n") == 1


def test_no_answer(cli: CommandLine, web: Container) -> None:
    with answering(web, None, "the network is gone"):
        result = cli("network", "flows", "web")
    assert result.code == 125 and "the network is gone" in result.err
    assert "not running" in cli("network", "flows", "web").err


def test_networks_without_flows_of_ours(cli: CommandLine) -> None:
    cli.container("alone", RUNNING, network=Network(mode="host"))
    assert "its network is host" in cli("network", "flows", "alone").err
    assert "no container with name" in cli("network", "flows", "nobody").err
