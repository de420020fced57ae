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
import stat
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from rootless import syscalls
from rootless.runtime import attributes, hooks, messages, reaper, steps, terminal, tmpfs
from rootless.runtime.messages import Fault, Order
from rootless.runtime.rootdir import RootDir
from rootless.runtime.steps import Plan, Step
from rootless.syscalls import CloseRange, MountAttr, MountFlag, Prctl, Resolve, TreeFlag, UmountFlag

AT_FDCWD: Final = -100
_CLONE: Final = TreeFlag.CLONE
_OF_FD: Final = TreeFlag.CLONE | TreeFlag.EMPTY_PATH
_FAILED: Final = 125


def _own_program() -> tuple[int, int]:
    found = os.stat("/proc/self/exe")
    return found.st_dev, found.st_ino


_OWN_PROGRAM: Final = _own_program()


class Job(msgspec.Struct, frozen=True):
    """What the child is given: the plan, and the descriptors it keeps. None in `stdio` is /dev/null.

    `gate` is a listening socket for a supervisor that leaves before START: who connects to it takes its place.
    """

    plan: Plan
    stdio: tuple[int | None, int | None, int | None]
    keep_fds: tuple[int, ...] = ()
    state: bytes = b""
    gate: int | None = None


class _Refused(Exception):
    """The command cannot be executed: what `Failed` will say."""

    def __init__(self, fault: Fault, why: str, number: int) -> None:
        super().__init__(why)
        self.fault, self.why, self.number = fault, why, number


class _Context:
    """What steps hand to later ones."""

    __slots__ = ("channel", "empty", "executable", "first_closed", "root", "state", "trees")

    def __init__(self, channel: socket.socket, state: bytes) -> None:
        self.channel = channel
        self.first_closed = channel.fileno()
        self.state = state
        self.trees: dict[int, int] = {}
        self.root = RootDir(-1)
        self.empty = -1
        self.executable = ""


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
    context = _Context(channel, job.state)
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


def _run_step(context: _Context, step: Step) -> None:
    try:
        _RUN[type(step)](context, step)
    except Exception as error:  # noqa: BLE001  whatever it was, it is reported with the step's name
        _report(context.channel, str(step), error)
        os._exit(_FAILED)


def _report(channel: socket.socket, step: str, error: BaseException) -> None:
    if isinstance(error, _Refused):
        failed = messages.Failed(error.fault, step, error.why, error.number)
    elif isinstance(error, OSError):
        failed = messages.Failed(Fault.STEP, step, error.strerror or str(error), error.errno or 0)
    else:
        failed = messages.Failed(Fault.STEP, step, f"{type(error).__name__}: {error}"[:1000])
    messages.send(channel, failed)


# --- mounts


def _propagation(_: _Context, step: steps.Propagation) -> None:
    syscalls.mount(None, "/", None, step.flags)


def _take_tree(context: _Context, step: steps.TakeTree) -> None:
    flags = _CLONE | TreeFlag.RECURSIVE if step.recursive else _CLONE
    try:
        context.trees[step.slot] = syscalls.open_tree(AT_FDCWD, step.path, flags)
    except FileNotFoundError:
        if not step.optional:
            raise


def _become_root(_: _Context, __: steps.BecomeRoot) -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.prctl(Prctl.SET_DUMPABLE, 0)  # a change of ids sets it to fs.suid_dumpable


def _attach_root(context: _Context, step: steps.AttachRoot) -> None:
    tree = context.trees[step.slot]
    over = os.open(step.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.move_mount(tree, over)
    os.close(over)
    context.root = RootDir(tree)


def _mount_filesystem(context: _Context, step: steps.MountFilesystem) -> None:
    fd = context.root.directory(step.target)
    try:
        syscalls.mount(step.source, b"/proc/self/fd/%d" % fd, step.fstype, step.flags, step.data or None)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENODEV, errno.EBUSY):
            raise
        if step.fallback is not None and not step.optional:
            _bind_instead(step, fd)
        elif not step.optional:
            raise
    else:
        if step.copy_up:
            mounted = context.root.open(step.target, os.O_RDONLY | os.O_DIRECTORY)
            tmpfs.copy_up(fd, mounted)
            os.close(mounted)
    finally:
        os.close(fd)


def _bind_instead(step: steps.MountFilesystem, target: int) -> None:
    assert step.fallback is not None
    tree = syscalls.open_tree(AT_FDCWD, step.fallback, _CLONE | TreeFlag.RECURSIVE)
    syscalls.move_mount(tree, target)
    if step.flags & MountFlag.RDONLY:
        attributes.change(tree, set_=MountAttr.RDONLY, recursive=True)
    os.close(tree)


def _attach_tree(context: _Context, step: steps.AttachTree) -> None:
    tree = context.trees.pop(step.slot, -1)
    if tree < 0:
        return
    make = context.root.directory if stat.S_ISDIR(os.fstat(tree).st_mode) else context.root.file
    target = make(step.target)
    syscalls.move_mount(tree, target)
    os.close(target)
    for flags in step.propagation:
        attributes.propagate(tree, flags)
    if step.set_ or step.clear:
        attributes.change(tree, set_=step.set_, clear=step.clear)
    if step.set_recursive or step.clear_recursive:
        attributes.change(tree, set_=step.set_recursive, clear=step.clear_recursive, recursive=True)
    os.close(tree)


