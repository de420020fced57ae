"""The protocol of the control socket, with both ends in one process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import trio

from rootless.container import control
from rootless.container.control import Message, NotAlive
from tests.rootless.container.conftest import Store


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_message_arrives_whole_with_its_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    reading, writing = os.pipe()
    control.send(pair[0], Message(op="resize", rows=24, columns=80), [writing])
    message, fds = control.receive(pair[1])
    assert message == Message(op="resize", rows=24, columns=80) and len(fds) == 1
    os.close(writing)
    os.write(fds[0], b"x")
    assert os.read(reading, 1) == b"x"
    os.close(fds[0])
    os.close(reading)


@pytest.mark.parametrize("data", [b"not json", b"[]", b'{"op": 7}', b"\xff", b"{" * 4000])
def test_what_is_no_message_ends_the_conversation(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    """Its descriptors are closed."""
    null = os.open(os.devnull, os.O_RDONLY)
    socket.send_fds(pair[0], [data], [null, null])
    os.close(null)
    assert control.receive(pair[1]) == (None, [])


def test_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert control.receive(pair[1]) == (None, [])


async def test_an_exit_code_or_none_from_a_dead_one(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].setblocking(False)
    control.send(pair[0], Message(op="stopping"))
    control.send(pair[0], Message(exit_code=0))
    with trio.fail_after(10):
        assert await control.exit_code(pair[1]) == 0
        pair[0].close()
        assert await control.exit_code(pair[1]) is None


def test_nobody_there(store: Store) -> None:
    container = store.create("web")
    with pytest.raises(NotAlive, match="not running"):
        control.connect(container)
    os.makedirs(container.live)
    control.listen(container).close()
    with pytest.raises(NotAlive):
        control.connect(container)


def test_listening_takes_over_a_leftover_whatever_the_paths_length(store: Store) -> None:
    """sun_path has 108 bytes, unix(7)."""
    container = store.create("web")
    container.live = f"{store.settings.live}/{'x' * 200}"
    os.makedirs(container.live)
    control.listen(container).close()
    with control.listen(container), control.connect(container) as connection:
        control.send(connection, Message(op="wait"))
