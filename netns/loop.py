"""The loop: descriptors that are ready, timers, and what becomes of a handler that fails.

Level-triggered epoll, one turn at a time. Who inherits it says in `_due` when it must wake up, and does in
`_finish_turn` what is to be done once for everything that a turn brought.
"""

from __future__ import annotations

import heapq
import select
import socket
import time
import traceback
from collections.abc import Callable
from itertools import count
from typing import Protocol

_MAX_NOTES = 64

Handler = Callable[[int], None]


class Notes(Protocol):
    """Whoever hears what is worth logging."""

    def note(self, sentence: str) -> None:
        """Take one sentence."""


class Timer:
    """A callback that will be run once; `cancel` makes it not."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Calls handlers of descriptors and timers. `now` is the time of the turn, `lost` counts what nobody took."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.lost = 0
        self.control: Notes | None = None
        self._noted: set[str] = set()
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._stale: set[int] = set()  # closed in this turn: the number may be another's, what epoll said of it is not
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._running = False

    def watch(self, sock: socket.socket, interest: int, handler: Handler) -> None:
        """Call `handler` when `sock` is ready for `interest` (epoll's bits); 0 to stop."""
        self.watch_fd(sock.fileno(), interest, handler)

    def watch_fd(self, fd: int, interest: int, handler: Handler) -> None:
        """The same for a bare descriptor, which must outlive the watching."""
        if not interest:
            if self._handlers.pop(fd, None) is not None:
                self._epoll.unregister(fd)
        elif fd in self._handlers:
            self._epoll.modify(fd, interest)
            self._handlers[fd] = handler
        else:
            self._epoll.register(fd, interest)
            self._handlers[fd] = handler

    def discard(self, sock: socket.socket, *, shared: bool = True) -> None:
        """Close `sock`, and forget what this turn has still to say about it.

        One that is not `shared` with another process leaves epoll by being closed, which saves a system call.
        """
        fd = sock.fileno()
        if self._handlers.pop(fd, None) is not None and shared:
            self._epoll.unregister(fd)
        self._stale.add(fd)
        sock.close()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` once, in `seconds`."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.now + seconds, next(self._order), timer))
        return timer

    def note(self, sentence: str) -> None:
        """Tell whoever listens, once; there is a limit to what is worth telling."""
        if self.control is not None and sentence not in self._noted and len(self._noted) < _MAX_NOTES:
            self._noted.add(sentence)
            self.control.note(sentence)

    def stop(self) -> None:
        """Let `run` return after this turn."""
        self._running = False

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        while self._running:
            self._turn()

    def close(self) -> None:
        """Close the loop's own descriptor."""
        self._epoll.close()

    def _turn(self) -> None:
        ready = self._epoll.poll(self._timeout())
        self.now = now = time.monotonic()
        handlers = self._handlers
        stale = self._stale
        for fd, mask in ready:
            handler = handlers.get(fd)
            if handler is not None and fd not in stale:
                try:
                    handler(mask)
                except Exception as error:  # noqa: BLE001  one flow ends, not all
                    self._failed(fd, handler, error)
        timers = self._timers
        while timers and timers[0][0] <= now:
            callback = heapq.heappop(timers)[2].callback
            if callback is not None:
                try:
                    callback()
                except Exception as error:  # noqa: BLE001  one flow ends, not all
                    self.report(error)
        self._finish_turn()
        if stale:
            stale.clear()

    def _timeout(self) -> float:
        due = self._due()
        if self._timers and (due is None or self._timers[0][0] < due):
            due = self._timers[0][0]
        if due is None:
            return -1
        # epoll counts in milliseconds: waiting for less than one would make it spin.
        left = due - self.now
        return left + 0.0005 if left > 0.001 else 0.001

    def _failed(self, fd: int, handler: Handler, error: Exception) -> None:
        """One flow ends by a fault of ours, not all of them: its owner's `failed`, if it has one, is called."""
        self.report(error)
        end: Callable[[], None] | None = getattr(getattr(handler, "__self__", None), "failed", None)
        try:
            if end is not None:
                end()
            if self._handlers.get(fd) is handler:
                self.watch_fd(fd, 0, handler)  # nobody would act on what epoll goes on saying
        except Exception as another:  # noqa: BLE001  one flow ends, not all
            self.report(another)

    def report(self, error: Exception) -> None:
        """Note an exception that was not foreseen, by its place."""
        self.lost += 1
        frames = traceback.extract_tb(error.__traceback__, limit=-1)
        place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
        self.note(f"a flow was ended by a fault of the network's own ({type(error).__name__} in {place}): {error}")

    def _due(self) -> float | None:
        """When a turn is needed even if nothing is ready and no timer has run out."""
        return None

    def _finish_turn(self) -> None:
        """The end of each turn."""
