"""Loading ahead of a sequential reader, in a thread: decompression leaves Python's lock, so a second processor does it.

A job is queued, then running, then its result is in the cache. A reader that needs the result of a queued job takes the
job back and does it itself; while it would wait for a running one, it does the next that is queued. So nothing is done
twice, and where decompression is all there is to do, two processors share it.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue

import zstandard

log = logging.getLogger("fuse")

Key = tuple[int, int]
"""(number of a reader, number of a frame)."""

Load = Callable[[zstandard.ZstdDecompressor], bytes]
"""Reads and decompresses a frame, with a decompressor of the thread that calls."""


class _Job:
    __slots__ = ("busy", "data", "done", "key", "load")

    def __init__(self, key: Key, load: Load) -> None:
        self.key = key
        self.load = load
        self.data: bytes | None = None
        self.busy = threading.Lock()  # taken by whoever starts the job, released when it is done; kept if called off
        self.done = False


class ReadAhead:
    """One thread, started with the first job; `finished` is called in it with each result."""

    def __init__(self, finished: Callable[[Key, bytes], None]) -> None:
        self._finished = finished
        self._jobs: dict[Key, _Job] = {}  # queued or running
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._able = True

    def ask(self, key: Key, load: Load) -> None:
        """Queue a job unless there is one of that key. What `load` raises is kept quiet: who needs it will see it."""
        if key in self._jobs or not self._able:
            return
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="readahead", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # a limit on processes: it works without, as well
                log.warning("reading without read-ahead: %s", error)
                self._able = False
                return
            self._thread = thread
        job = self._jobs[key] = _Job(key, load)
        self._queue.put(job)

    def result(self, key: Key, decompressor: zstandard.ZstdDecompressor) -> bytes | None:
        """Of a running job, when it is done. None: there is none, it failed, or it had not begun and is called off."""
        job = self._jobs.get(key)
        if job is None or self._start(job):
            self._jobs.pop(key, None)
            return None
        for other in list(self._jobs.values()):
            if self._start(other):
                self._run(other, decompressor)
                break
        with job.busy:
            return job.data

    def call_off(self, reader: int) -> None:
        """Drop a reader's jobs; none is running afterwards."""
        for key, job in list(self._jobs.items()):
            if key[0] == reader:
                if not job.busy.acquire(blocking=False):
                    job.busy.acquire()  # it is done
                self._jobs.pop(key, None)

    def close(self) -> None:
        """End the thread."""
        for reader in {key[0] for key in list(self._jobs)}:
            self.call_off(reader)
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the thread that serves
        decompressor = zstandard.ZstdDecompressor()
        while (job := self._queue.get()) is not None:
            if self._start(job):
                self._run(job, decompressor)

    @staticmethod
    def _start(job: _Job) -> bool:
        """Take a job that is neither running nor done nor called off."""
        if not job.busy.acquire(blocking=False):
            return False
        if job.done:
            job.busy.release()
            return False
        return True

    def _run(self, job: _Job, decompressor: zstandard.ZstdDecompressor) -> None:
        try:
            job.data = job.load(decompressor)
            self._finished(job.key, job.data)
        except Exception as error:  # noqa: BLE001  the reader that comes to it meets it again
            log.debug("reading ahead: %s", error)
        finally:
            self._jobs.pop(job.key, None)
            job.done = True
            job.busy.release()
