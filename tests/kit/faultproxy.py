"""A proxy in front of a real registry that spoils some of its answers, and some of what it is sent.

It speaks HTTP to both sides and keeps no connection to the registry, so that each fault hits one exchange. What goes
wrong is a list of `Fault`: the first that fits a request and is not used up happens to it.
"""

from __future__ import annotations

import http.client
import http.server
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_CHUNK = 16 << 10
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding"})


@dataclass
class Fault:
    """What happens to requests whose path has `path` in it (and whose method is `method`, if given), `times` times.

    `latency`: seconds before the answer. `status`, with `headers`: the answer, in place of the registry's. `cut`: the
    connection ends after so many bytes of the body, with an RST if `reset`. `stall`: nothing comes after so many
    bytes. `flip`: the byte at this place is another. `shift`: the answer to a Range begins so many bytes elsewhere and
    says so. `drop_range`: the registry never hears of the Range. `uploaded`: after so many bytes of a request's body
    both connections end, with an RST to the client.
    """

    path: str
    method: str | None = None
    times: int = 1
    latency: float = 0.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    reset: bool = False
    stall: int | None = None
    flip: int | None = None
    shift: int = 0
    drop_range: bool = False
    uploaded: int | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that came by, and the status of its answer; 0 if there was none."""

    method: str
    path: str
    range: str | None
    status: int


@dataclass
class FaultProxy:
    """`address` is what clients take for the registry."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    address: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    """Ends the stalls."""

    def fault(self, method: str, path: str) -> Fault:
        """What happens to this request."""
        for fault in self.faults:
            if fault.times and fault.path in path and fault.method in (None, method):
                fault.times -= 1
                return fault
        return Fault("")

    def reset(self, *faults: Fault) -> None:
        """Forget what has been, and spoil these from now on."""
        self.faults[:] = faults
        self.exchanges.clear()


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A `FaultProxy` on a free loopback port, over plain HTTP, in front of the registry at `upstream` (host:port)."""
    proxy = FaultProxy(upstream)

    class Handler(_Handler):
        faulty = proxy

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: object) -> None:
            return  # connections that end in the middle are what this is for

        def shutdown_request(self, request: Any) -> None:
            self.close_request(request)  # without a FIN, where an RST is to come

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.over.set()
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    faulty: FaultProxy

    def handle_any(self) -> None:
        fault = self.faulty.fault(self.command, self.path)
        if fault.latency:
            time.sleep(fault.latency)
        status = 0
        try:
            status = self._refuse(fault) if fault.status is not None else self._relay(fault)
        finally:
            self.faulty.exchanges.append(Exchange(self.command, self.path, self.headers.get("range"), status))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def log_message(self, *arguments: object) -> None:
        return

    def _refuse(self, fault: Fault) -> int:
        assert fault.status is not None
        for _ in self._body():
            pass
        self.send_response(fault.status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return fault.status

    def _relay(self, fault: Fault) -> int:
        onward = http.client.HTTPConnection(self.faulty.upstream, timeout=20)
        try:
            if not self._ask(onward, fault):
                return 0
            with onward.getresponse() as answer:
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP:
                        self.send_header(name, self._shifted(name, value, fault))
                self.end_headers()
                if self.command != "HEAD":
                    self._send_body(answer, fault)
                return answer.status
        finally:
            onward.close()

    def _ask(self, onward: http.client.HTTPConnection, fault: Fault) -> bool:
        """Pass the request on. False if it has been cut off."""
        onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() in ("connection", "expect") or (name.lower() == "range" and fault.drop_range):
                continue
            onward.putheader(name, self._asked(value, fault) if name.lower() == "range" else value)
        onward.endheaders()
        chunked = "chunked" in self.headers.get("transfer-encoding", "")
        passed = 0
        for chunk in self._body():
            if fault.uploaded is not None and passed + len(chunk) > fault.uploaded:
                chunk = chunk[: fault.uploaded - passed]
                onward.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                self._end(reset=True)
                return False
            onward.send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            passed += len(chunk)
        if chunked:
            onward.send(b"0\r\n\r\n")
        return True

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("content-length", "0"))
        while left and (chunk := self.rfile.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk

    def _asked(self, value: str, fault: Fault) -> str:
        """The Range that the registry gets to see."""
        start = int(value.removeprefix("bytes=").rstrip("-"))
        return f"bytes={max(0, start + fault.shift)}-"

    def _shifted(self, name: str, value: str, fault: Fault) -> str:
        """docker-registry's Location names itself; the client is to stay with the proxy."""
        return value.replace(self.faulty.upstream, self.faulty.address) if name.lower() == "location" else value

    def _send_body(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        sent = 0
        while chunk := answer.read(_CHUNK):
            if fault.flip is not None and sent <= fault.flip < sent + len(chunk):
                place = fault.flip - sent
                chunk = chunk[:place] + bytes([chunk[place] ^ 0x55]) + chunk[place + 1 :]
            for end in (fault.cut, fault.stall):
                if end is not None:
                    chunk = chunk[: max(0, end - sent)]
            self.wfile.write(chunk)
            sent += len(chunk)
            if fault.stall is not None and sent >= fault.stall:
                self._wait_for_the_client_to_give_up()
                return
            if fault.cut is not None and sent >= fault.cut:
                self._end(reset=fault.reset)
                return

    def _wait_for_the_client_to_give_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        while not self.faulty.over.is_set() and not select.select([self.connection], [], [], 0.05)[0]:
            pass

    def _end(self, *, reset: bool) -> None:
        self.close_connection = True
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
