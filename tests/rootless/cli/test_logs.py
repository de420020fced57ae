"""rcontain logs."""

from __future__ import annotations

import os
import threading

import pytest

from rootless.container.containers import Container
from rootless.container.logs import LogWriter

from .conftest import EXITED, RUNNING, START, CommandLine

SECOND = 10**9


def printed(container: Container, *parts: tuple[str, bytes]) -> None:
    """One part each second from START on."""
    writer = LogWriter(container.log_path)
    for number, (stream, data) in enumerate(parts):
        writer.write(stream, data, START + number * SECOND)
    writer.close()


@pytest.fixture
def web(cli: CommandLine) -> CommandLine:
    printed(cli.container("web", EXITED), ("stdout", b"one\ntwo\n"), ("stderr", b"oops\n"), ("stdout", b"\xff\nend"))
    return cli


def test_each_stream_goes_its_way(web: CommandLine) -> None:
    result = web("logs", "web")
    assert result.code == 0
    assert result.out == "one\ntwo\n\udcff\nend"
    assert result.err == "oops\n"
    assert web("container", "logs", "--latest").out == result.out


def test_tail(web: CommandLine) -> None:
    assert web("logs", "--tail", "3", "web").out == "\udcff\nend"
    assert web("logs", "--tail", "3", "web").err == "oops\n"
    assert web("logs", "--tail", "0", "web").out == ""
    assert web("logs", "--tail", "-1", "web").out.startswith("one\n")
    assert web("logs", "--tail", "99", "web").out.startswith("one\n")


def test_times(web: CommandLine) -> None:
    assert web("logs", "-t", "web").err == "2023-11-14T22:13:21.000000000Z oops\n"
    assert web("logs", "--since", "2023-11-14T22:13:21Z", "web").out == "\udcff\nend"
    assert web("logs", "--since", str(START // SECOND + 1), "--until", "2023-11-14T22:13:21.5Z", "web").out == ""
    assert web("logs", "--until", "2023-11-14T22:13:20.5Z", "web").out == "one\ntwo\n"
    assert web("logs", "--since", "10m", "web").out == ""
    assert web("logs", "--since", "yesterday", "web").code == 125


def test_several_containers_and_names(web: CommandLine) -> None:
    other = web.container("db", EXITED)
    printed(other, ("stdout", b"ready\n"))
    assert web("logs", "-n", "--tail", "1", "web", "db").out == "web enddb ready\n"
    assert web("logs", "db", "db").out == f"{other.id[:12]} ready\n" * 2
    assert web("logs", "--color", "db").out == "\x1b[36mready\n\x1b[0m"


def test_nothing_was_printed(cli: CommandLine) -> None:
    cli.container("quiet")
    assert cli("logs", "quiet") == cli("logs", "-f", "quiet") == type(cli("version"))(0, "", "")


def test_no_such_container(cli: CommandLine) -> None:
    result = cli("logs", "nope")
    assert result.code == 125
    assert result.err == 'Error: no container with name or ID "nope" found: no such container\n'
    assert cli("logs", "-l").code == 125


def test_follow_ends_with_the_container(cli: CommandLine) -> None:
    container = cli.container("web", RUNNING, alive=True)
    printed(container, ("stdout", b"first\n"))
    started = threading.Event()

    def supervise() -> None:
        started.wait()
        printed(container, ("stdout", b"second\n"), ("stderr", b"third\n"))
        container.write_last_state(EXITED)
        cli.let_go()

    thread = threading.Thread(target=supervise)
    thread.start()
    started.set()
    result = cli("logs", "-f", "web")
    thread.join()
    assert (result.code, result.out, result.err) == (0, "first\nsecond\n", "third\n")


def test_a_reader_that_leaves(cli: CommandLine) -> None:
    printed(cli.container("loud", EXITED), ("stdout", b"x" * 100 + b"\n"))
    read, write = os.pipe()
    os.close(read)
    saved = os.dup(1)
    os.dup2(write, 1)
    os.close(write)
    try:
        result = cli("logs", "loud")
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert (result.code, result.err) == (141, "")


def test_a_pipe_that_does_not_block(cli: CommandLine) -> None:
    """Its capacity is 64 KiB by default (pipe(7)), so that a long log fills it while nobody reads."""
    printed(cli.container("long", EXITED), *[("stdout", b"x" * 9_999 + b"\n")] * 40)
    read, write = os.pipe()
    os.set_blocking(write, False)
    saved = os.dup(1)
    os.dup2(write, 1)
    os.close(write)
    taken: list[int] = []

    def take() -> None:
        while block := os.read(read, 4096):
            taken.append(len(block))

    reader = threading.Thread(target=take)
    reader.start()
    try:
        result = cli("logs", "long")
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        reader.join()
        os.close(read)
    assert (result.code, result.err) == (0, "")
    assert sum(taken) == 400_000
