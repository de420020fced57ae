"""Captures as tshark reads them, and that no file that misbehaves hurts the network."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from netns.capture import Capture
from netns.errors import NetworkError
from netns.link import Link
from netns.wire.error import Buffer

OURS = b"\x52\x55\x0a\0\2\2"
LINK = Link(OURS, b"\x02\0\0\0\0\1", 1500)
GATEWAY, GUEST = b"\x0a\0\2\2", b"\x0a\0\2\x64"


def to_guest(payload: bytes) -> tuple[Buffer, ...]:
    (frame,) = LINK.datagram(GATEWAY, 4000, GUEST, 5000, payload)
    return frame


def from_guest(payload: bytes) -> tuple[Buffer, ...]:
    (frame,) = Link(b"\x02\0\0\0\0\1", OURS, 1500).datagram(GUEST, 5000, GATEWAY, 4000, payload)
    return frame


def tshark(*words: str) -> list[list[str]]:
    fields = ("udp.srcport", "udp.length", "frame.packet_flags_direction", "frame.interface_name")
    command = ["tshark", "-n", *words, "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=50, check=True, env={**os.environ, "HOME": "/"}
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_tshark_reads_it(tmp_path: Path) -> None:
    path = str(tmp_path / "capture.pcapng")
    notes: list[str] = []
    capture = Capture.create(path, mac=OURS, note=notes.append, interface="eth7")
    capture.add(to_guest(b"12345"))
    capture.add(from_guest(b"1" * 1400))
    assert os.stat(path).st_mode & 0o777 == 0o600
    # It is complete after every packet, so that it can be read while it grows.
    rows = [["4000", "13", "0x00000001", "eth7"], ["5000", "1408", "0x00000002", "eth7"]]
    assert tshark("-r", path) == rows
    capture.add(to_guest(b""))
    assert tshark("-r", path) == [*rows, ["4000", "8", "0x00000001", "eth7"]]
    capture.close()
    capture.add(to_guest(b"after the end"))
    assert not notes and not capture.lost


def test_tshark_reads_it_live(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    capture = Capture.create(path, mac=OURS, note=print)
    os.set_blocking(reader, True)
    rows: list[list[str]] = []

    def read() -> None:
        done = subprocess.run(
            ["tshark", "-n", "-i", "-", "-c", "3", "-T", "fields", "-e", "udp.length"],
            stdin=reader, capture_output=True, text=True, timeout=50, check=True, env={**os.environ, "HOME": "/"},
        )  # fmt: skip
        rows.extend(line.split("\t") for line in done.stdout.splitlines())

    thread = threading.Thread(target=read)
    thread.start()
    for size in (1, 2, 3):
        capture.add(to_guest(bytes(size)))
    thread.join()
    os.close(reader)
    capture.close()
    assert rows == [["9"], ["10"], ["11"]]


def test_a_full_disk_ends_it_with_a_note() -> None:
    notes: list[str] = []
    with open("/dev/full", "wb", buffering=0) as file:
        capture = Capture(file, note=notes.append)
        capture.add(to_guest(b"x"))
    assert notes == ["the capture of packets has ended: No space left on device"]


def test_a_reader_that_leaves_ends_it_with_a_note() -> None:
    notes: list[str] = []
    reader, writer = os.pipe2(os.O_NONBLOCK)
    capture = Capture(open(writer, "wb", buffering=0), note=notes.append)  # noqa: SIM115  the capture closes it
    capture.add(to_guest(b"x"))
    os.close(reader)
    for _ in range(3):
        capture.add(to_guest(b"x"))
    assert notes == ["the capture of packets has ended: Broken pipe"]


def test_a_slow_reader_misses_frames_but_whole_ones(tmp_path: Path) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    capture = Capture(open(writer, "wb", buffering=0))  # noqa: SIM115  the capture closes it
    for _ in range(200):
        capture.add(to_guest(bytes(1400)))
    assert capture.lost
    read = bytearray()
    for _ in range(2):
        while True:
            try:
                read += os.read(reader, 65536)
            except BlockingIOError:
                break
        capture.add(to_guest(b"later"))
    capture.close()
    read += os.read(reader, 65536)
    os.close(reader)
    path = tmp_path / "read.pcapng"
    path.write_bytes(read)
    sizes = [row[1] for row in tshark("-r", str(path))]
    assert len(sizes) == 202 - capture.lost
    assert sizes[-2:] == ["13", "13"] and set(sizes[:-2]) == {"1408"}


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="No such file"):
        Capture.create(str(tmp_path / "none" / "x"), mac=OURS, note=print)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NetworkError):
        Capture.create(str(tmp_path / "pipe"), mac=OURS, note=print)
