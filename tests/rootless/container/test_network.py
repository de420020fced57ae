"""What a container's network becomes on the host's side."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
import pytest
import trio

import netns.process
from rootless.container import network
from rootless.container.children import Child
from rootless.container.options import Link
from rootless.container.record import Network
from rootless.errors import HostError, UsageError


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.2.15", None])
def test_the_gateway_leads_to_the_host(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.setattr(netns.process, "host_address", lambda: address)
    assert network.reserve(Network(mode="user")).settings.behind_gateway == address
    assert network.reserve(Network(mode="user", host_loopback=True)).settings.behind_gateway is None


def test_a_record_of_an_older_version_is_read() -> None:
    old = b'{"mode":"user","host_loopback":true,"published":[],"dns":["192.0.2.1"],"dns_search":[],"add_hosts":[]}'
    wanted = msgspec.json.decode(old, type=Network)
    assert wanted == Network(mode="user", host_loopback=True, dns=("192.0.2.1",))
    settings = network.reserve(wanted).settings
    assert (settings.mtu, settings.cidr, settings.interface, settings.egress) == (65520, "10.0.2.0/24", "tap0", ())


def test_everything_arrives() -> None:
    link = Link(
        mtu=1500,
        cidr="192.168.7.0/24",
        ipv6=False,
        interface="eth0",
        mac="02:00:00:00:00:07",
        outbound="127.0.0.1",
        outbound6="lo",
        egress=("deny",),
    )
    settings = network.reserve(Network(mode="user", link=link, dns=("192.0.2.1",), dns_search=("a.test", "."))).settings
    assert (settings.mtu, settings.cidr, settings.ipv6, settings.interface) == (1500, "192.168.7.0/24", False, "eth0")
    assert (settings.mac, settings.outbound, settings.outbound6) == ("02:00:00:00:00:07", "127.0.0.1", "lo")
    assert (settings.egress, settings.dns, settings.search) == (("deny",), ("192.0.2.1",), ("a.test",))


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (Link(outbound="192.0.2.77"), "192.0.2.77"),
        (Link(outbound6="nosuchlink0"), "nosuchlink0"),
        (Link(pcap="/no/such/file"), "/no/such/file"),
    ],
)
def test_what_the_machine_cannot_provide(link: Link, words: str) -> None:
    with pytest.raises(HostError, match=words):
        network.reserve(Network(mode="user", link=link))


def test_a_capture_is_only_the_users_to_read(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    network.reserve(Network(mode="user", link=Link(pcap=str(path))))
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "link", [Link(mtu=575), Link(cidr="10.0.0.0/26"), Link(mac="x"), Link(interface="a/b"), Link(egress=("permit",))]
)
def test_networks_that_cannot_be(link: Link) -> None:
    with pytest.raises(UsageError):
        network.check(Network(mode="user", link=link))


def test_as_the_flag_takes_it() -> None:
    assert str(Network(mode="user")) == "user" and str(Network(mode="ns", target="/a")) == "ns:/a"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ""),
        (b"2026-11-24T00:00:00Z a note\n", ""),
        (b"a note\nrcontain net: ValueError: what\nanother\n", "rcontain net: ValueError: what"),
        (b"\xff" * 10000 + b"\nrcontain net: OSError: no", "rcontain net: OSError: no"),
    ],
)
def test_the_last_words_of_a_process(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "net.log").write_bytes(content)
    assert network.last_words(str(tmp_path / "net.log")) == words
    assert network.last_words(str(tmp_path / "absent")) == ""


class Line:
    """A server of a network whose process is this one: `far` is its end of the line."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ready, self.ready = os.pipe()
        self.server = network.Server(cast(Child, None), near, ready)
        self.notes: list[str] = []
        self.answers: list[tuple[bytes, str]] = []

    def answer(self, fd: int | None, error: str) -> None:
        self.answers.append((b"" if fd is None else os.pread(fd, 100, 0), error))

    def say(self, data: bytes, *content: bytes) -> None:
        fds = [os.memfd_create("flows") for _ in content]
        for fd, text in zip(fds, content, strict=True):
            os.write(fd, text)
        socket.send_fds(self.far, [data], fds)
        for fd in fds:
            os.close(fd)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.server.close()
    made.far.close()
    os.close(made.ready)


async def attach(line: Line) -> None:
    os.write(line.ready, b"1")
    null = os.open("/dev/null", os.O_RDONLY)
    await line.server.attach(null)
    os.close(null)
    _, fds, _, _ = socket.recv_fds(line.far, 10, 1)
    os.close(fds[0])


async def test_what_the_process_says_is_heard_until_it_dies(line: Line) -> None:
    await attach(line)
    for _ in range(3):
        line.server.ask_flows(line.answer)
    assert [line.far.recv(100) for _ in range(3)] == [b'{"ask": "flows"}'] * 3
    line.say(b'{"flows": "memfd"}', b"first")
    line.say(b'{"note": "something is odd"}')
    for data in (b"not json", b"[]", b'{"note": 7}', b"\xff"):
        line.say(data, b"unasked")
    line.say(b'{"error": "no room"}')
    line.far.close()
    with trio.fail_after(10):
        await line.server.attend(line.notes.append)
    assert line.notes == ["something is odd"]
    assert line.answers == [
        (b"first", "the network did not answer"),
        (b"", "no room"),
        (b"", network.DIED),
    ]
    line.server.ask_flows(line.answer)
    assert line.answers[-1] == (b"", network.DIED)


async def test_a_process_that_dies_early(line: Line) -> None:
    line.far.close()
    os.close(line.ready)
    line.ready = os.dup(0)
    null = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(HostError, match="its process has died"):
        await line.server.attach(null)
    os.close(null)
    await line.server.attend(line.notes.append)


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        (["[]"], 1),
        (["[1]", "[2]", "[3]", "[3]", "[4]"], 4),
        (["[1]", "[]"], 2),
        (["not json"], 1),
    ],
)
async def test_the_last_bytes_of_a_container_arrive(line: Line, answers: list[str], asked: int) -> None:
    """It is asked again for as long as bytes move."""
    await attach(line)
    said = 0

    async def answer() -> None:
        nonlocal said
        line.far.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(line.far)
            line.far.recv(100)
            counts = re.findall("[0-9]+", answers[min(said, len(answers) - 1)])
            flow = '{"container": "a", "far": "b", "received": 0, "sent": %s, "state": "established"}'
            flows = ",".join(flow % count for count in counts)
            text = f'{{"flows": [{flows}]}}' if answers != ["not json"] else "not json"
            said += 1
            line.say(b'{"flows": "memfd"}', text.encode())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.server.attend, line.notes.append)
            nursery.start_soon(answer)
            await line.server.settled()
            nursery.cancel_scope.cancel()
    assert said == asked
