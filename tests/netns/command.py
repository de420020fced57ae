"""`python -m netns` started beside a guest, as an engine would start it, by an ordinary user and with no helper."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}
FETCH = "import socket; s = socket.create_connection(('{}', {}), timeout=10); print(s.recv(100).decode())"


@contextlib.contextmanager
def a_guest() -> Iterator[int]:
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


def into_guest(guest: int, *words: str) -> list[str]:
    """The command line that runs `words` in the guest."""
    return ["nsenter", "-t", str(guest), "-U", "-n", "--preserve-credentials", *words]


def in_guest(guest: int, *words: str) -> str:
    """What a command says in the guest."""
    return subprocess.run(into_guest(guest, *words), capture_output=True, text=True, check=True, timeout=30).stdout


def serve_once(answer: bytes) -> int:
    """A server for one connection on the host's loopback, in a thread that closes its socket; the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])
