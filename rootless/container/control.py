"""A supervisor's control socket: how other commands reach a living container.

A SOCK_SEQPACKET socket, so each message arrives whole; a message is one JSON object, descriptors come beside it. Only
the user can reach it (the directory is 0700), and a supervisor that dies takes every connection with it, so that nobody
waits for a dead one.

    {"op": "join"}       -> {} and three descriptors: the pidfd of init, the user and the mount namespace of the engine
    {"op": "wait"}       -> {"exit_code": n} once the container has ended, everything of it cleaned up
    {"op": "stopping"}   -> {}; `ps` says so from then on
    {"op": "attach"}     with stdin, stdout, stderr -> as wait; the streams are the container's meanwhile
    {"op": "resize", "rows": r, "columns": c}
    {"op": "flows"}      -> {} and a descriptor with the document of netns.flowlist, or {"error": why}
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

import msgspec
import trio

from ..errors import ContainerError
from .containers import Container

MESSAGE_LIMIT = 4096
_PAUSE = 0.005  # seconds
_FLOWS_SECONDS = 10
_FLOWS_LIMIT = 64 << 20  # bytes


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message, either way."""

    op: str = ""
    rows: int = 0
    columns: int = 0
    exit_code: int | None = None
    error: str = ""


class NotAlive(ContainerError):
    """No supervisor answers."""


def listen(container: Container) -> socket.socket:
    """The supervisor's end. The caller holds the container's lock, so whatever has the name is a leftover."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(container.live, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.unlink(container.control_path)
        except FileNotFoundError:
            pass
        listener.bind(f"/proc/self/fd/{directory}/control")  # sun_path holds 108 bytes; the full path may be longer
    finally:
        os.close(directory)
    listener.listen(64)
    return listener


def connect(container: Container) -> socket.socket:
    """A blocking connection to the supervisor. Raises NotAlive."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(container.live, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/control")
        finally:
            os.close(directory)
    except OSError as error:
        connection.close()
        raise NotAlive(f"container {container.id[:12]} is not running") from error
    return connection


def send(connection: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    connection.sendmsg([msgspec.json.encode(message)], ancillary, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> tuple[Message | None, list[int]]:
    """The next message and its descriptors, which the caller owns; None at the end of the connection."""
    size = socket.CMSG_SPACE(8 * array.array("i").itemsize)
    data, ancillary, _, _ = connection.recvmsg(MESSAGE_LIMIT, size, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        return None, list(fds)
    try:
        return msgspec.json.decode(data, type=Message), list(fds)
    except msgspec.MsgspecError:
        for fd in fds:
            os.close(fd)
        return None, []


def join(container: Container) -> tuple[int, int, int]:
    """Descriptors of init (a pidfd) and of the engine's user and mount namespace. Raises NotAlive."""
    fds: list[int] = []
    with connect(container) as connection:
        try:
            send(connection, Message(op="join"))
            _, fds = receive(connection)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is just ending
    if len(fds) != 3:
        for fd in fds:
            os.close(fd)
        raise NotAlive(f"container {container.id[:12]} is not running")
    return fds[0], fds[1], fds[2]


def flows(container: Container) -> bytes:
    """What the container's network is doing, as netns.flowlist's document. Raises NotAlive, ContainerError."""
    with connect(container) as connection:
        connection.settimeout(_FLOWS_SECONDS)
        try:
            send(connection, Message(op="flows"))
            answer, fds = receive(connection)
        except TimeoutError:
            raise ContainerError(f"the network of container {container.id[:12]} does not answer") from None
        except (BrokenPipeError, ConnectionResetError):
            answer, fds = None, []  # it is just ending
    if answer is None:
        raise NotAlive(f"container {container.id[:12]} is not running")
    if not fds:
        raise ContainerError(f"cannot list the flows of container {container.id[:12]}: {answer.error}")
    with open(fds.pop(0), "rb") as file:
        content = file.read(_FLOWS_LIMIT)
    for fd in fds:
        os.close(fd)
    return content


async def wait(container: Container) -> int:
    """Waits until the container has ended and everything of it is cleaned up; its exit code, or its last one."""
    code = None
    try:
        with connect(container) as connection:
            connection.setblocking(False)
            send(connection, Message(op="wait"))
            code = await exit_code(connection)
    except (NotAlive, ConnectionError):
        pass  # it is just ending, has ended, or its supervisor was killed: then its state will tell
    await gone(container)
    return container.state().exit_code if code is None else code


async def gone(container: Container) -> None:
    """Waits until nobody looks after the container; for the moments in which its supervisor answers no more."""
    while container.is_alive():  # noqa: ASYNC110 - a lock of another process has no event to wait for
        await trio.sleep(_PAUSE)


async def exit_code(connection: socket.socket) -> int | None:
    """The exit code that arrives on a connection which has sent `wait` or `attach`."""
    while True:
        await trio.lowlevel.wait_readable(connection)
        try:
            message, _ = receive(connection)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return None
        if message is None or message.exit_code is not None:
            return message.exit_code if message is not None else None
