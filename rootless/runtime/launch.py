"""Forking a container's first process into its namespaces, and hearing from it. Synchronous; process.py awaits.

The caller is root of its user namespace and has one thread. Without joined namespaces the child is cloned into all
its new ones at once. To join namespaces a process in between is needed: it enters them, clones the container's
process with CLONE_PARENT, so that this one is the caller's child, and leaves.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from rootless import syscalls
from rootless.errors import CommandNotFound, CommandNotRunnable, ContainerError, HostError
from rootless.oci.runtime import Linux, NamespaceType
from rootless.runtime import init, messages
from rootless.runtime.idmap import IdMaps
from rootless.runtime.init import Job
from rootless.runtime.messages import Created, Failed, Fault, Forked, Master, Order, Report
from rootless.runtime.plan import CLONE, new_namespaces
from rootless.syscalls import Clone, Prctl

ALL: Final = Clone.NEWUSER | Clone.NEWNS | Clone.NEWPID | Clone.NEWNET | Clone.NEWIPC | Clone.NEWUTS | Clone.NEWCGROUP


class Launched:
    """A container's process, before and after execve. Owns the descriptors until `close`.

    `userns` and `netns` are descriptors of its namespaces, taken while the process could still be looked into;
    None where it shares the caller's. `master` is its terminal's master once `created` was reported.
    """

    def __init__(self, pid: int, pidfd: int, channel: socket.socket, userns: int | None, netns: int | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.userns = userns
        self.netns = netns
        self.master: int | None = None
        self.is_created = False
        self.status: int | None = None

    def __repr__(self) -> str:
        state = "ended" if self.status is not None else "created" if self.is_created else "starting"
        return f"<{type(self).__name__} pid {self.pid} {state}>"

    def take(self, report: tuple[Report, int | None] | None) -> bool:
        """Digest one report while waiting for Created; True once it has come. Raises what Failed says."""
        if report is None:
            raise ContainerError("the container's first process died while it was being made")
        message, fd = report
        if isinstance(message, Master):
            self.master = fd
            return False
        if isinstance(message, Created):
            self.is_created = True
            return True
        if isinstance(message, Failed):
            raise error_of(message)
        raise ContainerError(f"the container's first process said {message!r} out of turn")

    def order_start(self) -> None:
        """Tell the process to execute its command; the next report is end of file, or Failed."""
        messages.order(self.channel, Order.START)

    def take_start(self, report: tuple[Report, int | None] | None) -> None:
        """Digest what follows START. Raises what Failed says."""
        if report is None:
            self.channel.close()
            return
        if isinstance(report[0], Failed):
            raise error_of(report[0])
        raise ContainerError(f"the container's first process said {report[0]!r} out of turn")

    def created_now(self) -> None:
        """Wait, blocking, until the process is complete but for its command."""
        while not self.take(messages.receive(self.channel)):
            pass

    def start_now(self) -> None:
        """Execute the command; blocks until execve succeeded or raises."""
        self.order_start()
        self.take_start(messages.receive(self.channel))

    def reap(self, options: int = 0) -> int | None:
        """The exit code (128+N if a signal N ended it), or None where `options` is WNOHANG and it still runs."""
        if self.status is None:
            found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | options)
            if found is None:
                return None
            self.status = found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status
        return self.status

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended gets none."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Close the descriptors that nobody took over. The process itself goes on."""
        self.channel.close()
        for name in ("pidfd", "userns", "netns", "master"):
            fd = getattr(self, name)
            if fd is not None and fd >= 0:
                os.close(fd)
                setattr(self, name, -1 if name == "pidfd" else None)


def error_of(failed: Failed) -> ContainerError:
    """The error that a message Failed stands for."""
    if failed.fault is Fault.NOT_FOUND:
        return CommandNotFound(failed.why)
    if failed.fault is Fault.NOT_RUNNABLE:
        return CommandNotRunnable(failed.why)
    return ContainerError(f"cannot {failed.step}: {failed.why}", hint=_hint(failed))


def _hint(failed: Failed) -> str | None:
    if failed.step.startswith("mount proc on") and failed.errno in (errno.EPERM, errno.EACCES):
        return "the /proc around is partly hidden, as inside another container; there, ask for an unmasked /proc"
    return None


def spawn(
    job: Job,
    linux: Linux,
    *,
    ids: IdMaps | None,
    container_user: tuple[int, int] = (0, 0),
    before_begin: Callable[[Launched], None] = lambda _: None,
) -> Launched:
    """Make the child and its namespaces, write its maps and let it begin. Raises HostError, ContainerError.

    `ids` are the maps of its user namespace, new or joined; their outer ids are those of the caller's. Pipes among the
    standard streams are given to `container_user`, the ids of the process in the container. `before_begin` is called
    when the namespaces are there and nothing is in them yet.
    """
    kinds = new_namespaces(linux)
    if ids is None:
        kinds &= ~Clone.NEWUSER
    to_write = ids if Clone.NEWUSER in kinds else None
    _give_pipes(job, ids, container_user)
    joined = [(CLONE[entry.type], entry.path) for entry in linux.namespaces if entry.path]
    if joined:
        launched = _spawn_joining(job, kinds, joined, to_write)
    else:
        launched = _clone(kinds, lambda channel: init.run(job, channel))
        _map(launched, to_write)
    try:
        if launched.userns is None and linux.namespace(NamespaceType.USER) is not None:
            launched.userns = _namespace(launched.pid, "user")
        if launched.netns is None and linux.namespace(NamespaceType.NETWORK) is not None:
            launched.netns = _namespace(launched.pid, "net")
    except OSError as error:
        _abandon(launched)
        raise ContainerError("the container's first process died while it was being made") from error
    try:
        before_begin(launched)
    except BaseException:
        _abandon(launched)
        raise
    messages.order(launched.channel, Order.MAPPED)
    return launched


