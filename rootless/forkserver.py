"""The engine's loop: one session is always forked ahead of the client that it will serve.

    engine                     spare                               client
      fork ------------------->  touch what every command touches
                                 accept <-------------------------- connect
      <---------------- taken    become its session
      fork the next spare

A forked process pays for every page that it writes to for the first time. A spare has paid for most of them before a
client is there, and the fork itself is out of the client's way too.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from typing import NoReturn

from . import syscalls

IDLE_SECONDS = 600
LOOK_SECONDS = 30  # how often an idle engine looks whether its login is over
_CGROUPS = "/sys/fs/cgroup"
_TAKEN = b"t"
_RESPITE = 0.1  # seconds; between spares that die before they serve anybody


class Endpoint:
    """Where clients connect, and the lock that goes with the name. A session must hold neither."""

    def __init__(self, listener: socket.socket, path: str, lock_fd: int) -> None:
        self.listener = listener
        self._path = path
        self._lock_fd = lock_fd

    def give_back(self) -> None:
        """Gives the name up. The lock's file stays: two engines could otherwise hold two files of the same name."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # a newer engine has cleaned up after us
        self.listener.close()
        self.unlock()

    def unlock(self) -> None:
        os.close(self._lock_fd)


class ForkServer:
    """Single-threaded. Owns the endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._spare = 0
        self._woken = self._wakeup = -1

    def serve_first(self, client: socket.socket) -> None:
        """Serves the client that started the engine."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps sessions
        signal.signal(signal.SIGTERM, lambda number, frame: self._stop())
        # A signal that comes just before a wait would be handled after it; see signal.set_wakeup_fd.
        self._woken, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        if self._fork() == 0:
            self._endpoint.listener.close()
            _become_session(client)
        client.close()

    def serve(self) -> NoReturn:
        """Serves whoever connects, until nobody has for a while or SIGTERM comes."""
        while True:
            taken = self._fork_spare()
            since = time.monotonic()
            while taken not in self._wait(taken):
                if time.monotonic() - since >= IDLE_SECONDS or self._is_left_alone():
                    self._leave_if_idle()
            if not os.read(taken, 1):
                time.sleep(_RESPITE)  # it was killed, or is ill: the next may do better
            os.close(taken)

    def _fork(self) -> int:
        """As os.fork; the child holds no lock and has no handlers of ours. Waits where no process can be had."""
        while True:
            try:
                child = os.fork()
            except OSError:
                time.sleep(_RESPITE)  # no memory or no processes left; clients wait in the listener's queue
                continue
            if child == 0:
                self._endpoint.unlock()
                signal.set_wakeup_fd(-1)
                os.close(self._woken)
                os.close(self._wakeup)
                os.setsid()
                for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                    signal.signal(number, signal.SIG_DFL)
            return child

    def _wait(self, taken: int) -> list[int]:
        """What is readable of `taken` and the wakeup descriptor, within a while."""
        readable = select.select([taken, self._woken], [], [], LOOK_SECONDS)[0]
        if self._woken in readable:
            os.read(self._woken, 4096)
        return readable

    def _fork_spare(self) -> int:
        """Forks the next session. Returns a descriptor that becomes readable when it has a client, or has died."""
        engine = os.getpid()
        reading, writing = os.pipe()
        self._spare = self._fork()
        if self._spare == 0:
            os.close(reading)
            self._be_spare(engine, writing)
        os.close(writing)
        return reading

    def _be_spare(self, engine: int, writing: int) -> NoReturn:
        syscalls.prctl(syscalls.Prctl.SET_PDEATHSIG, signal.SIGKILL)  # without a client it is part of the engine
        if os.getppid() != engine:
            os._exit(1)
        connection = self._wait_for_client()
        # An engine that ends before this takes us along; the client was not answered yet and asks the next engine.
        syscalls.prctl(syscalls.Prctl.SET_PDEATHSIG, 0)
        self._endpoint.listener.close()
        try:
            os.write(writing, _TAKEN)
        except BrokenPipeError:
            pass  # the engine has just died; this client is served all the same
        os.close(writing)
        _become_session(connection)

    def _wait_for_client(self) -> socket.socket:
        from . import session

        listener = self._endpoint.listener
        if not select.select([listener], [], [], 0)[0]:
            session.touch()
        while True:
            connection, _ = listener.accept()
            if peer(connection)[1] == os.getuid():
                return connection
            connection.close()

    def _is_left_alone(self) -> bool:
        """Whether only we are left in our cgroup (cgroups(7)).

        systemd gives every login one of its own, and a client from another has an engine of its own as well: when the
        login is over, nobody will come.
        """
        try:
            with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
                path = next((line[4:].rstrip("\n") for line in file if line.startswith("0::/")), "")
            with open(f"{_CGROUPS}/{path}/cgroup.procs", encoding="ascii") as file:
                return {int(pid) for pid in file} <= {os.getpid(), self._spare}
        except OSError:
            return False  # no cgroup v2, or not to be seen from here

    def _leave_if_idle(self) -> None:
        """Nobody has come for a while; and when the spare is the only child, nobody is being served either."""
        me = os.getpid()
        with open(f"/proc/{me}/task/{me}/children", encoding="ascii") as file:
            children = file.read().split()
        if children == [str(self._spare)]:
            self._stop()

    def _stop(self) -> NoReturn:
        self._endpoint.give_back()
        os._exit(0)  # the spare dies with us


def _become_session(connection: socket.socket) -> NoReturn:
    from . import session

    session.main(connection)


def peer(connection: socket.socket) -> tuple[int, int]:
    """The pid and uid at the other end, as seen in our namespaces."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
