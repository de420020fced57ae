"""The way to the kernel: /dev/fuse, read and written without a library in between."""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from fuse.mounting import MountOptions
from fuse.requests import MAX_PAGES, Requests
from fuse.tree import Tree

log = logging.getLogger("fuse")

IDLE_AFTER = 2000
"""Milliseconds without a request after which `on_idle` is called, once."""
WATCH = 150e-6
"""Seconds for which the descriptor is watched before the process falls asleep."""
MOST_SKIPPED = 64
"""How often it falls asleep at once, at most, after watching was in vain."""


def max_pages() -> int:
    """How many pages the kernel lets a request be about: fuse(4), max_pages_limit, since Linux 6.13."""
    try:
        fd = os.open("/proc/sys/fs/fuse/max_pages_limit", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return min(MAX_PAGES, max(1, int(os.read(fd, 32))))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return MAX_PAGES


def serve_device(
    device: int, tree: Tree, options: MountOptions, *, on_ready: Callable[[], None], on_idle: Callable[[], None]
) -> None:
    """Answer the requests on a /dev/fuse that is mounted already, until the mount goes away; then close it.

    `on_ready` is called after the first one, in which the kernel introduces itself.
    """
    try:
        requests = Requests(tree, options, max_pages=max_pages())

        def rest() -> None:
            requests.rest()
            on_idle()

        _serve(device, requests, on_ready, rest)
    finally:
        os.close(device)


class _Waiting:
    """Waiting for the next request.

    It mostly comes within microseconds, which is less than it takes to fall asleep and to be woken. So the descriptor
    is watched for a moment first, where there is a second processor. When that was in vain, which is so when programs
    are busy with something else or have no processor to run on, the next few times go by without.
    """

    def __init__(self, device: int, on_idle: Callable[[], None]) -> None:
        poll = select.poll()
        poll.register(device, select.POLLIN)
        self._poll = poll.poll
        self._on_idle = on_idle
        self._alone = len(os.sched_getaffinity(0)) < 2
        self._skip = 0
        self._penalty = 1

    def wait(self) -> None:
        """Return when there is something to read."""
        poll = self._poll
        if poll(0):
            return
        if self._skip or self._alone:
            self._skip -= 1
        else:
            end = perf_counter() + WATCH
            while perf_counter() < end:
                if poll(0):
                    self._penalty = 1
                    return
            self._skip = self._penalty
            self._penalty = min(self._penalty * 2, MOST_SKIPPED)
        if not poll(IDLE_AFTER):
            self._on_idle()
            poll()


def _serve(device: int, requests: Requests, on_ready: Callable[[], None], on_idle: Callable[[], None]) -> None:
    os.set_blocking(device, False)
    wait = _Waiting(device, on_idle).wait
    answer, buffers = requests.answer, [requests.buffer]
    readv, write, writev = os.readv, os.write, os.writev
    ready = False
    while True:
        wait()
        try:
            length = readv(device, buffers)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            if error.errno in (
                errno.EAGAIN,
                errno.EINTR,
                errno.ENOENT,
            ):  # its caller was interrupted before it was read
                continue
            raise
        reply = answer(length)
        if reply is None:
            continue
        try:
            if isinstance(reply, bytes):
                write(device, reply)
            else:
                writev(device, reply)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno != errno.ENOENT:  # that is a caller who was interrupted and waits no longer
                log.error("the kernel takes no answer to a request: %s", error)
                with suppress(OSError):  # it may be that nobody waits for this one either
                    write(device, requests.failure(errno.EIO))
        if not ready and requests.started:
            ready = True
            on_ready()
