"""A thread that does one thing after another: hashing and compressing let go of the interpreter's lock, so they can
run beside the parsing of the same bytes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

_DEPTH = 8


class Lane:
    """Calls `step` for each chunk, in order, in a thread of its own; at most _DEPTH chunks wait.

    A context manager: leaving it ends the thread. What `step` raised is raised by the next `put`, or by `drain`.
    """

    def __init__(self, step: Callable[[bytes], None]) -> None:
        self._step = step
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_DEPTH)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def put(self, chunk: bytes) -> None:
        """Hand over the next chunk; waits while the lane is full."""
        if self._failure is not None:
            raise self._failure
        self._chunks.put(chunk)

    def drain(self) -> None:
        """Wait until everything that was put is done."""
        self._chunks.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Lane:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self._thread.is_alive():
            self._failure = self._failure or InterruptedError("the lane was left")
            self._chunks.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            if self._failure is not None:
                continue  # only make room, so that nobody waits for ever
            try:
                self._step(chunk)
            except BaseException as error:  # noqa: BLE001  raised again where the result is needed
                self._failure = error
