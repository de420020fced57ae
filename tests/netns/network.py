"""A guest behind a served network, made the way an engine makes it: for tests that run real traffic.

    def work() -> None:
        with Network(Settings(disable_host_loopback=False)) as network:
            assert network.run(lambda: ...) == ...

    on_a_host(work)

`on_a_host` runs `work` as root of a user namespace with a network namespace of its own that stands for the host: its
loopback is up and has the addresses HOST and OTHER besides 127.0.0.1, and any port can be bound. Nothing leaves it.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from netns import netlink, process
from netns.process import Settings
from netns.syscalls import Namespace, setns
from tests.kit.userns import Clone, _unshare, in_namespaces

HOST = "192.0.2.1"
OTHER = "192.0.2.7"
HOST6 = "2001:db8::1"
GATEWAY = "10.0.2.2"
GATEWAY6 = "fd00::2"
RESOLVER = "10.0.2.3"
PATIENCE = 20.0  # seconds after which a test is stuck

Result = TypeVar("Result")


def on_a_host(work: Callable[[], Result]) -> Result:
    """Run `work` where nothing but itself is the host; see above."""

    def set_up() -> Result:
        netlink.configure(
            [
                netlink.link_up(1),
                netlink.add_address(1, socket.inet_aton(HOST), 32),
                netlink.add_address(1, socket.inet_aton(OTHER), 32),
                netlink.add_address(1, socket.inet_pton(socket.AF_INET6, HOST6), 128),
            ],
            [],
        )
        socket.setdefaulttimeout(PATIENCE)
        return work()

    return in_namespaces(set_up, extra=Clone.NEWNET)


class GuestFailed(AssertionError):
    """The function raised in the guest; the message is its traceback there."""


class Running:
    """A function that runs in the guest."""

    def __init__(self, pid: int, result: int) -> None:
        self._pid = pid
        self._result = result

    def wait(self) -> Any:
        """What it returned. Raises GuestFailed for what it raised."""
        with open(self._result, "rb") as file:
            outcome = file.read()
        os.waitpid(self._pid, 0)
        good, value = pickle.loads(outcome)
        if not good:
            raise GuestFailed(value)
        return value


class Network:
    """A guest (a process in user and network namespaces of its own) and the process that serves its network."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        prepare: Callable[[], object] | None = None,
        joins: bool = False,
    ) -> None:
        """`prepare` runs in the guest's namespaces before the network is made. With `joins` clients of the host's
        loopback are joined to the guest, else they cross the TAP."""
        self._joins = joins
        self.settings = settings or Settings(disable_host_loopback=False)
        self._prepare = prepare

    def __enter__(self) -> Network:
        self.reservations = process.reserve_ports(self.settings)
        self._guest = self._fork_guest()
        self.pidfd = os.pidfd_open(self._guest)
        if self._prepare is not None:
            self.run(self._prepare)
        tap_fd = process.open_tap(self.pidfd, self.settings)
        ready, ready_write = os.pipe()
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if not self.pid:
            try:
                namespace = self.pidfd if self._joins else None
                process.serve(tap_fd, self.settings, self.reservations, ready_write, control, namespace=namespace)
            finally:
                os._exit(0)
        os.close(ready_write)
        control.close()
        os.close(tap_fd)
        for reservation in self.reservations:
            reservation.close()
        with open(ready, "rb") as file:
            assert file.read() == b"1"
        return self

    def _fork_guest(self) -> int:
        inside, inside_write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                _unshare(Clone.NEWUSER | Clone.NEWNET)
                os.write(inside_write, b"1")
                signal.pause()
            finally:
                os._exit(1)
        os.close(inside_write)
        with open(inside, "rb", buffering=0) as file:
            assert file.read(1) == b"1"
        for kind in ("uid", "gid"):
            with open(f"/proc/{pid}/{kind}_map", "w") as file_:
                file_.write("0 0 1")
        return pid

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.control.close()
        os.waitpid(self.pid, 0)
        self.kill_guest()
        os.close(self.pidfd)

    def kill_guest(self) -> None:
        """End the guest's namespaces."""
        if self._guest:
            os.kill(self._guest, signal.SIGKILL)
            os.waitpid(self._guest, 0)
            self._guest = 0

    def start(self, work: Callable[[], object]) -> Running:
        """Run `work` in the guest, which is a process of its own, and go on."""
        result, result_write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                setns(self.pidfd, Namespace.USER | Namespace.NET)
                socket.setdefaulttimeout(PATIENCE)
                try:
                    message = pickle.dumps((True, work()))
                except BaseException:  # noqa: BLE001  the parent shows it
                    message = pickle.dumps((False, traceback.format_exc()))
                with open(result_write, "wb") as file:
                    file.write(message)
            finally:
                os._exit(0)
        os.close(result_write)
        return Running(pid, result)

    def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the guest; what it returns."""
        return self.start(work).wait()  # type: ignore[no-any-return]

    def descriptors(self) -> int:
        """How many descriptors the serving process has."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def serve_tcp(address: str, handle: Callable[[socket.socket], None], *, port: int = 0) -> int:
    """Serve on the host in threads that end with the process; the port. `handle` is given each connection."""
    listener = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.settimeout(None)
    listener.listen(1024)

    def serve_one(connection: socket.socket) -> None:
        with connection:
            try:
                handle(connection)
            except OSError:
                return

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve_one, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def serve_udp(address: str, answer: Callable[[bytes, Any], bytes | None], *, port: int = 0) -> int:
    """Answer datagrams on the host in a thread that ends with the process; the port."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(None)
    sock.bind((address, port))

    def serve() -> None:
        while True:
            data, peer = sock.recvfrom(65535)
            reply = answer(data, peer)
            if reply is not None:
                sock.sendto(reply, peer)

    threading.Thread(target=serve, daemon=True).start()
    return int(sock.getsockname()[1])


def receive_all(sock: socket.socket) -> bytes:
    """Everything until the end."""
    result = bytearray()
    while data := sock.recv(1 << 18):
        result += data
    return bytes(result)


def connect(address: str, port: int) -> socket.socket:
    """A connection, with the patience of the tests."""
    return socket.create_connection((address, port), timeout=PATIENCE)
