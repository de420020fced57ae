"""The way to the kernel: /dev/fuse, read and written without a library in between."""

from __future__ import annotations

import errno
import logging
import os
import select
from collections.abc import Callable

from fuse.mounting import MountOptions
from fuse.requests import MAX_PAGES, Requests
from fuse.tree import Tree

log = logging.getLogger("fuse")

IDLE_AFTER = 2000
"""Milliseconds without a request after which `on_idle` is called, once."""


def max_pages() -> int:
    """How many pages the kernel lets a request be about: fuse(4), max_pages_limit, since Linux 6.13."""
    try:
        with open("/proc/sys/fs/fuse/max_pages_limit") as file:
            return min(MAX_PAGES, max(1, int(file.read())))
    except (OSError, ValueError):
        return MAX_PAGES


def serve_device(
    device: int, tree: Tree, options: MountOptions, *, on_ready: Callable[[], None], on_idle: Callable[[], None]
) -> None:
    """Answer the requests on a /dev/fuse that is mounted already, until the mount goes away; then close it.

    `on_ready` is called after the first one, in which the kernel introduces itself.
    """
    try:
        _serve(device, Requests(tree, options, max_pages=max_pages()), on_ready, on_idle)
    finally:
        os.close(device)


def _serve(device: int, requests: Requests, on_ready: Callable[[], None], on_idle: Callable[[], None]) -> None:
    os.set_blocking(device, False)
    poll = select.poll()
    poll.register(device, select.POLLIN)
    answer, buffers = requests.answer, [requests.buffer]
    readv, write, writev = os.readv, os.write, os.writev
    ready = False
    while True:
        try:
            length = readv(device, buffers)
        except BlockingIOError:
            if not poll.poll(IDLE_AFTER):
                on_idle()
                poll.poll()
            continue
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            if error.errno in (errno.EINTR, errno.ENOENT):  # ENOENT: its caller was interrupted before it was read
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
                write(device, requests.failure(errno.EIO))
        if not ready and requests.started:
            ready = True
            on_ready()
