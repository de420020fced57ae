"""slirp4netns's API as its clients speak it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.command import a_guest, into_guest, slirp

pytestmark = [pytest.mark.userns, pytest.mark.tun]

SERVE = """
import socket
s = socket.create_server(("0.0.0.0", 80))
print("ready", flush=True)
c, peer = s.accept()
c.sendall(b"from the guest")
"""
FORWARD = {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": 0, "guest_port": 80}


class Api:
    """The socket of a running network."""

    def __init__(self, path: str, guest: int) -> None:
        self.path = path
        self.guest = guest

    def __call__(self, request: object) -> Any:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(self.path)
            sock.sendall(request if isinstance(request, bytes) else json.dumps(request).encode())
            sock.shutdown(socket.SHUT_WR)
            answer = bytearray()
            while data := sock.recv(65536):
                answer += data
            return json.loads(answer)

    def add(self, **arguments: object) -> Any:
        return self({"execute": "add_hostfwd", "arguments": {**FORWARD, **arguments}})

    def refusal(self, request: object) -> str:
        answer = self(request)
        assert list(answer) == ["error"] and list(answer["error"]) == ["desc"]
        return str(answer["error"]["desc"])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    path = str(tmp_path / "api")
    with a_guest() as guest:
        confined = ("--enable-sandbox", "--enable-seccomp")
        with slirp("-c", "-a", path, "--disable-host-loopback", *confined, str(guest), "tap0"):
            yield Api(path, guest)
        assert not os.path.exists(path)


def test_a_port_comes_and_goes(api: Api) -> None:
    words = into_guest(api.guest, sys.executable, "-c", SERVE)
    with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        assert api.add() == {"return": {"id": 1}}
        answer = api({"execute": "list_hostfwd"})
        assert answer["entries"] == answer["return"]["entries"]
        (entry,) = answer["entries"]
        assert (entry["id"], entry["proto"], entry["guest_addr"]) == (1, "tcp", "10.0.2.100")
        with socket.create_connection(("127.0.0.1", entry["host_port"]), timeout=10) as sock:
            assert sock.recv(100) == b"from the guest"
    assert api({"execute": "get_info"})["return"]["cidr"] == "10.0.2.0/24"
    assert api({"execute": "remove_hostfwd", "arguments": {"id": 1}}) == {"return": {}}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", entry["host_port"]), timeout=10)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_empty_addresses_are_the_usual_ones(api: Api, protocol: str) -> None:
    assert api.add(proto=protocol, host_addr="", guest_addr="") == {"return": {"id": 1}}
    (entry,) = api({"execute": "list_hostfwd"})["entries"]
    assert (entry["host_addr"], entry["guest_addr"]) == ("0.0.0.0", "10.0.2.100")


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (b"{", "bad request: cannot parse JSON"),
        (b"", "bad request: cannot parse JSON"),
        (b"[" * 4095, "bad request: cannot parse JSON"),
        (b" " * 4096, "bad request: too large message"),
        ([], "bad request: no execute found"),
        ({"execute": 3}, "bad request: no execute found"),
        ({"execute": "unknown"}, "bad request: unknown execute"),
        ({"execute": "add_hostfwd"}, "bad request: add_hostfwd: bad arguments.proto"),
        ({"execute": "add_hostfwd", "arguments": []}, "bad request: add_hostfwd: bad arguments.proto"),
        ({"execute": "remove_hostfwd", "arguments": {"id": 1}}, "bad request: remove_hostfwd: bad arguments.id"),
    ],
)
def test_refusals(api: Api, request_: object, sentence: str) -> None:
    assert api.refusal(request_) == sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("proto", "sctp"), ("host_addr", "nonsense"), ("host_addr", 7), ("host_port", None), ("host_port", 65536),
        ("host_port", "80"), ("host_port", True), ("guest_addr", "10.0.2.7"), ("guest_port", 0), ("guest_port", 70000),
    ],
)  # fmt: skip
def test_refused_arguments(api: Api, name: str, value: object) -> None:
    arguments = {**FORWARD, name: value}
    assert api.refusal({"execute": "add_hostfwd", "arguments": arguments}) == (
        f"bad request: add_hostfwd: bad arguments.{name}"
    )


def test_a_port_that_cannot_be_had(api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = {**FORWARD, "host_port": taken.getsockname()[1]}
        sentence = api.refusal({"execute": "add_hostfwd", "arguments": arguments})
    assert sentence.startswith("bad request: add_hostfwd: slirp_add_hostfwd failed: ") and "in use" in sentence


def test_a_long_answer_arrives_whole_whatever_others_do(api: Api) -> None:
    idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for sock in idle:
        sock.connect(api.path)
    for number in range(1, 1201):
        assert api.add(proto="udp") == {"return": {"id": number}}
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        slow.connect(api.path)
        slow.sendall(b'{"execute": "list_hostfwd"}')
        assert len(api({"execute": "list_hostfwd"})["entries"]) == 1200
        answer = bytearray()
        while data := slow.recv(1 << 16):
            answer += data
    assert len(json.loads(answer)["entries"]) == 1200
    for sock in idle:
        sock.close()
