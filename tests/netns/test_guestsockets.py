"""Sockets of another namespace."""

from __future__ import annotations

import os
import socket
import time

import pytest

from netns.guestsockets import GuestSockets
from netns.tap import NamespaceRef
from tests.netns.command import a_guest
from tests.netns.network import PATIENCE, Network, on_a_host

pytestmark = [pytest.mark.userns, pytest.mark.tun]


def looks(guest: GuestSockets, address: str) -> tuple[int, bool]:
    """How many of 20 sockets could be bound to an address that only the guest has, and whether they block."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    taken = [sock for _ in range(20) if (sock := guest.take(family)) is not None]
    blocking = False
    for sock in taken:
        sock.bind((address, 0))
        blocking = blocking or sock.getblocking() or os.get_inheritable(sock.fileno())
        sock.close()
    return len(taken), blocking


def test_a_thread_makes_them() -> None:
    def work() -> None:
        with Network() as network:
            before = sorted(os.listdir("/proc/self/fd"))
            guest = GuestSockets(network.pidfd)
            assert looks(guest, "10.0.2.100") == (20, False) and looks(guest, "fd00::100") == (20, False)
            (thread,) = (name for name in os.listdir("/proc/self/task") if name != str(os.getpid()))
            with open(f"/proc/self/task/{thread}/status") as file:
                assert "CapEff:\t0000000000000000" in file.read()
            guest.close()
            assert guest.take(socket.AF_INET) is None
            deadline = time.monotonic() + PATIENCE
            while len(os.listdir("/proc/self/task")) > 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert sorted(os.listdir("/proc/self/fd")) == before

    on_a_host(work)


def test_a_child_makes_them() -> None:
    with a_guest() as pid:
        fds = tuple(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("user", "net"))
        before = sorted(os.listdir("/proc/self/fd"))
        guest = GuestSockets((fds[0], fds[1]))
        assert looks(guest, "0.0.0.0") == (20, False)
        sock = guest.take(socket.AF_INET)
        assert sock is not None
        with sock, pytest.raises(OSError, match="unreachable"):  # its loopback is down, ours is up
            sock.connect(("127.0.0.1", 80))
        guest.close()
        assert guest.take(socket.AF_INET) is None
        guest.close()
        assert sorted(os.listdir("/proc/self/fd")) == before
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("kind", ["thread", "child"])
def test_no_way_there(kind: str) -> None:
    with open(os.devnull) as nowhere:
        ref: NamespaceRef = nowhere.fileno() if kind == "thread" else (nowhere.fileno(), nowhere.fileno())
        with pytest.raises(OSError):
            GuestSockets(ref)