def _devices(context: _Context, step: steps.Devices) -> None:
    directory = context.root.directory("dev")
    try:
        for path, slot in step.nodes:
            _attach_node(context, path, slot)
        for path, target in step.links:
            try:
                os.symlink(target, path.removeprefix("dev/"), dir_fd=directory)
            except FileExistsError:
                continue
    finally:
        os.close(directory)


def _attach_node(context: _Context, path: str, slot: int) -> None:
    tree = syscalls.open_tree(context.trees[slot], b"", _OF_FD)
    target = context.root.file(path, 0o666)
    syscalls.move_mount(tree, target)
    os.close(target)
    os.close(tree)


def _device(context: _Context, step: steps.Device) -> None:
    _attach_node(context, step.path, step.slot)


def _mask(context: _Context, step: steps.Mask) -> None:
    target = context.root.find(step.path)
    if target is None:
        return
    if not stat.S_ISDIR(os.fstat(target).st_mode):
        tree = syscalls.open_tree(context.trees[step.null_slot], b"", _OF_FD)
        syscalls.move_mount(tree, target)
        os.close(tree)
    elif context.empty < 0:
        flags = MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
        syscalls.mount("tmpfs", b"/proc/self/fd/%d" % target, "tmpfs", flags, "size=0k,nr_inodes=2")
        context.empty = context.root.open(step.path)
    else:
        tree = syscalls.open_tree(context.empty, b"", _OF_FD)
        syscalls.move_mount(tree, target)
        os.close(tree)
    os.close(target)


def _read_only(context: _Context, step: steps.ReadOnly) -> None:
    target = context.root.find(step.path)
    if target is None:
        return
    tree = syscalls.open_tree(target, b"", _OF_FD | TreeFlag.RECURSIVE)
    syscalls.move_mount(tree, target)
    attributes.change(tree, set_=MountAttr.RDONLY, recursive=True)
    os.close(tree)
    os.close(target)


def _restrict_root(context: _Context, _: steps.RestrictRoot) -> None:
    attributes.change(context.root.fd, set_=MountAttr.RDONLY)


def _pivot(context: _Context, step: steps.Pivot) -> None:
    os.fchdir(context.root.fd)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", UmountFlag.DETACH)
    os.chdir("/")
    if step.propagation:
        syscalls.mount(None, "/", None, step.propagation)


# --- the rest of the container


def _sysctl(_: _Context, step: steps.Sysctl) -> None:
    # A dotted name may hold slashes, which then stand for dots (sysctl.d(5)).
    path = step.key if "/" in step.key else step.key.replace(".", "/")
    proc = os.open("/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = syscalls.openat2(proc, path, os.O_WRONLY, resolve=Resolve.BENEATH | Resolve.NO_SYMLINKS)
    os.write(fd, step.value.encode())
    os.close(fd)
    os.close(proc)


def _names(_: _Context, step: steps.Names) -> None:
    if step.host is not None:
        syscalls.sethostname(step.host)
    if step.domain is not None:
        syscalls.setdomainname(step.domain)


def _keyring(_: _Context, __: steps.Keyring) -> None:
    try:
        syscalls.join_session_keyring()
    except OSError as error:
        # EDQUOT: the user's key quota is used up. The keyring of the engine, which is not the login's, stays then.
        if error.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise


def _session(_: _Context, __: steps.Session) -> None:
    os.setsid()


def _terminal(context: _Context, step: steps.Terminal) -> None:
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


def _run_hook(context: _Context, step: steps.RunHook) -> None:
    hooks.execute(step.hook, context.state)


# --- the process


def _unshare(_: _Context, step: steps.Unshare) -> None:
    syscalls.unshare(step.kinds)


def _limits(_: _Context, step: steps.Limits) -> None:
    for one in step.limits:
        kind = getattr(resource, one.type, None)
        if not isinstance(kind, int):
            raise OSError(errno.EINVAL, f"there is no resource limit {one.type}")
        resource.setrlimit(kind, (_limit(one.soft), _limit(one.hard)))


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value < 0 or value >= 2**63 else value


def _oom_score(_: _Context, step: steps.OomScore) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(step.value))


def _bounding_set(_: _Context, step: steps.BoundingSet) -> None:
    for number in step.drop:
        syscalls.prctl(Prctl.CAPBSET_DROP, number)


def _become(_: _Context, step: steps.Become) -> None:
    syscalls.prctl(Prctl.SET_KEEPCAPS, 1)
    if step.set_groups:
        os.setgroups(step.groups)
    os.setresgid(step.gid, step.gid, step.gid)
    os.setresuid(step.uid, step.uid, step.uid)
    syscalls.capset(effective=step.effective, permitted=step.permitted, inheritable=step.inheritable)
    syscalls.prctl(Prctl.SET_KEEPCAPS, 0)
    syscalls.prctl(Prctl.SET_DUMPABLE, 0)
    os.umask(step.umask if step.umask is not None else 0o022)


