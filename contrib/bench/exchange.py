"""Small exchanges for contrib/bench/net: a server that answers, and a client that counts answers.

    python exchange.py serve ADDRESS PORT       echoes TCP and UDP at PORT, answers DNS queries at port 53; says "ready"
    python exchange.py KIND ADDRESS PORT SECONDS        prints answers per second

KIND is tcp (one byte to and fro on one connection), connect (the same on a new connection each time), udp (the same in
datagrams), dns (a query from a socket of its own each time, as a C library does it).
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable

PATIENCE = 5.0
"""Seconds until an answer counts as lost; it is asked again."""
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05bench\x07example\x00\x00\x01\x00\x01"
ANSWER = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x35"


def answer(query: bytes) -> bytes:
    """One address for any question (RFC 1035 section 4.1)."""
    question = query[12 : query.index(b"\0", 12) + 5]
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + question + ANSWER


def serve(address: str, port: int) -> None:
    """Until killed."""
    listener = socket.create_server((address, port), backlog=512)
    listener.setblocking(False)
    datagrams, names = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    datagrams.bind((address, port))
    names.bind((address, 53))
    poll = select.epoll()
    clients: dict[int, socket.socket] = {}
    for sock in (listener, datagrams, names):
        poll.register(sock, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poll.register(client, select.EPOLLIN)
            elif fd == datagrams.fileno():
                data, peer = datagrams.recvfrom(2048)
                datagrams.sendto(data, peer)
            elif fd == names.fileno():
                data, peer = names.recvfrom(2048)
                names.sendto(answer(data), peer)
            else:
                try:
                    data = clients[fd].recv(4096)
                except ConnectionError:
                    data = b""
                if data:
                    clients[fd].send(data)
                else:
                    clients.pop(fd).close()


def rate(once: Callable[[], None], seconds: float) -> float:
    """How often a second `once` can be done."""
    started = time.perf_counter()
    end = started + seconds
    count = 0
    while (now := time.perf_counter()) < end:
        once()
        count += 1
    return count / (now - started)


def tcp(address: str, port: int, seconds: float) -> float:
    with socket.create_connection((address, port), timeout=PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def once() -> None:
            sock.send(b"x")
            if not sock.recv(1):
                raise SystemExit("exchange: the connection ended")

        return rate(once, seconds)


def connect(address: str, port: int, seconds: float) -> float:
    def once() -> None:
        with socket.create_connection((address, port), timeout=PATIENCE) as sock:
            sock.send(b"x")
            if not sock.recv(1):
                raise SystemExit("exchange: the connection ended")

    return rate(once, seconds)


def udp(address: str, port: int, seconds: float) -> float:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((address, port))
        return rate(lambda: _ask(sock, b"x"), seconds)


def dns(address: str, port: int, seconds: float) -> float:
    def once() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((address, port))
            _ask(sock, os.urandom(2) + QUERY[2:])

    return rate(once, seconds)


def _ask(sock: socket.socket, message: bytes) -> None:
    """Until it is answered. A socket that is refused for want of a server says so."""
    for _ in range(3):
        sock.send(message)
        try:
            received = sock.recv(2048)
        except TimeoutError:
            continue
        if received[:2] != message[:2]:
            raise SystemExit("exchange: an answer to something else")
        return
    raise SystemExit("exchange: no answer")


def main() -> int:
    kind, address, port, *rest = sys.argv[1:]
    if kind == "serve":
        serve(address, int(port))
    else:
        client = {"tcp": tcp, "connect": connect, "udp": udp, "dns": dns}[kind]
        print(client(address, int(port), float(rest[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
