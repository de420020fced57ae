"""Ports published as sockets of AF_UNIX."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from netns import unixport
from netns.errors import NetworkError
from netns.process import PublishedPort, Settings, reserve_ports
from tests.netns.network import PATIENCE, Network, on_a_host, receive_all, serve_tcp


def test_only_its_owner_may_connect_and_the_name_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "port"
    (reservation,) = reserve_ports(Settings(publish=(PublishedPort(80, path=str(path)),)))
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    assert reservation.port.path == str(path)
    reservation.close()
    assert path.exists()  # whoever was given the socket has it
    reservation.remove()
    reservation.remove()
    assert not path.exists()


def test_a_name_that_is_left_over_is_taken_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "port")
    first, old = unixport.listen(path, 1)
    with pytest.raises(NetworkError, match="taken"):
        reserve_ports(Settings(publish=(PublishedPort(80, path=path),)))
    first.close()
    second, new = unixport.listen(path, 1)
    with second, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        if old != new:
            unixport.remove(path, old)
        assert os.path.exists(path)
        unixport.remove(path, new)
        assert not os.path.exists(path)


def test_what_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(NetworkError, match="taken"):
        reserve_ports(Settings(publish=(PublishedPort(80, path=str(path)),)))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(("length", "good"), [(60, True), (200, False)])
def test_a_path_longer_than_an_address(tmp_path: Path, length: int, good: bool) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    path = str(folder / ("n" * length))
    if not good:
        with pytest.raises(NetworkError, match="too long"):
            reserve_ports(Settings(publish=(PublishedPort(80, path=path),)))
        return
    for _ in range(2):  # the second takes over what the first left
        sock, _ = unixport.listen(path, 1)
        sock.close()
    assert os.listdir(folder) == ["n" * length]


def test_nowhere_to_be() -> None:
    with pytest.raises(NetworkError, match="No such file"):
        reserve_ports(Settings(publish=(PublishedPort(80, path="/nonexistent/port"),)))


def test_what_was_reserved_before_a_failure_is_removed(tmp_path: Path) -> None:
    good, bad = PublishedPort(80, path=str(tmp_path / "port")), PublishedPort(80, path="/nonexistent/port")
    with pytest.raises(NetworkError):
        reserve_ports(Settings(publish=(good, bad)))
    assert os.listdir(tmp_path) == []


@pytest.mark.userns
@pytest.mark.tun
@pytest.mark.parametrize("joins", [True, False])
def test_it_leads_to_the_guest(joins: bool) -> None:
    def work() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/port"
            with Network(Settings(publish=(PublishedPort(80, path=path),)), joins=joins) as network:
                ready, ready_write = os.pipe()

                def serve() -> None:
                    asked: list[bytes] = []
                    done, done_write = os.pipe()

                    def answer(connection: socket.socket) -> None:
                        asked.append(receive_all(connection))
                        connection.sendall(connection.getpeername()[0].encode() + b" " + asked[0])
                        connection.close()
                        os.write(done_write, b"1")

                    serve_tcp("0.0.0.0", answer, port=80)
                    os.write(ready_write, b"1")
                    os.read(done, 1)

                server = network.start(serve)
                assert os.read(ready, 1) == b"1"
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(PATIENCE)
                    sock.connect(path)
                    sock.sendall(b"question")
                    sock.shutdown(socket.SHUT_WR)
                    answer = receive_all(sock).decode()
                server.wait()
                for reservation in network.reservations:
                    reservation.remove()
            assert os.listdir(folder) == []
        return answer

    assert on_a_host(work) == ("10.0.2.100 question" if joins else "10.0.2.2 question")
