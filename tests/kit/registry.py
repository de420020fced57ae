"""Registries for tests: Debian's docker-registry, and one in Python that misbehaves on demand."""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tokenserver import TokenServer

PROGRAM = "/usr/bin/docker-registry"
PAUSE = 0.1

_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"{tls}}}
{auth}
"""


@contextmanager
def registry(
    directory: str,
    *,
    htpasswd: str | None = None,
    certificate: tuple[str, str] | None = None,
    clients: str | None = None,
    tokens: TokenServer | None = None,
) -> Iterator[str]:
    """A running registry; yields its address, `127.0.0.1:port`.

    `htpasswd`: a file of bcrypt lines, to ask for a password. `certificate`: paths of a certificate and its key, for
    TLS; `clients`: the path of the authority whose certificates clients must show then. `tokens`: ask for tokens.
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
                auth=_auth(htpasswd, tokens),
                tls=_tls(certificate, clients) if certificate else "",
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


def _auth(htpasswd: str | None, tokens: TokenServer | None) -> str:
    if tokens is not None:
        return tokens.registry_settings()
    return f"auth: {{htpasswd: {{realm: test, path: {htpasswd}}}}}" if htpasswd else ""


def _tls(certificate: tuple[str, str], clients: str | None) -> str:
    authorities = f", clientcas: [{clients}]" if clients else ""
    return f", tls: {{certificate: {certificate[0]}, key: {certificate[1]}{authorities}}}"


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


@dataclass
class Request:
    """What a client asked a `FakeRegistry`."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes = b""
    client: int = 0
    """The port that it came from: the same for what came over one connection."""


@dataclass
class Answer:
    """What a `FakeRegistry` says. With `cut`, only so many bytes of the body are sent before the connection ends.

    With `trickle`, the body comes byte by byte, with pauses of PAUSE seconds.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    trickle: bool = False


Rule = Callable[[Request], Answer | None]


@dataclass
class FakeRegistry:
    """A registry that serves a layout and misbehaves on demand: the first rule that answers does so in its place."""

    layout: str
    rules: list[Rule] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    address: str = ""

    def answer(self, request: Request) -> Answer:
        """The answer to one request."""
        self.requests.append(request)
        for rule in self.rules:
            answer = rule(request)
            if answer is not None:
                return answer
        return self.honest(request)

    def honest(self, request: Request) -> Answer:
        """What a good registry says. The repository is not looked at; tags are the names in the layout."""
        path = request.path.partition("?")[0]
        if path == "/v2/":
            return Answer(body=b"{}", headers={"Content-Type": "application/json"})
        kind, _, name = path.rpartition("/")
        if kind.endswith("/blobs"):
            return self._blob(name, request.headers.get("range"))
        if kind.endswith("/manifests"):
            return self._manifest(name)
        return Answer(404)

    def _blob(self, digest: str, wanted: str | None) -> Answer:
        body = self.content(digest)
        if body is None:
            return _fault(404, "BLOB_UNKNOWN")
        headers = {"Content-Type": "application/octet-stream"}
        if wanted:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            return Answer(206, body[start:], {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"})
        return Answer(200, body, headers)

    def _manifest(self, version: str) -> Answer:
        with open(f"{self.layout}/index.json", "rb") as source:
            entries = json.load(source)["manifests"]
        for entry in entries:
            if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == version:
                version = entry["digest"]
        body = self.content(version)
        if body is None:
            return _fault(404, "MANIFEST_UNKNOWN")
        media_type = json.loads(body).get("mediaType", "")
        return Answer(200, body, {"Content-Type": media_type, "Docker-Content-Digest": version})

    def content(self, digest: str) -> bytes | None:
        """A blob of the layout."""
        try:
            with open(f"{self.layout}/blobs/{digest.replace(':', '/')}", "rb") as source:
                return source.read()
        except (FileNotFoundError, NotADirectoryError):
            return None


def _fault(status: int, code: str) -> Answer:
    body = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()
    return Answer(status, body, {"Content-Type": "application/json"})


@contextmanager
def fake_registry(layout: str, *rules: Rule, context: ssl.SSLContext | None = None) -> Iterator[FakeRegistry]:
    """A `FakeRegistry` on a free loopback port, over TLS with `context`."""
    fake = FakeRegistry(layout, list(rules))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            answer = fake.answer(Request(self.command, self.path, headers, body, self.client_address[1]))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self._write(answer)
            if answer.cut is not None:
                self.close_connection = True

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def _write(self, answer: Answer) -> None:
            body = answer.body[: answer.cut]
            for position in range(len(body)) if answer.trickle else ():
                self.wfile.write(body[position : position + 1])
                time.sleep(PAUSE)
            if not answer.trickle:
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            return

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: object) -> None:
            return  # a client that goes away in the middle is what some tests are about

    with Server(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        fake.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
