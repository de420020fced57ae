"""Debian's docker-registry on a free loopback port, with its data in a directory of the test."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = "/usr/bin/docker-registry"

_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"{tls}}}
{auth}
"""


@contextmanager
def registry(
    directory: str, *, htpasswd: str | None = None, certificate: tuple[str, str] | None = None
) -> Iterator[str]:
    """A running registry; yields its address, `127.0.0.1:port`.

    `htpasswd`: a file of bcrypt lines, to ask for a password. `certificate`: paths of a certificate and its key, for
    TLS.
    """
    assert os.path.exists(PROGRAM), "Debian's package docker-registry is not installed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.path.join(directory, "registry.yml")
    with open(path, "w") as config:
        config.write(
            _CONFIG.format(
                data=os.path.join(directory, "data"),
                port=port,
                auth=f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}" if htpasswd else "",
                tls=f", tls: {{certificate: {certificate[0]}, key: {certificate[1]}}}" if certificate else "",
            )
        )
    log_path = os.path.join(directory, "registry.log")
    with open(log_path, "wb") as log:
        process = subprocess.Popen([PROGRAM, "serve", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _await_port(process, port, log_path)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _await_port(process: subprocess.Popen[bytes], port: int, log: str) -> None:
    for _ in range(1000):
        if process.poll() is not None:
            with open(log) as lines:
                raise AssertionError(f"docker-registry ended: {lines.read()[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("docker-registry did not start")
