"""What a container printed: the log file, its writer in the supervisor, and its readers.

The format is Podman's k8s-file (and CRI-O's, containerd's): one line of the file for each line that was printed,

    2026-11-24T07:00:00.000000000+00:00 stdout F all of a line
    2026-11-24T07:00:00.000000000+00:00 stderr P the first part of a line that is too long, or not yet ended

When the file has grown past `max_size` it becomes `ctr.log.1`, replacing the one before, and a new file begins. So a
log takes at most twice that, and always holds at least the last `max_size` bytes. Sizes count the file's bytes, time
stamps included.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

DEFAULT_MAX_SIZE = 128 << 20
"""Bytes. Podman has no limit; this one keeps a container that prints without end from filling a home directory."""

PARTIAL_MAX = 8192
"""Bytes of a line without an end that the writer holds back at most."""

_BLOCK = 1 << 18


class LogWriter:
    """The supervisor's end. Owns a descriptor until `close`.

    What is printed without a final newline is held back until the line goes on, up to PARTIAL_MAX bytes; `pending` says
    so, and `flush` writes it as a partial line, which a supervisor does when its container has been quiet for a moment.

    A full disk never stops the container: what cannot be written is dropped, counted, and said in the log once there is
    room again.
    """

    __slots__ = ("_fd", "_held", "_lost", "_max_size", "_path", "_second", "_size", "_stamp", "_torn")

    def __init__(self, path: str, *, max_size: int = DEFAULT_MAX_SIZE) -> None:
        """`path` is made when there is something to write. `max_size` is in bytes; 0 is no limit."""
        self._path = path
        self._max_size = max_size
        self._held: dict[str, tuple[int, bytes]] = {}  # stream -> (time of its first byte, the line so far)
        self._second = -1
        self._stamp = b""
        self._lost = 0
        self._torn = False
        self._fd = -1
        self._size = 0

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    @property
    def pending(self) -> bool:
        """Whether a line without an end is held back."""
        return bool(self._held)

    @property
    def lost(self) -> int:
        """Bytes of output that could not be written and have not been reported in the log."""
        return self._lost

    def write(self, stream: str, data: bytes, now_ns: int) -> None:
        """Logs a chunk as it came from the container. `stream` is stdout or stderr, `now_ns` nanoseconds since 1970."""
        if not data:
            return
        held = self._held.pop(stream, None) if self._held else None
        if held is None:
            end = data.rfind(b"\n") + 1
            out = b""
        else:
            began, start = held
            newline = data.find(b"\n") + 1
            if not newline:
                self._hold(stream, began, start + data)
                return
            # The line that was begun keeps the time of its first byte.
            out = self._prefix(stream, began, b" F ") + start + data[:newline]
            data = data[newline:]
            end = data.rfind(b"\n") + 1
        if end:
            prefix = self._prefix(stream, now_ns, b" F ")
            lines = data if end == len(data) else data[:end]
            # One replacement gives every line its prefix, and one too many at the end.
            out += prefix + lines.replace(b"\n", b"\n" + prefix)[: -len(prefix)]
        if out:
            self._append(out)
        if end < len(data):
            self._hold(stream, now_ns, data[end:])

    def _hold(self, stream: str, began: int, line: bytes) -> None:
        if len(line) > PARTIAL_MAX:
            self._append(self._prefix(stream, began, b" P ") + line + b"\n")
        else:
            self._held[stream] = (began, line)

    def flush(self) -> None:
        """Writes the lines that are held back, as partial ones."""
        held, self._held = self._held, {}
        for stream, (began, line) in held.items():
            self._append(self._prefix(stream, began, b" P ") + line + b"\n")

    def close(self) -> None:
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _prefix(self, stream: str, now_ns: int, tag: bytes) -> bytes:
        second, fraction = divmod(now_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%s.%09d+00:00 %s%s" % (self._stamp, fraction, stream.encode(), tag)

    def _append(self, out: bytes) -> None:
        if self._lost:
            note = f"[{self._lost} bytes of output were lost: there was no space to log them]"
            out = self._prefix("stderr", time.time_ns(), b" F ") + note.encode() + b"\n" + out
        if self._torn:
            out = b"\n" + out
        view = memoryview(out)
        try:
            if self._fd < 0:
                self._open()
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            # No space, a quota, a file system that went away: the container goes on; its next line is tried again.
            if len(view) < len(out):
                self._torn = True
            self._lost += len(view)
            return
        self._lost = 0
        self._torn = False
        if self._max_size and self._size > self._max_size:
            self._rotate()

    def _rotate(self) -> None:
        """Readers that have the file open read it to its end and then look for the new one (LogReader)."""
        previous = self._fd
        try:
            os.rename(self._path, f"{self._path}.1")
            self._open()
        except OSError:
            self._size = 0  # it goes on in the file it has, and the next attempt is max_size bytes later
            return
        os.close(previous)


_LINE = re.compile(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{9})\+00:00 (stdout|stderr) ([FP]) ")


class Line(NamedTuple):
    """One line of the file. `stamp` is RFC 3339 in UTC; `data` ends with a newline unless the line is `partial`."""

    stamp: bytes
    stream: bytes
    partial: bool
    data: bytes


class LogReader:
    """A log from some point on. `available` gives what is there and, called again, what has come since.

    `tail` is a number of lines from the end. `since_ns` and `until_ns` are nanoseconds since 1970. Lines that do not
    parse (a disk that was full, a machine that went down) are left out. Owns a descriptor until `close`.
    """

    def __init__(
        self, path: str, *, tail: int | None = None, since_ns: int | None = None, until_ns: int | None = None
    ) -> None:
        self.path = path
        self._since = stamp(since_ns) if since_ns is not None else b""
        self._until = stamp(until_ns) if until_ns is not None else None
        self._rest = b""
        self._files: list[int] = []
        current = _open(path)
        previous = _open(f"{path}.1")
        if current is not None and previous is not None and os.path.sameopenfile(current, previous):
            os.close(previous)  # the file was rotated between the two calls
            previous = None
        self._files = [fd for fd in (previous, current) if fd is not None]
        if tail is not None:
            self._seek_tail(tail)

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())

    def available(self) -> Iterator[Line]:
        """The lines that are there and have not been given yet."""
        while True:
            if not self._files and not self._next_file():
                return
            block = os.read(self._files[0], _BLOCK)
            if block:
                yield from self._parse(block)
            elif len(self._files) > 1 or self._is_replaced():
                # Read once more: the writer may have appended between our read and the rotation.
                block = os.read(self._files[0], _BLOCK)
                if block:
                    yield from self._parse(block)
                    continue
                os.close(self._files.pop(0))
                self._rest = b""
            else:
                return

    def _is_replaced(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        mine = os.fstat(self._files[0])
        return (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)

    def _next_file(self) -> bool:
        fd = _open(self.path)
        if fd is None:
            return False
        self._files.append(fd)
        return True

    def _parse(self, block: bytes) -> Iterator[Line]:
        lines = (self._rest + block).split(b"\n")
        self._rest = lines.pop()
        match, since, until = _LINE.match, self._since, self._until
        for text in lines:
            found = match(text)
            if found is None:
                continue
            at = text[:35]
            if at < since or (until is not None and at > until):
                continue
            start = found.end()
            if text[start - 2] == 0x46:  # F
                yield Line(at, found[8], False, text[start:] + b"\n")
            else:
                yield Line(at, found[8], True, text[start:])

    def _seek_tail(self, count: int) -> None:
        """Moves to where the last `count` lines begin, looking from the end."""
        open_at_end: dict[bytes, bool] = {}  # stream -> whether its last line in the file has ended
        for number in range(len(self._files) - 1, -1, -1):
            fd = self._files[number]
            for offset, text in _backwards(fd):
                found = _LINE.match(text)
                if found is None:
                    continue
                stream, full = found[8], found[9] == b"F"
                if full or stream not in open_at_end:
                    if count == 0:
                        os.lseek(fd, offset + len(text) + 1, os.SEEK_SET)
                        for newer in self._files[number + 1 :]:
                            os.lseek(newer, 0, os.SEEK_SET)
                        for older in self._files[:number]:
                            os.close(older)
                        del self._files[:number]
                        return
                    count -= 1
                open_at_end[stream] = full
        for fd in self._files:
            os.lseek(fd, 0, os.SEEK_SET)


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _backwards(fd: int) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file from the last to the first, each with its offset and without its newline."""
    position = os.lseek(fd, 0, os.SEEK_END)
    offset = position
    rest = b""
    last = True
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        block = os.pread(fd, size, position) + rest
        lines = block.split(b"\n")
        if last:
            unfinished = lines.pop()  # empty, or a line that is being written
            if not lines:
                rest = unfinished
                continue
            offset = position + len(block) - len(unfinished)
            last = False
        rest = lines[0]
        for text in reversed(lines[1:]):
            offset -= len(text) + 1
            yield offset, text
    if not last:
        yield 0, rest


class Source(NamedTuple):
    """A log to follow, and whether the container that writes it is alive."""

    reader: LogReader
    is_alive: Callable[[], bool]


def follow(sources: Sequence[Source], *, wait: Callable[[float], object] = time.sleep) -> Iterator[tuple[int, Line]]:
    """Lines of all sources as they come, each with its source's position. Ends when no container is alive any more.

    It looks again after 10 ms, and after at most 100 ms where nothing happens: inotify(7) sees no writes that another
    node makes to a network file system. `wait` is called each time it has read all there is, so a caller can flush.
    """
    alive = dict(enumerate(sources))
    pause = 0.0
    while True:
        quiet = True
        for number, source in list(alive.items()):
            lives = source.is_alive()  # asked first: what it wrote before it died is still read
            for line in source.reader.available():
                quiet = False
                yield number, line
            if not lives:
                del alive[number]
        if not alive:
            return
        pause = min(0.1, pause * 2 or 0.01) if quiet else 0.0
        wait(pause)


def stamp(now_ns: int) -> bytes:
    """RFC 3339 as the file has it, in UTC: such stamps sort as their times do."""
    second, fraction = divmod(max(now_ns, 0), 1_000_000_000)
    return b"%s.%09d+00:00" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode(), fraction)