def _directory(context: _Context, step: steps.Directory) -> None:
    try:
        os.chdir(step.path)
    except FileNotFoundError:
        if not step.make:
            raise
        os.makedirs(step.path, 0o755, exist_ok=True)
        os.chdir(step.path)
    # CVE-2024-21626: a directory that is not below the new root must not become the working directory.
    if not os.getcwd().startswith("/"):
        raise OSError(errno.ENOENT, "it is outside of the container", step.path)


def _look_up(context: _Context, step: steps.LookUp) -> None:
    if "/" in step.name:
        context.executable = _checked(step.name, step.name)
        return
    refused: _Refused | None = None
    for directory in step.path.split(":"):
        path = f"{directory or '.'}/{step.name}"
        try:
            context.executable = _checked(path, step.name)
            return
        except _Refused as error:
            if error.fault is Fault.NOT_RUNNABLE and refused is None:
                refused = error
    raise refused or _Refused(
        Fault.NOT_FOUND, f"executable file `{step.name}` not found in $PATH: No such file or directory", errno.ENOENT
    )


def _checked(path: str, name: str) -> str:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise _Refused(Fault.NOT_FOUND, f"executable file `{name}` not found: No such file or directory", 2) from None
    except OSError as error:
        raise _Refused(Fault.NOT_RUNNABLE, f"cannot reach `{path}`: {error.strerror}", error.errno or 0) from None
    if (found.st_dev, found.st_ino) == _OWN_PROGRAM:
        raise _Refused(Fault.NOT_RUNNABLE, f"`{path}` is the container engine's own program", errno.EACCES)
    if not stat.S_ISREG(found.st_mode):
        raise _Refused(Fault.NOT_RUNNABLE, f"the path `{path}` is not a regular file: Permission denied", errno.EACCES)
    if not os.access(path, os.X_OK, effective_ids=True):
        raise _Refused(Fault.NOT_RUNNABLE, f"the path `{path}` is not executable: Permission denied", errno.EACCES)
    return path


def _set_capabilities(_: _Context, step: steps.SetCapabilities) -> None:
    syscalls.capset(effective=step.effective, permitted=step.permitted, inheritable=step.inheritable)
    syscalls.prctl(Prctl.CAP_AMBIENT, Prctl.CAP_AMBIENT_CLEAR_ALL)
    for number in step.ambient:
        syscalls.prctl(Prctl.CAP_AMBIENT, Prctl.CAP_AMBIENT_RAISE, number)


def _no_new_privileges(_: _Context, __: steps.NoNewPrivileges) -> None:
    syscalls.prctl(Prctl.SET_NO_NEW_PRIVS, 1)


def _die_with_parent(_: _Context, __: steps.DieWithParent) -> None:
    syscalls.prctl(Prctl.SET_PDEATHSIG, signal.SIGKILL)


def _filter(_: _Context, step: steps.Filter) -> None:
    syscalls.seccomp_filter(step.program.code, step.program.flags)


def _reaper(context: _Context, _: steps.Reaper) -> None:
    reaper.block_signals()
    pid = os.fork()
    if pid:
        context.channel.close()
        reaper.run(pid)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _execute_command(context: _Context, step: steps.Execute) -> None:
    # Past the channel nothing is open that execve would keep; this catches what a step may have left.
    syscalls.close_range(context.first_closed, flags=CloseRange.CLOEXEC)
    try:
        os.execve(context.executable, step.args, _environment(step.env))
    except OSError as error:
        if error.errno == errno.ENOENT:
            why = f"exec `{context.executable}`: its interpreter is missing: No such file or directory"
            raise _Refused(Fault.NOT_FOUND, why, errno.ENOENT) from None
        raise _Refused(Fault.NOT_RUNNABLE, f"exec `{context.executable}`: {error.strerror}", error.errno or 0) from None


def _environment(entries: tuple[str, ...]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in entries)


_RUN: Final[dict[type[Step], Callable[[_Context, Any], None]]] = {
    steps.Propagation: _propagation,
    steps.TakeTree: _take_tree,
    steps.BecomeRoot: _become_root,
    steps.AttachRoot: _attach_root,
    steps.MountFilesystem: _mount_filesystem,
    steps.AttachTree: _attach_tree,
    steps.Devices: _devices,
    steps.Device: _device,
    steps.Mask: _mask,
    steps.ReadOnly: _read_only,
    steps.RestrictRoot: _restrict_root,
    steps.Pivot: _pivot,
    steps.Sysctl: _sysctl,
    steps.Names: _names,
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
    steps.LookUp: _look_up,
    steps.SetCapabilities: _set_capabilities,
    steps.NoNewPrivileges: _no_new_privileges,
    steps.DieWithParent: _die_with_parent,
    steps.Filter: _filter,
    steps.Reaper: _reaper,
    steps.Execute: _execute_command,
}
