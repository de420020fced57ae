"""The supervisor's side of the control socket (control.py says what can be asked)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import msgspec
import trio

from . import control
from .containers import Container
from .control import Message
from .streams import Attachment, Streams
from .uplink import Reply


class Reception:
    """Answers whoever connects. Made before the container is announced as running, closed after it is cleaned up."""

    def __init__(self, container: Container, streams: Streams, *, resize: Callable[[int, int], None]) -> None:
        self._container = container
        self._streams = streams
        self._resize = resize
        self._listener = control.listen(container)
        self._listener.setblocking(False)
        self._waiting: set[socket.socket] = set()
        self._namespaces: list[int] = []
        self.pidfd: int | None = None
        self.ask_flows: Callable[[Reply], None] | None = None

    def keep_namespaces(self) -> None:
        """Takes hold of the engine's user and mount namespace, which are still this process's."""
        self._namespaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "mnt")]

    async def serve(self) -> None:
        """Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(self._listener)
                try:
                    connection, _ = self._listener.accept()
                except BlockingIOError:
                    continue
                connection.setblocking(False)
                nursery.start_soon(self._converse, connection)

    async def _converse(self, connection: socket.socket) -> None:
        attachment: Attachment | None = None
        fds: list[int] = []
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await trio.lowlevel.wait_readable(connection)
                    message, received = _next(connection)
                    if message is None:
                        break
                    if message.op == "attach" and len(received) == 3 and attachment is None:
                        fds = received
                        attachment = self._attach(connection, fds)
                        nursery.start_soon(self._streams.carry_input, attachment)
                    else:
                        for fd in received:
                            os.close(fd)
                        self._answer(connection, message)
                nursery.cancel_scope.cancel()
        finally:
            if attachment is not None:
                self._streams.detach(attachment)
            for fd in fds:
                os.close(fd)
            if connection not in self._waiting:
                connection.close()

    def _attach(self, connection: socket.socket, fds: list[int]) -> Attachment:
        def leave() -> None:
            self._waiting.discard(connection)
            connection.shutdown(socket.SHUT_RDWR)

        attachment = Attachment((fds[0], fds[1], fds[2]), reads=True, terminal=self._streams.terminal, on_detach=leave)
        self._streams.attach(attachment)
        self._waiting.add(connection)
        return attachment

    def _answer(self, connection: socket.socket, message: Message) -> None:
        try:
            self._do(connection, message)
        except (BrokenPipeError, ConnectionResetError):
            return  # it asked and left before the answer

    def _do(self, connection: socket.socket, message: Message) -> None:
        if message.op == "join" and self.pidfd is not None:
            control.send(connection, Message(op="join"), [self.pidfd, *self._namespaces])
        elif message.op == "wait":
            self._waiting.add(connection)
        elif message.op == "stopping":
            state = self._container.live_state()
            if state is not None:
                self._container.write_live_state(msgspec.structs.replace(state, status="stopping"))
            control.send(connection, Message(op="stopping"))
        elif message.op == "resize":
            self._resize(message.rows, message.columns)
        elif message.op == "flows" and self.ask_flows is not None:
            self.ask_flows(lambda fd, error: _tell_flows(connection, fd, error))
        else:
            control.send(connection, Message(error=f"cannot do {message.op!r} now"))

    def finish(self, code: int) -> None:
        """Tells everybody who waits how it ended."""
        for connection in self._waiting:
            try:
                control.send(connection, Message(exit_code=code))
            except OSError:
                continue  # it does not wait any more
            finally:
                connection.close()
        self._waiting.clear()

    def close(self) -> None:
        """Takes no more questions."""
        self._listener.close()
        while self._namespaces:
            os.close(self._namespaces.pop())


def _tell_flows(connection: socket.socket, fd: int | None, error: str) -> None:
    try:
        if fd is None:
            control.send(connection, Message(error=error))
        else:
            control.send(connection, Message(op="flows"), [fd])
    except OSError:
        return  # it asked and left before the answer


def _next(connection: socket.socket) -> tuple[Message | None, list[int]]:
    try:
        return control.receive(connection)
    except ConnectionResetError:
        return None, []  # it left without reading our answer
