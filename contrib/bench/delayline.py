"""A line that takes its time: two TAP devices in two network namespaces, and what enters one leaves the other later.

For contrib/bench/net, because not every kernel has netem. Frames keep the virtio header that they come with, so
segments stay whole and unsummed, and one process in Python carries more than two kernels send with that delay.

    python delayline.py PID MILLISECONDS NAME PEERNAME

makes NAME here and PEERNAME in the network namespace of PID, says "ready" and goes on until its stdin ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys
import threading
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TAP = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08  # TUN_F_CSUM, TSO4, TSO6, TSO_ECN
_CLONE_NEWNET = 0x40000000
_FRAME = 65536 + 64
_BATCH = 64


class DelayLine:
    """Moves frames between two descriptors of TAP devices, each after `seconds`."""

    def __init__(self, one: int, other: int, seconds: float) -> None:
        self._seconds = seconds
        self._ways = ((one, other, deque[tuple[float, bytes]]()), (other, one, deque[tuple[float, bytes]]()))

    def run(self, until: int) -> None:
        """Until the descriptor `until` is readable."""
        sources = [source for source, _, _ in self._ways]
        while True:
            due = min((queue[0][0] for _, _, queue in self._ways if queue), default=None)
            wait = None if due is None else max(0.0, due - time.monotonic())
            readable, _, _ = select.select([*sources, until], [], [], wait)  # its timeout is in microseconds
            if until in readable:
                return
            for source, target, queue in self._ways:
                if source in readable:
                    self._take(source, queue)
                self._give(target, queue)

    def _take(self, source: int, queue: deque[tuple[float, bytes]]) -> None:
        due = time.monotonic() + self._seconds
        for _ in range(_BATCH):
            try:
                queue.append((due, os.read(source, _FRAME)))
            except BlockingIOError:
                return

    def _give(self, target: int, queue: deque[tuple[float, bytes]]) -> None:
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            try:
                os.write(target, queue.popleft()[1])
            except OSError:
                continue  # the interface is down or out of memory: lost, as on any line


def open_tap(name: str) -> int:
    """A new TAP device in this thread's network namespace, non-blocking."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    return fd


def open_tap_in(pid: int, name: str) -> int:
    """The same in the network namespace of process `pid`."""
    opened: list[int | OSError] = []

    def enter() -> None:
        try:
            with open(f"/proc/{pid}/ns/net", "rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), "setns")
            opened.append(open_tap(name))
        except OSError as error:
            opened.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    (result,) = opened
    if isinstance(result, OSError):
        raise result
    return result


def main() -> int:
    pid, milliseconds, name, peer_name = sys.argv[1:]
    line = DelayLine(open_tap(name), open_tap_in(int(pid), peer_name), float(milliseconds) / 1000)
    print("ready", flush=True)
    line.run(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
