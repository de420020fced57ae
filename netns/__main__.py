"""`python -m netns`: a stand-in for slirp4netns(1), with its options, ready and exit descriptors and API socket."""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence

from netns import sandbox, seccomp, syscalls
from netns.api import ApiSocket
from netns.driver import Driver
from netns.errors import NetworkError
from netns.guestsockets import GuestSockets
from netns.process import Settings, build, open_tap
from netns.sockets import is_interface, try_outbound
from netns.splice import Splicer
from netns.syscalls import Namespace
from netns.tap import NamespaceRef

_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)

# The version is of slirp4netns, whose options and API these are; programs look for the second word of the first line
# and for the level of libslirp's configuration, which tells them that IPv6 can be turned on.
_VERSION = """\
slirp4netns version 1.2.1
commit: rcontain-slirp
libslirp: none
SLIRP_CONFIG_VERSION_MAX: 4
libseccomp: none
"""


class _Version(argparse.Action):
    """-v: print the lines that slirp4netns prints, unwrapped."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        print(_VERSION, end="")
        parser.exit()


class _Deprecated(argparse.Action):
    """An old name of a switch: it works, and says what is to be written instead."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        print(f"rcontain-slirp: {option_string} is deprecated; use {self.const}", file=sys.stderr)
        setattr(namespace, self.dest, True)


class _Complaints:
    """What the network has to say goes to stderr."""

    def note(self, sentence: str) -> None:
        try:
            print(f"rcontain-slirp: {sentence}", file=sys.stderr, flush=True)
        except OSError:
            return  # nobody reads: it was only a note


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rcontain-slirp", description="User-mode networking for unprivileged network namespaces."
    )
    parser.add_argument("target", metavar="PID|PATH|FD", help="whose network namespace")
    parser.add_argument("tap", metavar="TAPNAME", nargs="?", default="tap0", help="the interface to make there")
    parser.add_argument("-c", "--configure", action="store_true", help="bring up the interface")
    parser.add_argument("-e", "--exit-fd", type=int, metavar="FD", help="leave when this descriptor is closed")
    parser.add_argument("-r", "--ready-fd", type=int, metavar="FD", help="write 1 here when the network is configured")
    parser.add_argument("-m", "--mtu", type=int, default=65520, help="default 65520, max 65521")
    parser.add_argument("-6", "--enable-ipv6", action="store_true", help="enable IPv6")
    parser.add_argument("-a", "--api-socket", metavar="PATH", help="serve slirp4netns's API there")
    parser.add_argument("--cidr", default="10.0.2.0/24", help="network of the interface (default 10.0.2.0/24)")
    parser.add_argument("--disable-host-loopback", action="store_true", help="the gateway is not the host's 127.0.0.1")
    parser.add_argument("--netns-type", choices=("pid", "path", "tapfd"), default="pid", help="what the target is")
    parser.add_argument("--userns-path", metavar="PATH", help="the user namespace to enter first")
    parser.add_argument("--enable-sandbox", action="store_true", help="open only what names of servers are read from")
    parser.add_argument("--enable-seccomp", action="store_true", help="deny system calls that a network never needs")
    parser.add_argument("--outbound-addr", metavar="IPv4|IF", help="the host address, or interface, to send from")
    parser.add_argument("--outbound-addr6", metavar="IPv6|IF", help="the host address, or interface, to send from")
    parser.add_argument("--disable-dns", action="store_true", help="no name server at .3")
    parser.add_argument("--macaddress", metavar="MAC", help="of the interface; only with -c")
    parser.add_argument("--target-type", choices=("netns",), default="netns", help="only netns is offered")
    parser.add_argument(
        "--egress", action="append", default=[], metavar="RULE", help="what may be reached (repeatable)"
    )
    parser.add_argument("--pcap", metavar="FILE", help="write all traffic there, for debugging")
    for old, new in (
        ("--no-host-loopback", "--disable-host-loopback"),
        ("--create-sandbox", "--enable-sandbox"),
    ):
        dest = new.removeprefix("--").replace("-", "_")
        parser.add_argument(
            old, action=_Deprecated, nargs=0, dest=dest, const=new, default=False, help=argparse.SUPPRESS
        )
    parser.add_argument("-v", "--version", action=_Version, nargs=0, help="show version and exit")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the exit descriptor closes, the device is deleted or a signal comes. Returns the exit status."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    if options.macaddress is not None and not options.configure:
        parser.error("--macaddress needs --configure")
    try:
        _run(options)
    except NetworkError as error:
        print(f"rcontain-slirp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    settings = Settings(
        mtu=options.mtu,
        cidr=options.cidr,
        ipv6=options.enable_ipv6,
        disable_host_loopback=options.disable_host_loopback,
        disable_dns=options.disable_dns,
        interface=options.tap,
        mac=options.macaddress,
        outbound=options.outbound_addr,
        outbound6=options.outbound_addr6,
        egress=tuple(options.egress),
        pcap=options.pcap,
    )
    _check_descriptors(options)
    for outbound, family in ((settings.outbound, socket.AF_INET), (settings.outbound6, socket.AF_INET6)):
        _check_outbound(outbound, family)
    tap_fd, guest = _enter(options, settings)
    driver = build(tap_fd, settings, (), control=lambda driver: _Complaints(), advertise=not options.configure)
    splicer = Splicer(driver, guest, settings.addresses()) if guest is not None else None
    wake, wake_write = socket.socketpair()
    _stop_on_signals(driver, wake, wake_write)
    if options.exit_fd is not None:
        _watch_exit(driver, options.exit_fd)
    api = ApiSocket(driver, options.api_socket, settings, splicer) if options.api_socket is not None else None
    try:
        syscalls.set_no_new_privs()
        syscalls.drop_capabilities(keep=syscalls.CAP_NET_BIND_SERVICE)  # for the ports that the API is asked for
        _confine(options, driver)
        if options.ready_fd is not None:
            try:
                os.write(options.ready_fd, b"1")
            except OSError as error:
                raise NetworkError(f"cannot write to --ready-fd={options.ready_fd}: {error.strerror}") from None
            os.close(options.ready_fd)
        driver.run()
    finally:
        if api is not None:
            api.close()
        if splicer is not None:
            splicer.close()
        driver.close()
        if driver.capture is not None:
            driver.capture.close()
        signal.set_wakeup_fd(-1)
        wake.close()
        wake_write.close()


