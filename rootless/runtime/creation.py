"""Making a container for `rcontain-oci`: from a bundle to a first process that waits for `start`."""

from __future__ import annotations

import argparse
import array
import os
import select
import signal
import socket
import sys
from datetime import UTC, datetime

import msgspec

from rootless.errors import ContainerError, UsageError
from rootless.oci.runtime import Spec, State, Status
from rootless.processes import process_state
from rootless.runtime import bundle, capabilities, facts, hooks, launch, plan, relay
from rootless.runtime.idmap import IdMaps
from rootless.runtime.init import Job
from rootless.runtime.launch import Launched
from rootless.runtime.ledger import Ledger, Record
from rootless.runtime.steps import Plan, Program


def _is_root_here() -> bool:
    """Root with power over this user namespace."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return bool(effective & capabilities.SYS_ADMIN)


def _enter() -> IdMaps:
    """Enter E. Its module loads a library for helper programs, which root of a namespace does not need."""
    from rootless.runtime import userns

    entered = userns.enter()
    if entered.reason is not None:
        print(f"rcontain-oci: only your own id is mapped: {entered.reason}", file=sys.stderr)
    return IdMaps.of_self()


def seccomp_filter(spec: Spec) -> Program | None:
    """The seccomp filter; libseccomp is looked for only where there is one."""
    if spec.linux.seccomp is None:
        return None
    from rootless.runtime import bpf

    return bpf.compiled(spec.linux.seccomp)


def _plan(loaded: bundle.Bundle, spec: Spec, ids: IdMaps | None) -> Plan:
    return plan.compile(
        spec,
        rootfs=loaded.rootfs,
        facts=facts.read(),
        ids=ids,
        seccomp=seccomp_filter(spec),
        die_with_parent=False,
        make_cwd=True,
    )


def kept_descriptors(count: int) -> tuple[int, ...]:
    kept = tuple(range(3, 3 + count))
    for fd in kept:
        try:
            os.fstat(fd)
        except OSError:
            raise UsageError(f"--preserve-fds={count} names the descriptor {fd}, which is not open") from None
    return kept


def create(arguments: argparse.Namespace, book: Ledger) -> None:
    """`create`: everything up to the command, which waits for `start`."""
    make(arguments, book, detached=True).close()


def make(arguments: argparse.Namespace, book: Ledger, *, detached: bool) -> Launched:
    loaded = bundle.load(arguments.bundle)
    process = loaded.spec.process
    assert process is not None
    if detached and process.terminal and not arguments.console_socket:
        raise UsageError("the process wants a terminal, and nobody takes it", hint="give a --console-socket")
    kept = kept_descriptors(arguments.preserve_fds)
    entered = not _is_root_here()
    around = _enter() if entered else IdMaps.of_self()
    spec, ids = bundle.ids_for(loaded.spec, around, entered=entered)
    made = _plan(loaded, spec, ids)
    book.claim(arguments.id, msgspec.json.encode(spec))
    try:
        return _populate(arguments, book, loaded, spec, ids, made, kept)
    except BaseException:
        book.forget(arguments.id)
        raise


def _populate(
    arguments: argparse.Namespace,
    book: Ledger,
    loaded: bundle.Bundle,
    spec: Spec,
    ids: IdMaps | None,
    made: Plan,
    kept: tuple[int, ...],
) -> Launched:
    process = spec.process
    assert process is not None
    user = (process.user.uid, process.user.gid)

    def before_begin(launched: Launched) -> None:
        now = State(
            id=arguments.id, status=Status.CREATING, pid=launched.pid, bundle=loaded.path, annotations=spec.annotations
        )
        hooks.run(spec.hooks.prestart, "prestart", now)
        hooks.run(spec.hooks.create_runtime, "createRuntime", now)

    # The container's pid is not known yet; its hooks see themselves as members of its namespaces.
    inside = State(id=arguments.id, status=Status.CREATED, bundle=loaded.path, annotations=spec.annotations)
    with book.listen(arguments.id) as gate:
        stdio = (None, None, None) if process.terminal else (0, 1, 2)
        job = Job(made, stdio, kept, msgspec.json.encode(inside), gate.fileno())
        launched = launch.spawn(job, spec.linux, ids=ids, container_user=user, before_begin=before_begin)
    try:
        launched.created_now()
        if launched.master is not None and arguments.console_socket:
            hand_over(launched, arguments.console_socket)
        found = process_state(launched.pid)
        if found is None:
            raise ContainerError("the container's first process died while it was being made")
        created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        book.write(Record(arguments.id, launched.pid, found.start_time, loaded.path, loaded.rootfs, created, ids))
        write_pid(arguments.pid_file, launched.pid)
    except BaseException:
        launched.signal(signal.SIGKILL)
        launched.reap()
        launched.close()
        raise
    return launched


def hand_over(launched: Launched, path: str) -> None:
    """Send the terminal's master to the socket that the caller listens at; it is closed here."""
    assert launched.master is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        try:
            console.connect(path)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [launched.master]))]
            console.sendmsg([b"/dev/ptmx"], rights)
        except OSError as error:
            raise UsageError(f"cannot hand the terminal over to {path}: {error.strerror}") from error
    os.close(launched.master)
    launched.master = None


def write_pid(path: str | None, pid: int) -> None:
    if path is None:
        return
    with open(path + ".new", "w") as file:
        file.write(str(pid))
    os.rename(path + ".new", path)


def dry_run(arguments: argparse.Namespace) -> Plan:
    """The plan, made without any privilege: the maps are those that E would have."""
    loaded = bundle.load(arguments.bundle)
    entered = not _is_root_here()
    around = IdMaps.of_self()
    if entered:
        from rootless.runtime import userns

        around, _ = userns.plan_maps(os.geteuid(), os.getegid())
    spec, ids = bundle.ids_for(loaded.spec, around, entered=entered)
    return _plan(loaded, spec, ids)


def forward_signals(launched: Launched) -> None:
    """From here on the signals that this process gets are the container's. Before `start`: it may print at once."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: launched.signal(received))


def _wait_for_the_end(launched: Launched) -> None:
    """Waits so that a signal is handled at once, also one that comes just before the wait: see signal.set_wakeup_fd."""
    woken, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        while launched.pidfd not in select.select([launched.pidfd, woken], [], [])[0]:
            os.read(woken, 4096)
    finally:
        signal.set_wakeup_fd(before)
        os.close(wakeup)
        os.close(woken)


def foreground(launched: Launched) -> int:
    """Forward signals, show the terminal, wait."""
    if launched.master is not None:
        return relay.run(launched)
    _wait_for_the_end(launched)
    code = launched.reap()
    assert code is not None
    return code
