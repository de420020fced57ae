"""Our TCP and the guest's kernel's over a link that loses, repeats and reorders: everything arrives, once, in order."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import threading

import pytest

from netns import process
from netns.process import Settings
from tests.netns.bad_link import Chances, bad_link
from tests.netns.network import GATEWAY, GATEWAY6, Network, connect, on_a_host, receive_all, serve_tcp

pytestmark = [pytest.mark.userns, pytest.mark.tun]

BAD = Chances(lost=0.02, repeated=0.02, late=0.05)
SIZE = 6 << 20
BULK_PATIENCE = 100.0  # seconds: many losses in a row on a busy machine


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("mtu", [1500, 65520])
@pytest.mark.parametrize(("gateway", "loopback"), [(GATEWAY, "127.0.0.1"), (GATEWAY6, "::1")])
def test_bulk_arrives_whole_both_ways(seed: int, mtu: int, gateway: str, loopback: str) -> None:
    def work() -> None:
        process.Driver, process.Stack = bad_link(seed, BAD)  # type: ignore[misc]
        data = random.Random(seed).randbytes(SIZE)

        def server(connection: socket.socket) -> None:
            connection.settimeout(BULK_PATIENCE)
            heard = receive_all(connection)
            connection.sendall(digest(heard))
            connection.sendall(data)

        def client() -> bool:
            with connect(gateway, port) as sock:
                sock.settimeout(BULK_PATIENCE)  # of Python's sendall for all of it, not for some progress
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                answer = receive_all(sock)
            return answer[:64] == digest(data) and answer[64:] == data

        with Network(Settings(mtu=mtu, disable_host_loopback=False)) as network:
            port = serve_tcp(loopback, server)
            assert network.run(client)

    on_a_host(work)


def test_exchanges_and_ends_of_every_kind() -> None:
    """Small requests, half closes either way and resets, each on a connection of its own, several at a time."""

    def work() -> None:
        process.Driver, process.Stack = bad_link(7, Chances(lost=0.03, repeated=0.03, late=0.1, cut=0.01))  # type: ignore[misc]

        def server(connection: socket.socket) -> None:
            kind = connection.recv(1)
            if kind == b"r":  # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if kind == b"h":  # a half close of ours
                connection.sendall(b"farewell")
                connection.shutdown(socket.SHUT_WR)
                heard.append(receive_all(connection))
                return
            while data := connection.recv(4096):
                connection.sendall(data)

        def exchange(number: int) -> None:
            with connect(GATEWAY, port) as sock:
                if number % 3 == 0:
                    sock.sendall(b"r")
                    try:
                        ends.append(sock.recv(1) == b"never")
                    except ConnectionResetError:
                        ends.append(True)
                elif number % 3 == 1:
                    sock.sendall(b"h")
                    good = receive_all(sock) == b"farewell"
                    sock.sendall(b"after")
                    ends.append(good)
                else:
                    sock.sendall(b"e")
                    good = True
                    for turn in range(5):
                        sock.sendall(b"%d" % turn)
                        good &= sock.recv(10) == b"%d" % turn
                    ends.append(good)

        ends: list[bool] = []

        def client() -> list[bool]:
            threads = [threading.Thread(target=exchange, args=(number,)) for number in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return ends

        heard: list[bytes] = []
        with Network() as network:
            port = serve_tcp("127.0.0.1", server)
            assert network.run(client) == [True] * 12
            for _ in range(200):
                if len(heard) == 4:
                    break
                threading.Event().wait(0.05)
            assert heard == [b"after"] * 4

    on_a_host(work)


def test_a_reader_that_pauses_meets_a_window_of_zero() -> None:
    def work() -> None:
        process.Driver, process.Stack = bad_link(3, BAD)  # type: ignore[misc]
        data = os.urandom(4 << 20)

        def server(connection: socket.socket) -> None:
            sender = threading.Thread(target=connection.sendall, args=(data,))
            sender.start()
            threading.Event().wait(0.7)
            heard.append(receive_all(connection))
            sender.join()
            done.set()

        def client() -> bytes:
            with connect(GATEWAY, port) as sock:
                sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
                sender.start()
                threading.Event().wait(1.0)
                answer = bytearray()
                while len(answer) < len(data):
                    answer += sock.recv(1 << 16)
                sender.join()
            return digest(bytes(answer))

        heard: list[bytes] = []
        done = threading.Event()
        with Network() as network:
            port = serve_tcp("127.0.0.1", server)
            assert network.run(client) == digest(data)
            assert done.wait(20) and heard == [data]

    on_a_host(work)
