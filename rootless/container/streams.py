"""A container's standard streams: what it prints goes to its log and to whoever is attached; what they type goes in.

With a terminal there is one stream, the master of the container's own pty; without, there are three pipes.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

import trio

from .logs import LogWriter
from .sink import Sink, read_some

DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q, as Docker's and Podman's


QUIET_SECONDS = 0.2
_PATIENCE = 8  # turns of the loop


class Attachment:
    """Somebody's stdin, stdout and stderr; does not own them. `on_detach` runs when they typed the detach keys."""

    def __init__(
        self, fds: tuple[int, int, int], *, reads: bool, terminal: bool, on_detach: Callable[[], None] | None = None
    ) -> None:
        self.stdin = fds[0] if reads else None
        self.sinks = {"stdout": Sink(fds[1]), "stderr": Sink(fds[2])}
        self.terminal = terminal
        self.on_detach = on_detach
        self.reading = trio.CancelScope()
        self.paused = False
        self.resumed = trio.Event()

    def pause(self) -> None:
        """Stops reading, while the client is stopped: the shell reads the terminal then."""
        self.paused = True
        self.resumed = trio.Event()

    def resume(self) -> None:
        self.paused = False
        self.resumed.set()

    def close(self) -> None:
        self.reading.cancel()
        for sink in self.sinks.values():
            sink.close()


class Streams:
    """The supervisor's ends. `child` are the descriptors for init; close them with `given` once it has them."""

    def __init__(self, *, terminal: bool, open_stdin: bool, log: LogWriter | None) -> None:
        self.terminal = terminal
        self.log = log
        self.attachments: list[Attachment] = []
        self.child: tuple[int, int, int] | None = None
        self._input: int | None = None
        self._outputs: dict[str, int] = {}
        self._finished = trio.Event()
        if not terminal:
            self._make_pipes(open_stdin)

    def _make_pipes(self, open_stdin: bool) -> None:
        if open_stdin:
            stdin, self._input = os.pipe()
            os.set_blocking(self._input, False)
        else:
            stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._outputs["stdout"], stdout = os.pipe()
        self._outputs["stderr"], stderr = os.pipe()
        self.child = (stdin, stdout, stderr)

    def given(self) -> None:
        """Closes the child's ends, so that the end of its output is seen."""
        for fd in self.child or ():
            os.close(fd)
        self.child = None

    def set_master(self, master: int) -> None:
        """Takes over the pty's master, which init sent."""
        os.set_blocking(master, False)
        self._outputs["stdout"] = master
        self._input = master

    def attach(self, attachment: Attachment) -> None:
        self.attachments.append(attachment)

    def detach(self, attachment: Attachment) -> None:
        if attachment in self.attachments:
            self.attachments.remove(attachment)
            attachment.close()

    async def run(self) -> None:
        """Carries output until all of it has been read, as it has when the last process of the container is gone."""
        async with trio.open_nursery() as nursery:
            for name, fd in list(self._outputs.items()):
                nursery.start_soon(self._carry_output, name, fd)
        self._finished.set()

    async def drained(self, seconds: float) -> None:
        """Waits for the end of the output, at most so long."""
        with trio.move_on_after(seconds):
            await self._finished.wait()

    async def _carry_output(self, name: str, fd: int) -> None:
        while data := await self._read(fd):
            if self.log is not None:
                self.log.write(name, data, time.time_ns())
            if name == "stderr":
                await self._let_stdout_go_first()
            for attachment in list(self.attachments):
                try:
                    await attachment.sinks[name].write(data)
                except OSError:
                    if self.terminal or attachment not in self.attachments:
                        self.detach(attachment)
                        continue
                    # Its reader has gone, as in `run … yes | head -1`: the command is to get SIGPIPE, as without us.
                    os.close(self._outputs.pop(name))
                    return

    async def _let_stdout_go_first(self) -> None:
        """What a command prints to both at nearly one time is nearly always meant in that order."""
        stdout = self._outputs.get("stdout")
        if stdout is not None:
            for _ in range(_PATIENCE):
                if not select.select([stdout], [], [], 0)[0]:
                    return
                await trio.lowlevel.checkpoint()

    async def _read(self, fd: int) -> bytes:
        """The next output; a line that stays unfinished for a while is written to the log as far as it has come."""
        if self.log is not None and self.log.pending:
            with trio.move_on_after(QUIET_SECONDS):
                return await read_some(fd)
            self.log.flush()
        return await read_some(fd)

    async def carry_input(self, attachment: Attachment) -> None:
        """Carries what somebody types until their end of file, or until they detach."""
        if attachment.stdin is None or self._input is None:
            return
        with attachment.reading:
            held = b""
            while True:
                while attachment.paused:
                    await attachment.resumed.wait()
                data = await read_some(attachment.stdin)
                if not data:
                    break
                if attachment.terminal:
                    data, held, left = _look_for_detach(held + data)
                    if left:
                        self.detach(attachment)
                        if attachment.on_detach is not None:
                            attachment.on_detach()
                        return
                if data and not await self._write_input(data):
                    return
            if not self.terminal:
                os.close(self._input)
                self._input = None

    async def _write_input(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            if self._input is None:
                return False
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._input)
            except OSError:
                return False  # the container does not read any more
        return True

    def close(self) -> None:
        """Closes everything of ours."""
        self.given()
        for attachment in list(self.attachments):
            self.detach(attachment)
        fds = set(self._outputs.values()) | ({self._input} if self._input is not None else set())
        for fd in fds:
            os.close(fd)
        self._outputs.clear()
        self._input = None
        if self.log is not None:
            self.log.close()


def _look_for_detach(data: bytes) -> tuple[bytes, bytes, bool]:
    """What to pass on now, what to hold back because it may be the beginning of the keys, and whether they came."""
    before, keys, _ = data.partition(DETACH_KEYS)
    if keys:
        return before, b"", True
    if data.endswith(DETACH_KEYS[:1]):
        return data[:-1], data[-1:], False
    return data, b"", False
