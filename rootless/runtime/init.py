"""The container's first process, from the clone to execve: executes a plan and names the step that failed.

This runs in a fork of a process with an event loop and never returns into it: `run` ends with execve or _exit. It is
synchronous, single-threaded and silent; what it has to say goes over the channel (messages.py).
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from rootless import syscalls
from rootless.runtime import command, filesystem, hooks, messages, reaper, steps, terminal
from rootless.runtime.context import Context, Refused
from rootless.runtime.messages import Fault, Order
from rootless.runtime.rootdir import RootDir
from rootless.runtime.steps import Plan, Step
from rootless.syscalls import Prctl, Resolve, TreeFlag

_OF_FD: Final = TreeFlag.CLONE | TreeFlag.EMPTY_PATH
_FAILED: Final = 125
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


class Job(msgspec.Struct, frozen=True):
    """What the child is given: the plan, and the descriptors it keeps. None in `stdio` is /dev/null.

    `gate` is a listening socket for a supervisor that leaves before START: who connects to it takes its place.
    """

    plan: Plan
    stdio: tuple[int | None, int | None, int | None]
    keep_fds: tuple[int, ...] = ()
    state: bytes = b""
    gate: int | None = None


def run(job: Job, channel: socket.socket) -> NoReturn:
    """Execute the job, once the supervisor has sent MAPPED. Called right after the fork."""
    code = _FAILED
    try:
        gc.disable()
        reset_signals()
        os.umask(0o022)
        channel = arrange_descriptors(job, channel)
        if not messages.await_order(channel, Order.MAPPED):
            os._exit(_FAILED)
        # From here on, no process of the container may look into the interpreter.
        syscalls.prctl(Prctl.SET_DUMPABLE, 0)
        _execute(job, channel)
    except BaseException as error:  # noqa: BLE001  the child must not unwind into its parent's frames
        _report(channel, "start the container", error)
    finally:
        os._exit(code)


def reset_signals() -> None:
    """Default dispositions and an empty mask: execve would keep ignored signals and the mask."""
    signal.set_wakeup_fd(-1)
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def arrange_descriptors(job: Job, channel: socket.socket) -> socket.socket:
    """0, 1, 2 are the standard streams, 3... those to keep, then the channel and the gate; all others are closed."""

    kept = 3 + len(job.keep_fds)
    sources = [*job.stdio, *job.keep_fds]
    if None in sources:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        sources = [null if fd is None else fd for fd in sources]
    gate = -1 if job.gate is None else fcntl.fcntl(job.gate, fcntl.F_DUPFD_CLOEXEC, kept + 2)
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, kept + 2) for fd in sources if fd is not None]
    own = fcntl.fcntl(channel.fileno(), fcntl.F_DUPFD_CLOEXEC, kept + 2)
    for number, fd in enumerate(above):
        os.dup2(fd, number)
    os.dup2(own, kept, inheritable=False)
    if gate >= 0:
        os.dup2(gate, kept + 1, inheritable=False)
    syscalls.close_range(kept + 1 + (gate >= 0))
    channel.detach()
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=kept)


def _execute(job: Job, channel: socket.socket) -> None:
    context = Context(channel, job.state)
    for step in job.plan.create:
        _run_step(context, step)
    messages.send(channel, messages.Created())
    if job.gate is not None:
        context.channel = channel = _pass_gate(channel)
    if not messages.await_order(channel, Order.START):
        os._exit(_FAILED)
    for step in job.plan.start:
        _run_step(context, step)


def _pass_gate(channel: socket.socket) -> socket.socket:
    """The channel to whoever comes to start the container."""
    with socket.socket(fileno=channel.fileno() + 1) as gate:
        opened, _ = gate.accept()
    channel.close()
    return opened


def _run_step(context: Context, step: Step) -> None:
    try:
        _RUN[type(step)](context, step)
    except Exception as error:  # noqa: BLE001  whatever it was, it is reported with the step's name
        _report(context.channel, str(step), error)
        os._exit(_FAILED)


def _report(channel: socket.socket, step: str, error: BaseException) -> None:
    if isinstance(error, Refused):
        failed = messages.Failed(error.fault, step, error.why, error.number)
    elif isinstance(error, OSError):
        failed = messages.Failed(Fault.STEP, step, error.strerror or str(error), error.errno or 0)
    else:
        failed = messages.Failed(Fault.STEP, step, f"{type(error).__name__}: {error}"[:1000])
    messages.send(channel, failed)


def _sysctl(_: Context, step: steps.Sysctl) -> None:
    # A dotted name may hold slashes, which then stand for dots (sysctl.d(5)).
    path = step.key if "/" in step.key else step.key.replace(".", "/")
    proc = os.open("/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = syscalls.openat2(proc, path, os.O_WRONLY, resolve=Resolve.BENEATH | Resolve.NO_SYMLINKS)
    os.write(fd, step.value.encode())
    os.close(fd)
    os.close(proc)


def _names(_: Context, step: steps.Names) -> None:
    if step.host is not None:
        syscalls.sethostname(step.host)
    if step.domain is not None:
        syscalls.setdomainname(step.domain)


def _loopback(_: Context, __: steps.Loopback) -> None:
    """netdevice(7). struct ifreq is a name of 16 bytes and, here, flags."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def _keyring(_: Context, __: steps.Keyring) -> None:
    try:
        syscalls.join_session_keyring()
    except OSError as error:
        # EDQUOT: the user's key quota is used up. The keyring of the engine, which is not the login's, stays then.
        if error.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise


