"""The process that waits: what it says of a server's end."""

from __future__ import annotations

import os
import signal

import pytest

from fuse.attendant import await_ready, clear_after, is_dead, start_server


@pytest.mark.parametrize(
    ("said", "heard"),
    [(b"1", None), (b"no room\n", "no room"), (b"", "the server ended before it was ready"), (b"\xff\n", "\ufffd")],
)
def test_what_a_server_says(said: bytes, heard: str | None) -> None:
    readable, writable = os.pipe()
    os.write(writable, said)
    os.close(writable)
    assert await_ready(readable) == heard


@pytest.mark.parametrize("end", [True, False])
def test_a_server_that_ends_itself(end: bool) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    readable, writable = os.pipe()
    try:
        pid = start_server(lambda: end, readable)
        _, status = os.waitpid(pid, 0)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)
    assert os.WEXITSTATUS(status) == (0 if end else 1)
    assert clear_after("/", status) is None


def test_a_server_that_was_killed() -> None:
    assert clear_after("/", signal.SIGKILL) == "the server of / was ended by SIGKILL, so the mount is gone"


def test_what_is_not_dead(tmp_path: object) -> None:
    assert not is_dead(str(tmp_path)) and not is_dead(f"{tmp_path}/nothing")
