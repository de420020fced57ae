"""A TAP device in another network namespace, opened and configured from here.

The device must be made by a thread that is in its namespace. Going there needs power over it, which the owner of a user
namespace has over all below; coming back would need power over the namespace one came from, which it has not. So a
short-lived thread goes and ends there; the descriptor, which belongs to the process, stays. Where the namespace's user
namespace has to be joined first, which a process with threads cannot, a short-lived child goes and sends the
descriptor back.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable

from netns import chatter, netlink, syscalls
from netns.errors import NetworkError
from netns.settings import Addresses, Settings
from netns.syscalls import Namespace
from netns.wire.ethernet import parse_mac

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_SIOCGIFHWADDR = 0x8927
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08  # TUN_F_CSUM, TSO4, TSO6, TSO_ECN
_DATAGRAM_OFFLOADS = 0x20 | 0x40  # TUN_F_USO4, USO6; since Linux 6.2
_LOOPBACK = 1  # index of lo in every network namespace

# A pidfd or a network namespace's descriptor; or those of a user namespace and of a network namespace in it
NamespaceRef = int | tuple[int, int]


def open_tap(namespace: NamespaceRef, settings: Settings, *, configure: bool = True) -> int:
    """A descriptor, non-blocking, of the new TAP in `namespace`, with its link, addresses and routes set up.

    Without `configure` only the device is made. Raises NetworkError.
    """
    return _inside(
        namespace, lambda: _create(settings, configure), f"create the network interface {settings.interface}"
    )


def loopback_up(namespace: NamespaceRef) -> None:
    """Set up `lo` in `namespace` and nothing else. Raises NetworkError."""

    def set_up() -> int:
        netlink.configure([netlink.link_up(_LOOPBACK)], [])
        return -1

    _inside(namespace, set_up, "set up the loopback interface")


def hardware_address(tap_fd: int) -> bytes:
    """The MAC address of the device behind `tap_fd`, whatever namespace it is in."""
    answer = fcntl.ioctl(tap_fd, _SIOCGIFHWADDR, bytes(40))
    return answer[18:24]


def _create(settings: Settings, configure: bool) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", settings.interface.encode(), flags))
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS | _DATAGRAM_OFFLOADS)
        except OSError:  # an older kernel cuts datagrams itself
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
        if configure:
            chatter.drop(fd)
            _configure(socket.if_nametoindex(settings.interface), settings, settings.addresses())
    except BaseException:
        os.close(fd)
        raise
    return fd


def _configure(index: int, settings: Settings, addresses: Addresses) -> None:
    mac = parse_mac(settings.mac) if settings.mac is not None else None
    messages = [
        netlink.link_up(_LOOPBACK),
        netlink.link_up(index, mtu=settings.mtu, mac=mac),
        netlink.add_address(index, addresses.guest, addresses.prefix, addresses.broadcast),
        netlink.add_default_route(index, addresses.gateway),
    ]
    optional: list[bytes] = []
    if addresses.guest6 is not None and addresses.gateway6 is not None:
        optional.append(netlink.add_address(index, addresses.guest6, addresses.prefix6))
        optional.append(netlink.add_default_route(index, addresses.gateway6))
    netlink.configure(messages, optional)


def _inside(namespace: NamespaceRef, work: Callable[[], int], what: str) -> int:
    try:
        if isinstance(namespace, int):
            return _in_thread(namespace, work)
        return _in_child(*namespace, work)
    except FileNotFoundError:
        raise NetworkError(f"cannot {what}: there is no /dev/net/tun", hint="ask for the kernel module tun") from None
    except OSError as error:
        hint = None
        if isinstance(error, PermissionError):
            hint = "/dev/net/tun must be readable and writable for you (mode 0666) and the namespace your own"
        raise NetworkError(f"cannot {what}: {error.strerror or error}", hint=hint) from None


def _in_thread(namespace: int, work: Callable[[], int]) -> int:
    result: list[int] = []
    failure: list[OSError] = []

    def run() -> None:
        try:
            syscalls.setns(namespace, Namespace.NET)
            result.append(work())
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _in_child(user_namespace: int, namespace: int, work: Callable[[], int]) -> int:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                syscalls.setns(user_namespace, Namespace.USER)
                syscalls.setns(namespace, Namespace.NET)
                fd = work()
                socket.send_fds(there, [b"\0" * 4], [fd] if fd >= 0 else [])
                status = 0
            except OSError as error:
                there.send(struct.pack("=i", error.errno or 5))
            finally:
                os._exit(status)
        there.close()
        message, fds, _, _ = socket.recv_fds(here, 4, 1)
        os.waitpid(pid, 0)
    code = struct.unpack("=i", message)[0] if len(message) == 4 else 5
    if code:
        raise OSError(code, os.strerror(code))
    if not fds:
        return -1
    os.set_inheritable(fds[0], False)
    return fds[0]