def _session(_: Context, __: steps.Session) -> None:
    os.setsid()


def _terminal(context: Context, step: steps.Terminal) -> None:
    root = context.root if context.root.fd >= 0 else RootDir.at("/")
    master, slave = terminal.open_pair(root, step.ptmx)
    messages.send(context.channel, messages.Master(), master)
    os.close(master)
    terminal.take_over(slave, step.size)
    if step.console is not None:
        tree = syscalls.open_tree(slave, b"", _OF_FD)
        target = root.file(step.console, 0o666)
        syscalls.move_mount(tree, target)
        os.close(target)
        os.close(tree)
    os.close(slave)


def _run_hook(context: Context, step: steps.RunHook) -> None:
    hooks.execute(step.hook, context.state)


def _unshare(_: Context, step: steps.Unshare) -> None:
    syscalls.unshare(step.kinds)


def _limits(_: Context, step: steps.Limits) -> None:
    for one in step.limits:
        kind = getattr(resource, one.type, None)
        if not isinstance(kind, int):
            raise OSError(errno.EINVAL, f"there is no resource limit {one.type}")
        try:
            resource.setrlimit(kind, (_limit(one.soft), _limit(one.hard)))
        except ValueError:  # for Python the answer EPERM is a bad value
            hard = resource.getrlimit(kind)[1]
            text = f"{one.type} cannot be raised above {hard}, the hard limit of whoever started the container"
            raise OSError(errno.EPERM, text) from None


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= 2**63 else value


def _oom_score(_: Context, step: steps.OomScore) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(step.value))


def _bounding_set(_: Context, step: steps.BoundingSet) -> None:
    for number in step.drop:
        syscalls.prctl(Prctl.CAPBSET_DROP, number)


def _become(_: Context, step: steps.Become) -> None:
    syscalls.prctl(Prctl.SET_KEEPCAPS, 1)
    if step.set_groups:
        os.setgroups(step.groups)
    os.setresgid(step.gid, step.gid, step.gid)
    os.setresuid(step.uid, step.uid, step.uid)
    syscalls.capset(effective=step.effective, permitted=step.permitted, inheritable=step.inheritable)
    syscalls.prctl(Prctl.SET_KEEPCAPS, 0)
    syscalls.prctl(Prctl.SET_DUMPABLE, 0)
    os.umask(step.umask if step.umask is not None else 0o022)


def _directory(context: Context, step: steps.Directory) -> None:
    try:
        os.chdir(step.path)
    except FileNotFoundError:
        if not step.make:
            raise
        os.makedirs(step.path, 0o755, exist_ok=True)
        os.chdir(step.path)
    except (NotADirectoryError, PermissionError) as error:
        why = f"cannot {step}: {error.strerror}"
        raise Refused(Fault.NOT_RUNNABLE, why, error.errno or 0) from error
    # CVE-2024-21626: a directory that is not below the new root must not become the working directory.
    if not os.getcwd().startswith("/"):
        raise OSError(errno.ENOENT, "it is outside of the container", step.path)


def _set_capabilities(_: Context, step: steps.SetCapabilities) -> None:
    syscalls.capset(effective=step.effective, permitted=step.permitted, inheritable=step.inheritable)
    syscalls.prctl(Prctl.CAP_AMBIENT, Prctl.CAP_AMBIENT_CLEAR_ALL)
    for number in step.ambient:
        syscalls.prctl(Prctl.CAP_AMBIENT, Prctl.CAP_AMBIENT_RAISE, number)


def _no_new_privileges(_: Context, __: steps.NoNewPrivileges) -> None:
    syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)


def _die_with_parent(_: Context, __: steps.DieWithParent) -> None:
    syscalls.prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)


def _filter(_: Context, step: steps.Filter) -> None:
    syscalls.seccomp_filter(step.program.code, step.program.flags)


def _reaper(context: Context, _: steps.Reaper) -> None:
    reaper.block_signals()
    pid = os.fork()
    if pid:
        context.channel.close()
        reaper.run(pid)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


_RUN: Final[dict[type[Step], Callable[[Context, Any], None]]] = {
    **filesystem.RUN,
    steps.Sysctl: _sysctl,
    steps.Names: _names,
    steps.Loopback: _loopback,
    steps.Keyring: _keyring,
    steps.Session: _session,
    steps.Terminal: _terminal,
    steps.RunHook: _run_hook,
    steps.Unshare: _unshare,
    steps.Limits: _limits,
    steps.OomScore: _oom_score,
    steps.BoundingSet: _bounding_set,
    steps.Become: _become,
    steps.Directory: _directory,
    steps.SetCapabilities: _set_capabilities,
    steps.NoNewPrivileges: _no_new_privileges,
    steps.DieWithParent: _die_with_parent,
    steps.Filter: _filter,
    steps.Reaper: _reaper,
    steps.LookUp: command.look_up,
    steps.Execute: command.execute,
}
