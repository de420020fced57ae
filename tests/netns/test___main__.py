"""`python -m netns` as slirp4netns(1) would be used, by an ordinary user and with no helper."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns.__main__ import main

pytestmark = [pytest.mark.userns, pytest.mark.tun]

CHECKOUT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def guest() -> Iterator[int]:
    """The process id of a guest with namespaces of its own."""
    words = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


@contextlib.contextmanager
def slirp(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, ready; it leaves when its exit descriptor closes."""
    ready, ready_write = os.pipe()
    exit_fd, exit_write = socket.socketpair()
    words = [sys.executable, "-m", "netns", "-r", str(ready_write), "-e", str(exit_fd.fileno()), *options]
    with subprocess.Popen(words, pass_fds=(ready_write, exit_fd.fileno()), env=ENVIRONMENT) as process:
        os.close(ready_write)
        exit_fd.close()
        try:
            with open(ready, "rb") as file:
                assert file.read() == b"1"
            yield process
            exit_write.close()
            assert process.wait(20) == 0
        finally:
            exit_write.close()
            process.terminate()


def in_guest(guest: int, *words: str) -> str:
    command = ["nsenter", "-t", str(guest), "-U", "-n", "--preserve-credentials", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


FETCH = "import socket; s = socket.create_connection(('{}', {}), timeout=10); print(s.recv(100).decode())"


def test_configured_by_process_id(guest: int) -> None:
    port = serve_once(b"hello")
    with slirp(
        "-c", "-m", "9000", "-6", "--cidr", "10.9.8.0/24", "--macaddress", "02:00:00:00:00:07", str(guest), "tun9"
    ):
        text = in_guest(guest, "ip", "address", "show", "tun9")
        for part in ("10.9.8.100/24", "fd00::100/64", "mtu 9000", "02:00:00:00:00:07"):
            assert part in text
        assert in_guest(guest, sys.executable, "-c", FETCH.format("10.9.8.2", port)).strip() == "hello"


def serve_once(answer: bytes) -> int:
    """A server for one connection, in a process-wide thread that closes its socket."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def test_a_signal_ends_it_and_the_capture_is_whole(guest: int, tmp_path: Path) -> None:
    path, api = tmp_path / "pcap", tmp_path / "api"
    words = [sys.executable, "-m", "netns", "-c", "-r", "1", "-a", str(api), "--pcap", str(path), str(guest)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None and process.stdout.read(1) == b"1"
        assert "1 packets received" in in_guest(guest, "busybox", "ping", "-c", "1", "10.0.2.2")
        process.terminate()
        assert process.wait(20) == 0
    assert not api.exists()
    data = path.read_bytes()
    assert data[:4] == (0xA1B2C3D4).to_bytes(4, sys.byteorder) and data.count(b"\x08\x00\x45\x00") >= 2


def test_by_path_and_unconfigured(guest: int) -> None:
    with slirp("--netns-type=path", f"--userns-path=/proc/{guest}/ns/user", f"/proc/{guest}/ns/net", "tap7"):
        assert "state DOWN" in in_guest(guest, "ip", "link", "show", "tap7")


def call(path: str, request: object) -> Any:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(path)
        sock.sendall(request if isinstance(request, bytes) else json.dumps(request).encode())
        sock.shutdown(socket.SHUT_WR)
        return json.loads(sock.recv(65536))


SERVE = """
import socket
s = socket.create_server(("0.0.0.0", 80))
print("ready", flush=True)
c, peer = s.accept()
c.sendall(b"from the guest")
"""


def test_the_api(guest: int, tmp_path: Path) -> None:
    path = str(tmp_path / "api")
    with slirp("-c", "-a", path, "--disable-host-loopback", str(guest), "tap0"):
        words = ["nsenter", "-t", str(guest), "-U", "-n", "--preserve-credentials", sys.executable, "-c", SERVE]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            arguments = {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": 0, "guest_port": 80}
            assert call(path, {"execute": "add_hostfwd", "arguments": arguments}) == {"return": {"id": 1}}
            (entry,) = call(path, {"execute": "list_hostfwd"})["return"]["entries"]
            assert (entry["id"], entry["proto"], entry["guest_addr"]) == (1, "tcp", "10.0.2.100")
            with socket.create_connection(("127.0.0.1", entry["host_port"]), timeout=10) as sock:
                assert sock.recv(100) == b"from the guest"
        assert call(path, {"execute": "get_info"})["return"]["cidr"] == "10.0.2.0/24"
        assert call(path, {"execute": "remove_hostfwd", "arguments": {"id": 1}}) == {"return": {}}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", entry["host_port"]), timeout=10)
        for bad in (
            {"execute": "remove_hostfwd", "arguments": {"id": 1}}, {"execute": "add_hostfwd"}, {"execute": 3}, [], b"{",
            {"execute": "add_hostfwd", "arguments": {**arguments, "host_addr": "nonsense"}},
            {"execute": "add_hostfwd", "arguments": {**arguments, "guest_port": 70000}},
        ):  # fmt: skip
            assert "desc" in call(path, bad)["error"]
    assert not os.path.exists(path)


@pytest.mark.parametrize(
    "words",
    [["-c", "no-pid"], ["-c", "999999999"], ["--netns-type=path", "/nonexistent"], ["-m", "9", "1"],
     ["--cidr", "x", "1"]],
)  # fmt: skip
def test_errors_are_one_sentence(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    error = capfd.readouterr().err
    assert error.startswith("rcontain-slirp: ") and error.count("\n") == 1
