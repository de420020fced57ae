"""The life of a container, in the process that looks after it.

`supervise` is that life in one function: lock, root filesystem, namespaces, network, command, end. Everything runs in
one nursery; cancelling it is the one way to stop, and whatever was made is unmade on the way out.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import trio
from msgspec import structs

from .. import syscalls
from ..errors import HostError, first_cause
from ..runtime import facts, process, terminal
from ..runtime.process import Init
from . import children, claim, ending, etcfiles, mounting, network, sharing, specification, uplink
from .children import Child
from .containers import Container
from .logs import LogWriter
from .reception import Reception
from .record import Record, State
from .streams import Attachment, Streams
from .sweep import boot_id, start_time
from .timestamps import rfc3339
from .uplink import Uplink

DRAIN_SECONDS = 1.0
_WARNINGS = 32  # that are kept


@dataclass(slots=True)
class Attendance:
    """What the one who started the container wants to know, and what they can do while it runs."""

    attachment: Attachment | None = None
    on_created: Callable[[], None] = lambda: None
    """The container is complete but for its command; nothing has been printed yet."""
    on_started: Callable[[], None] = lambda: None
    window: tuple[int, int] | None = None
    """Rows and columns of their terminal."""
    init: Init | None = field(default=None, init=False)

    streams: Streams | None = field(default=None, init=False)
    is_running: bool = field(default=False, init=False)

    def signal(self, number: int) -> None:
        if self.init is not None:
            self.init.signal(number)

    def detach(self) -> None:
        """They have gone: nothing is read from them or written to them any more."""
        if self.attachment is not None and self.streams is not None:
            self.streams.detach(self.attachment)
        self.attachment = None

    def resize(self, rows: int, columns: int) -> None:
        self.window = rows, columns
        if self.init is not None and self.init.master is not None:
            terminal.resize(self.init.master, rows, columns)


async def supervise(container: Container, attendance: Attendance) -> int:
    """Runs a container from start to end and returns its exit code. Raises RcontainError when it cannot be started."""
    with _Life(container, attendance) as life, ExitStack() as stack:
        record, streams = life.record, life.streams
        stack.callback(streams.close)
        # What is mounted from here on goes away with this process. Who joins us gets the namespace before that.
        life.reception.keep_namespaces()
        syscalls.unshare(syscalls.Clone.NEWNS)
        shared = stack.enter_context(sharing.entered(container, record))
        reserved = network.reserve(record.network)
        stack.callback(reserved.remove)
        stack.callback(life.reception.close)
        async with trio.open_nursery() as nursery:
            server = uplink.start(record.network, reserved, f"{container.live}/net.log")
            if server is not None:
                nursery.start_soon(life.guard_network, server)
            mounted = await mounting.mount(container, record)
            if mounted.server is not None:
                nursery.start_soon(life.guard_filesystem, mounted.server)
            specification.ensure_volumes(container, record, mounted.path)
            ids = specification.ids_of(record)
            with process.spawn(
                specification.write(container, record, ids, mounted.path, shared),
                rootfs=mounted.path,
                ids=ids,
                stdio=streams.child or (None, None, None),
                reaper=record.init and facts.find_init() is None,
                make_cwd=True,
            ) as init:
                streams.given()
                attendance.init = init
                if server is not None and init.netns is not None:
                    await server.attach(init.netns)
                await init.created()
                if init.master is not None:
                    streams.set_master(os.dup(init.master))
                    if attendance.window is not None:
                        attendance.resize(*attendance.window)
                attendance.on_created()
                nursery.start_soon(streams.run)
                await init.start()
                life.begins(init, reserved)
                nursery.start_soon(life.reception.serve)
                if attendance.attachment is not None:
                    nursery.start_soon(streams.carry_input, attendance.attachment)
                life.code = await init.wait()
                await streams.drained(DRAIN_SECONDS)
                attendance.init = None
                if server is not None and record.network.published:
                    await server.settled()
            nursery.cancel_scope.cancel()
    return life.result()


class _Life:
    """What `supervise` keeps about its container, and what it writes down at the beginning and the end."""

    def __init__(self, container: Container, attendance: Attendance) -> None:
        self.container = container
        self.attendance = attendance
        self.record: Record = container.record()
        self.code: int | None = None
        self._state: State | None = None
        self._trouble = ""
        self._warnings: tuple[str, ...] = ()
        self._uplink: Uplink | None = None
        self._lock = -1
        self._net_log = f"{container.live}/net.log"

    def __enter__(self) -> _Life:
        self._lock = claim.take_over(self.container)
        self.streams = Streams(
            terminal=self.record.terminal, open_stdin=self.record.open_stdin, log=LogWriter(self.container.log_path)
        )
        self.attendance.streams = self.streams
        if self.attendance.attachment is not None:
            self.streams.attach(self.attendance.attachment)
        self.reception = Reception(self.container, self.streams, resize=self.attendance.resize)
        return self

    def begins(self, init: Init, reserved: network.Reserved) -> None:
        """The command runs: says so in the state, and to whoever waits for that."""
        self._state = State(
            status="running",
            pid=init.pid,
            pid_start=start_time(init.pid),
            boot_id=boot_id(),
            supervisor=os.getpid(),
            started_at=rfc3339(time.time_ns()),
            published=reserved.published,
            warnings=self._warnings,
        )
        self.container.write_live_state(self._state)
        self.reception.pidfd = init.pidfd
        # As for the helpers (children.py): the container gets it itself, and its end is ours.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        syscalls.set_command_line(f"rcontain {self.record.name}")
        self.attendance.is_running = True
        self.attendance.on_started()

    async def guard_filesystem(self, server: Child) -> None:
        """Without its root filesystem a container can do nothing any more: ends it, and says why."""
        await server.ended()
        self._trouble = "the process that served the container's root filesystem has died"
        raise HostError(self._trouble, hint=f"see: rcontain logs {self.container.id[:12]}")

    async def guard_network(self, server: Uplink) -> None:
        """A container can do without its network: it goes on, and `inspect` says what happened."""
        self._uplink = server
        self.reception.ask_flows = server.ask_flows
        await server.attend(self._warn, self._search_in)
        self._trouble = uplink.DIED
        words = uplink.last_words(self._net_log)
        if words:
            self._warnings = (*self._warnings, words)[-_WARNINGS:]
        self._tell(error=self._trouble, published=(), warnings=self._warnings)

    def _search_in(self, domains: Sequence[str]) -> None:
        """The host looks short names up in other domains now, and so does the container, unless it was told which."""
        if self.record.network.dns_search:
            return
        try:
            # In place: it is the file that is mounted in the container. None is there where the user mounts another.
            with open(f"{self.container.live}/resolv.conf", "r+", encoding="utf-8", errors="replace") as file:
                text = etcfiles.with_search(file.read(1 << 16), domains)
                file.seek(0)
                file.write(text)
                file.truncate()
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._warn(f"the container's /etc/resolv.conf cannot follow the host's: {error.strerror}")

    def _warn(self, sentence: str) -> None:
        """What the network's process notes: into its log, and the last of it into the state."""
        self._warnings = (*self._warnings, sentence)[-_WARNINGS:]
        try:
            with open(self._net_log, "a", encoding="utf-8") as log:
                log.write(f"{rfc3339(time.time_ns())} {sentence}\n")
        except OSError:
            pass  # a full disk: the note is still in the state
        self._tell(warnings=self._warnings)

    def _tell(self, **changes: object) -> None:
        if self._state is None:
            return
        self._state = structs.replace(self._state, **changes)
        now = self.container.live_state() or self._state  # which may be `stopping` by now
        try:
            self.container.write_live_state(structs.replace(self._state, status=now.status))
        except HostError:
            return  # a full disk: the container goes on, and says it at its end if it can

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Writes down how it ended, before the lock says that nobody looks after it any more."""
        children.kill_all(spare=uplink.NAME)  # which may have the last bytes of a connection to pass on
        try:
            if error is not None and not self._trouble:
                self._trouble = str(first_cause(error))
            if not self.record.remove:
                self._write_end()
            if self.record.remove:
                ending.forget(self.container, volumes=True, mount=mounting.ROOTFS)
            else:
                self.container.end_life(mount=mounting.ROOTFS)
            children.kill_all()
            if self.record.network.published:
                # Who is told that the container has ended may use its ports. Without any nobody need wait: the kernel
                # takes its time, some 20 ms, to let a TAP device go. The session reaps what is left (Session.finish).
                children.reap_all()
            self.reception.finish(125 if self.code is None else self.code)
        finally:
            children.kill_all()
            if self._uplink is not None:
                self._uplink.close()
            os.close(self._lock)

    def _write_end(self) -> None:
        if self._state is None:
            before = self.container.last_state() or State(status="created")
            self.container.write_last_state(structs.replace(before, error=self._trouble))
            return
        self.container.keep_config()
        self.container.write_last_state(
            structs.replace(
                self._state,
                status="exited",
                pid=0,
                exit_code=137 if self.code is None else self.code,
                finished_at=rfc3339(time.time_ns()),
                error=self._trouble,
            )
        )

    def result(self) -> int:
        assert self.code is not None
        return self.code
