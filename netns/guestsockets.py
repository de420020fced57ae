"""Sockets that belong to the guest's network namespace, for a process that is on the host's.

A socket stays in the namespace it was made in, and making one needs no privilege there. Going there does, so somebody
goes while the privilege lasts, and stays: a thread, or, where the namespace's user namespace has to be entered first,
which a process with threads cannot, a child that sends the sockets over. Either has no capability left when it begins.
Sockets are made a few at a time, the first when the first is asked for.
"""

from __future__ import annotations

import _thread
import os
import signal
import socket
import struct
from collections.abc import Callable
from queue import Empty, SimpleQueue

from netns import syscalls
from netns.syscalls import Namespace
from netns.tap import NamespaceRef

_BATCH = 8
_PATIENCE = 2.0  # seconds, which are thousands of times what it takes
_REQUEST = struct.Struct("=i")
_KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

Maker = Callable[[int], list[socket.socket]]


class GuestSockets:
    """Non-blocking TCP sockets in `namespace`, whose descriptors are not needed any more once this is made.

    Must be made before capabilities are dropped. Raises OSError where there is no way there.
    """

    def __init__(self, namespace: NamespaceRef) -> None:
        self._there: _Thread | _Child = _Thread(namespace) if isinstance(namespace, int) else _Child(*namespace)
        self._ready: dict[int, list[socket.socket]] = {}

    def take(self, family: int) -> socket.socket | None:
        """One socket, which is the caller's; None where there is none to be had at the moment."""
        ready = self._ready.setdefault(family, [])
        if not ready:
            ready += self._there.make(family)
        return ready.pop() if ready else None

    def close(self) -> None:
        """Let go of what was not taken, and let whoever is in the namespace end."""
        for ready in self._ready.values():
            for sock in ready:
                sock.close()
            ready.clear()
        self._there.close()


def _batch(family: int) -> list[socket.socket]:
    """As many as there are descriptors for."""
    result: list[socket.socket] = []
    try:
        for _ in range(_BATCH):
            result.append(socket.socket(family, _KIND))
    except OSError:
        return result
    return result


def _unarm() -> None:
    syscalls.set_no_new_privs()
    syscalls.drop_capabilities()


class _Thread:
    """A thread that is in the namespace. It waits in a queue, which costs the others nothing."""

    def __init__(self, namespace: int) -> None:
        self._asked: SimpleQueue[int | None] = SimpleQueue()
        self._made: SimpleQueue[list[socket.socket] | OSError] = SimpleQueue()
        self._alive = True
        # Without what threading adds: each function that runs for the first time costs memory that was shared.
        _thread.start_new_thread(self._run, (namespace,))
        entered = self._made.get()
        if isinstance(entered, OSError):
            raise entered

    def _run(self, namespace: int) -> None:
        try:
            syscalls.setns(namespace, Namespace.NET)
            _unarm()
        except OSError as error:
            self._made.put(error)
            return
        self._made.put([])
        while (family := self._asked.get()) is not None:
            self._made.put(_batch(family))

    def make(self, family: int) -> list[socket.socket]:
        """A few sockets, or none."""
        if not self._alive:
            return []
        self._asked.put(family)
        try:
            made = self._made.get(timeout=_PATIENCE)
        except Empty:
            self.close()  # what comes late would be taken for the answer to another question
            return []
        return made if isinstance(made, list) else []

    def close(self) -> None:
        self._alive = False
        self._asked.put(None)


class _Child:
    """A process that is in the namespace. It ends with the other end of its socket."""

    def __init__(self, user_namespace: int, namespace: int) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._pid = os.fork()
            if not self._pid:
                self._sock.close()
                _live_there(user_namespace, namespace, theirs)
        self._sock.settimeout(_PATIENCE)
        try:
            code = self._sock.recv(_REQUEST.size)
        except OSError:
            code = b""
        (number,) = _REQUEST.unpack(code) if len(code) == _REQUEST.size else (5,)
        if number:
            self.close()
            raise OSError(number, os.strerror(number))

    def make(self, family: int) -> list[socket.socket]:
        """A few sockets, or none."""
        if self._sock.fileno() < 0:
            return []
        try:
            self._sock.send(_REQUEST.pack(family))
            message, fds, _, _ = socket.recv_fds(self._sock, 1, _BATCH)
        except OSError:
            self.close()
            return []
        result = []
        for fd in fds:
            os.set_inheritable(fd, False)
            result.append(socket.socket(family, socket.SOCK_STREAM, fileno=fd))
            result[-1].setblocking(False)
        if not message:
            self.close()
        return result

    def close(self) -> None:
        if self._pid:
            self._sock.close()
            os.kill(self._pid, signal.SIGKILL)  # it has not been waited for, so the number is still its own
            os.waitpid(self._pid, 0)
            self._pid = 0


def _live_there(user_namespace: int, namespace: int, sock: socket.socket) -> None:
    """The child's life. Does not return."""
    try:
        syscalls.set_parent_death_signal(signal.SIGKILL)
        try:
            syscalls.setns(user_namespace, Namespace.USER)
            syscalls.setns(namespace, Namespace.NET)
            _unarm()
        except OSError as error:
            sock.send(_REQUEST.pack(error.errno or 5))
            return
        first = sock.fileno()
        os.closerange(3, first)
        os.closerange(first + 1, os.sysconf("SC_OPEN_MAX"))
        sock.send(_REQUEST.pack(0))
        while request := sock.recv(_REQUEST.size):
            made = _batch(_REQUEST.unpack(request)[0])
            socket.send_fds(sock, [b"s"], [each.fileno() for each in made])
            for each in made:
                each.close()
    finally:
        os._exit(0)