def spawn_exec(
    job: Job, pidfd: int, *, kinds: Clone = ALL, container_user: tuple[int, int], ids: IdMaps | None
) -> Launched:
    """Make a process inside the namespaces of the process `pidfd`, as a child of the caller."""
    _give_pipes(job, ids, container_user)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    held = _block_signals()
    try:
        helper = os.fork()
        if helper == 0:
            _join_and_clone(theirs, job, lambda: syscalls.setns(pidfd, kinds), Clone(0))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    theirs.close()
    launched = _adopt(ours, helper, "join the container")
    messages.order(launched.channel, Order.MAPPED)
    return launched


def _spawn_joining(job: Job, kinds: Clone, joined: list[tuple[Clone, str]], ids: IdMaps | None) -> Launched:
    """As `_clone`, where some namespaces exist already."""
    fds: list[tuple[Clone, int]] = []
    try:
        for kind, path in joined:
            try:
                fds.append((kind, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
            except OSError as error:
                raise ContainerError(f"cannot open the namespace {path}: {error.strerror}") from error

        def join() -> None:
            # The user namespace first gives the capabilities over those that belong to it.
            for kind, fd in sorted(fds, key=lambda pair: pair[0] is not Clone.NEWUSER):
                syscalls.setns(fd, kind)

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        held = _block_signals()
        try:
            helper = os.fork()
            if helper == 0:
                _join_and_clone(theirs, job, join, kinds)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        theirs.close()
        launched = _adopt(ours, helper, "join the namespaces")
        launched.userns = next((os.dup(fd) for kind, fd in fds if kind is Clone.NEWUSER), None)
    finally:
        for _, fd in fds:
            os.close(fd)
    _map(launched, ids)
    return launched


def _join_and_clone(channel: socket.socket, job: Job, join: Callable[[], None], kinds: Clone) -> NoReturn:
    """In the process in between: enter the namespaces, clone, tell the pid, leave.

    Whoever is in those namespaces must not look into this process, so it is hidden from the start; nobody but itself
    can then tell its network namespace, which rides along with the pid. A process with a new user namespace is out of
    the others' reach anyway, and is hidden once its maps are written: until then they must belong to the caller.
    """
    netns: int | None = None
    try:
        if Clone.NEWUSER not in kinds:
            syscalls.prctl(Prctl.SET_DUMPABLE, 0)
        join()
        if kinds and Clone.NEWUSER not in kinds:
            syscalls.unshare(kinds & Clone.NEWNET)
            kinds &= ~Clone.NEWNET
            netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        pid = syscalls.fork_into(kinds | Clone.PARENT)
        if pid == 0:
            init.run(job, channel)
        messages.send(channel, Forked(pid), netns)
        os._exit(0)
    except OSError as error:
        messages.send(channel, Failed(Fault.STEP, "join the namespaces", error.strerror or "", error.errno or 0))
    finally:
        os._exit(1)


def _adopt(channel: socket.socket, helper: int, what: str) -> Launched:
    """Hear from the process in between who the container's process is.

    That one says nothing before MAPPED, so this report comes first.
    """
    report = messages.receive(channel)
    os.waitpid(helper, 0)
    if report is not None and isinstance(report[0], Forked):
        return Launched(report[0].pid, os.pidfd_open(report[0].pid), channel, None, report[1])
    channel.close()
    if report is not None and isinstance(report[0], Failed):
        raise error_of(report[0])
    raise ContainerError(f"cannot {what}: the process in between died")


def _clone(kinds: Clone, child: Callable[[socket.socket], NoReturn]) -> Launched:
    """fork_into, with a channel. Signals wait until the child has its own dispositions."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    held = _block_signals()
    try:
        pid = syscalls.fork_into(kinds)
        if pid == 0:
            child(theirs)
    except OSError as error:
        ours.close()
        raise HostError(f"cannot make the container's namespaces: {error.strerror}", hint=_clone_hint(error)) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    theirs.close()
    return Launched(pid, os.pidfd_open(pid), ours, None, None)


def _clone_hint(error: OSError) -> str | None:
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        return "a limit in /proc/sys/user (max_user_namespaces and its neighbours) is reached; ask for a larger one"
    if error.errno == errno.EPERM:
        return "see sysctl kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"
    return None


def _block_signals() -> Iterable[int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _map(launched: Launched, ids: IdMaps | None) -> None:
    if ids is None:
        return
    for name, content in (("gid_map", ids.gids.to_bytes()), ("uid_map", ids.uids.to_bytes())):
        try:
            fd = os.open(f"/proc/{launched.pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, content)
            finally:
                os.close(fd)
        except OSError as error:
            _abandon(launched)
            lines = content.decode().replace("\n", ", ").rstrip(", ")
            raise ContainerError(f"cannot write the container's {name} ({lines}): {error.strerror}") from error


def _abandon(launched: Launched) -> None:
    launched.signal(signal.SIGKILL)
    launched.reap()
    launched.close()


def _namespace(pid: int, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


def _give_pipes(job: Job, ids: IdMaps | None, user: tuple[int, int]) -> None:
    """Make the container's user the owner of its pipes, so that it can open /dev/stdout again."""
    uid = user[0] if ids is None else ids.uids.outside(user[0])
    gid = user[1] if ids is None else ids.gids.outside(user[1])
    if uid is None or gid is None:
        return
    for fd in job.stdio:
        if fd is None:
            continue
        found = os.fstat(fd)
        if stat.S_ISFIFO(found.st_mode) and found.st_uid != uid:
            try:
                os.fchown(fd, uid, gid)
            except PermissionError:
                continue  # somebody else's pipe