def _check_descriptors(options: argparse.Namespace) -> None:
    for name, fd in (("--ready-fd", options.ready_fd), ("--exit-fd", options.exit_fd)):
        if fd is None:
            continue
        try:
            os.fstat(fd)
        except (OSError, OverflowError):
            raise NetworkError(f"{name}={fd} names no open descriptor", hint="whoever starts this opens it") from None


def _check_outbound(outbound: str | None, family: int) -> None:
    if outbound is None:
        return
    try:
        try_outbound(outbound, family)
    except OSError as error:
        if is_interface(outbound):
            raise NetworkError(f"cannot send from {outbound}: there is no such interface") from None
        raise NetworkError(f"cannot send from {outbound}: {error.strerror}", hint="see: ip address") from None


def _confine(options: argparse.Namespace, driver: Driver) -> None:
    """Give up what the options say; a kernel that cannot do that is noted, since the network works without."""
    if options.enable_sandbox:
        sockets = [] if options.api_socket is None else [os.path.dirname(os.path.abspath(options.api_socket))]
        try:
            sandbox.enter(sockets)
        except OSError as error:
            driver.note(f"cannot enter the sandbox (the kernel must have Landlock): {error.strerror}")
    if options.enable_seccomp:
        program = seccomp.program(os.uname().machine)
        try:
            if program is None:
                driver.note(f"no system calls are denied: those of {os.uname().machine} are not known")
            else:
                syscalls.seccomp_filter(program)
        except OSError as error:
            driver.note(f"cannot deny system calls (the kernel must have seccomp): {error.strerror}")


def _enter(options: argparse.Namespace, settings: Settings) -> tuple[int, GuestSockets | None]:
    """The TAP, and a way to sockets in the guest if ports can be published."""
    if options.netns_type == "tapfd":
        raise NetworkError("cannot use the TAP of another program: it has no virtio header")
    try:
        namespace = _namespace(options)
        tap_fd = open_tap(namespace, settings, configure=options.configure)
        return tap_fd, GuestSockets(namespace) if options.api_socket is not None else None
    except OSError as error:
        raise NetworkError(f"cannot open the namespace of {options.target}: {error.strerror}") from None


def _namespace(options: argparse.Namespace) -> NamespaceRef:
    user: str | None = options.userns_path
    if options.netns_type == "path":
        path = options.target
    elif options.target.isdigit():
        path = f"/proc/{options.target}/ns/net"
        user = user or f"/proc/{options.target}/ns/user"
    else:
        raise NetworkError(f"{options.target!r} is not a process id", hint="name a path with --netns-type=path")
    network = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = fcntl.ioctl(network, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != Namespace.NET:
        raise NetworkError(f"{path} is not a network namespace", hint="name one such as /proc/PID/ns/net")
    if user is None or _same(user, "/proc/self/ns/user"):
        return network
    return os.open(user, os.O_RDONLY | os.O_CLOEXEC), network


def _same(one: str, other: str) -> bool:
    a, b = os.stat(one), os.stat(other)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def _stop_on_signals(driver: Driver, wake: socket.socket, wake_write: socket.socket) -> None:
    """Leave in good order on SIGTERM; a handler alone would not end the wait for events."""
    wake_write.setblocking(False)
    signal.set_wakeup_fd(wake_write.fileno())
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    driver.watch(wake, select.EPOLLIN, lambda mask: driver.stop())


def _watch_exit(driver: Driver, fd: int) -> None:
    """Stop when the other end of `fd` closes, as slirp4netns does: on a hang-up or an error."""
    try:
        driver.watch_fd(fd, select.EPOLLHUP, lambda mask: driver.stop())
    except OSError as error:
        raise NetworkError(
            f"cannot wait for the end of --exit-fd={fd}: {error.strerror}", hint="it must be a pipe or a socket"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
